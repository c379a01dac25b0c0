"""Models that this project never trains: each is attacked and evaluated, and left as it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints
from detectron2.utils.events import _CURRENT_STORAGE_STACK
from part_dataset_files import forget_builtin_datasets
from small_detectors import detector_config
from torch import Tensor, nn

from partbox.attacks import AttackError, ThreatModel, attack_mode
from partbox.attacks.detector import GOALS
from partbox.engine.detectors import build_detector, evaluators_of
from partbox.evaluation import DetectorSubject, SegmenterSubject, build_perturbations, evaluate, labelled_test_mapper
from partbox.evaluation.image_evaluator import ImageEvaluator
from partbox.evaluation.outputs import encode_output
from partbox.evaluation.stamp import plain_attributes, weights_digest
from partbox.evaluation.training_losses import TrainingLosses

CLASSES, POINTS = 4, 5


@pytest.fixture(scope="module")
def root(example_root):
    forget_builtin_datasets()
    yield example_root
    forget_builtin_datasets()


def sample(image_id: int, objects: int = 2, size: tuple[int, int] = (61, 47)) -> dict:
    """An image of a size that no stride divides, with every kind of label."""
    generator = torch.Generator().manual_seed(image_id)
    corners = torch.tensor([[5.0, 4.0, 30.0, 28.0], [12.0, 20.0, 40.0, 55.0]])[:objects]
    truth = Instances(size)
    truth.gt_boxes, truth.gt_classes = Boxes(corners), torch.arange(objects) % CLASSES
    inside = torch.zeros(objects, *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(inside, corners.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    truth.gt_masks = BitMasks(inside)
    places = torch.rand(objects, POINTS, 2, generator=generator)
    places = corners[:, None, :2] + places * (corners[:, None, 2:] - corners[:, None, :2])
    truth.gt_keypoints = Keypoints(torch.cat([places, torch.full((objects, POINTS, 1), 2.0)], dim=2))
    return {
        "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
        "image_id": image_id,
        "height": 2 * size[0],
        "width": 2 * size[1],
        "instances": truth,
        "sem_seg": torch.randint(0, 3, size, generator=generator),
    }


OPTIONS = {
    "cascade": ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads", "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"],
    "keypoints": [
        *["MODEL.KEYPOINT_ON", "True", "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", str(POINTS)],
        *["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "[8]"],
    ],
    "panoptic": [
        *["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.MASK_ON", "True"],
        *["MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead"],
        *["MODEL.SEM_SEG_HEAD.NORM", "", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3", "MODEL.SEM_SEG_HEAD.IN_FEATURES"],
        *["['p2', 'p3']", "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "4"],
    ],
    "pictures": ["VIS_PERIOD", "1", "MODEL.MASK_ON", "True"],
    "agnostic masks": ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True"],
}


def build(kind: str, root, *options: str) -> nn.Module:
    common = ["MODEL.ROI_HEADS.NUM_CLASSES", str(CLASSES), "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "16"]
    cfg = detector_config("faster_rcnn", *common, *OPTIONS.get(kind, []), *options, root=root)
    model = build_detector(cfg)
    if kind == "fcos":
        shapes = [ShapeSpec(channels=16)] * 5
        head = FCOSHead(input_shape=shapes, num_classes=CLASSES, conv_dims=[16])
        statistics = {"pixel_mean": [0.0] * 3, "pixel_std": [255.0] * 3}
        model = FCOS(backbone=model.backbone, head=head, num_classes=CLASSES, test_score_thresh=0.0, **statistics)
    return model.eval()


class Kept(ImageEvaluator):
    """Keeps how large an output is on disk."""

    def measure(self, one, output) -> int:
        return len(str(encode_output(output)))

    def combine(self, measurements) -> dict:
        return {"kept": {"bytes": max(measurements)}}


KINDS = ["plain", "fcos", *OPTIONS]


@pytest.mark.parametrize("kind", KINDS)
def test_every_goal_attacks_every_kind_of_detector_and_leaves_it_as_it_was(root, kind):
    model = build(kind, root)
    next(model.parameters()).requires_grad_(False)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before = weights_digest(model), plain_attributes(model), [module.training for module in model.modules()]
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    specs = [{"name": "detector-pgd", "eps": "16/255", "steps": 2, "goal": goal} for goal in GOALS]
    batch = [sample(0), sample(1, 0), sample(2, 1, (40, 70))]  # one without objects, one of another size
    perturbations = build_perturbations([{"name": "noise", "eps": "16/255"}, *specs])
    outcome = evaluate(DetectorSubject(model, CLASSES), [batch], perturbations, [Kept()], progress=False)
    after = weights_digest(model), plain_attributes(model), [module.training for module in model.modules()]
    assert after == before
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert np.array_equal(np.random.get_state()[1], generators[2])
    assert not _CURRENT_STORAGE_STACK
    again = evaluate(DetectorSubject(model, CLASSES), [[one] for one in reversed(batch)], perturbations, progress=False)
    by_id = [{(r.image_id, r.perturbation): (r.loss, r.found) for r in one.records} for one in (outcome, again)]
    assert by_id[0] == by_id[1]
    for goal in GOALS:
        entry = outcome.results["by_perturbation"][f"detector-pgd-2-{goal} linf 16/255"]
        assert entry["zero_gradient_images"] == 0
        assert entry["largest_distance"] == pytest.approx(16 / 255, abs=1e-6)
        left_out = [note for note in entry["notes"] if "unknown kind" in note]
        assert bool(left_out) == (kind == "panoptic" and goal != "all")
    assert outcome.results["by_perturbation"]["clean"]["kept"]["bytes"] < 1e6, "heatmaps of keypoints are not kept"


@pytest.mark.parametrize("kind", KINDS)
def test_each_goal_makes_its_losses_larger_or_smaller(root, kind):
    """Measured on a draw of proposals that the attack has not seen."""
    model = build(kind, root)
    one = sample(5)
    clean = one["image"].float() / 255
    with attack_mode(model), torch.no_grad():
        losses = TrainingLosses(model, one, CLASSES)
        for goal, (targets, _, _) in GOALS.items():
            (attack,) = build_perturbations([{"name": "detector-pgd", "eps": "16/255", "steps": 5, "goal": goal}])[1:]
            with torch.enable_grad():
                found = attack.apply(losses, clean, image_id=5)
            means = [
                sum(float(attack.apply.objective(losses(image, targets, 1000 + draw))) for draw in range(3)) / 3
                for image in (clean, found.image)
            ]
            assert means[1] > means[0], goal


def captured_inputs(model: nn.Module, monkeypatch) -> list[Tensor]:
    """What the backbone is given from now on."""
    seen: list[Tensor] = []
    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x: seen.append(x.detach().clone()) or forward(x))
    return seen


@pytest.mark.parametrize("std", ["[1.0, 1.0, 1.0]", "[57.375, 57.12, 58.395]"])
@pytest.mark.parametrize("channels", ["BGR", "RGB"])
def test_eps_is_one_of_grey_levels_whatever_the_model_divides_by(root, monkeypatch, std, channels):
    """And the image that is evaluated is the one that was found, at the network's size, with nothing in the padding."""
    options = ["MODEL.PIXEL_STD", std, "INPUT.FORMAT", channels, "MODEL.PIXEL_MEAN", "[1.0, 2.0, 3.0]"]
    model = build("plain", root, *options)
    seen = captured_inputs(model, monkeypatch)
    perturbations = build_perturbations([{"name": "detector-pgd", "eps": "8/255", "steps": 2, "goal": "all"}])
    evaluate(DetectorSubject(model, CLASSES), [[sample(0)]], perturbations, progress=False)
    clean, *_, final = seen
    assert clean.shape == final.shape == (1, 3, 64, 64), "padded to the stride"
    moved = (final - clean)[0] * torch.tensor(eval(std))[:, None, None]
    assert float(moved[:, :61, :47].abs().max()) == pytest.approx(8, abs=1e-3)
    assert not bool(moved[:, 61:].any())
    assert not bool(moved[:, :, 47:].any())


class Odd(nn.Module):
    """A meta-architecture of somebody's own: it remembers, caches, changes its targets, and can fail."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("count", torch.zeros(1))
        self.fails, self.memory, self.last, self.steps = fails, torch.zeros(2), None, 0

    def forward(self, batch: list[dict]):
        image = self.norm(batch[0]["image"][None] / 255)
        if not self.training:
            height, width = batch[0]["height"], batch[0]["width"]
            found = Instances((height, width))
            found.pred_boxes, found.scores = Boxes(torch.tensor([[5.0, 4.0, 30.0, 28.0]])), image.mean()[None].sigmoid()
            found.pred_classes = torch.zeros(1, dtype=torch.int64)
            return [{"instances": found}]
        self.steps += 1
        self.memory += 1
        self.last = self.weight * 2
        self.count = self.count + 1
        self.register_buffer("cache", torch.ones(1), persistent=False)
        truth = batch[0]["instances"]
        truth.gt_boxes.scale(0.5, 0.5)
        torch.rand(3), random.random(), np.random.rand()
        if self.fails:
            raise RuntimeError("on purpose")
        size = truth.gt_boxes.tensor.sum() + self.steps
        return {"loss_cls": self.weight * image.mean() * size, "loss_contrast": image.std(), "loss_extra": 3.0}


def test_a_model_that_remembers_and_changes_its_targets_answers_alike_each_time():
    model = Odd().eval()
    given = sample(0)
    before = given["instances"].gt_boxes.tensor.clone()
    with attack_mode(model):
        losses = TrainingLosses(model, given, CLASSES)
        image = given["image"].float() / 255
        found = [float(losses(image, "truth", 0)["loss_cls"]) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert torch.equal(given["instances"].gt_boxes.tensor, before)
    assert (model.steps, model.last, float(model.memory.sum()), float(model.count)) == (0, None, 0, 0)
    assert "cache" not in dict(model.named_buffers())


def test_a_model_that_fails_under_attack_is_left_as_it_was():
    model = Odd(fails=True).train()
    model.weight.requires_grad_(False)
    before = weights_digest(model), plain_attributes(model)
    torch.manual_seed(3), random.seed(3)
    generators = torch.get_rng_state(), random.getstate()
    perturbations = build_perturbations([{"name": "detector-pgd", "eps": "8/255", "steps": 2}])
    with pytest.raises(RuntimeError, match="on purpose"):
        evaluate(DetectorSubject(model, CLASSES), [[sample(0)]], perturbations, progress=False)
    assert (weights_digest(model), plain_attributes(model)) == before
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert all(module.training for module in model.modules())
    assert not model.weight.requires_grad
    assert model.norm.weight.requires_grad
    assert not _CURRENT_STORAGE_STACK


@pytest.mark.parametrize("goal", GOALS)
def test_losses_of_unknown_names_are_told(goal):
    perturbations = build_perturbations([{"name": "detector-pgd", "eps": "8/255", "steps": 2, "goal": goal}])
    subject = DetectorSubject(Odd().eval(), CLASSES)
    if goal == "localisation":
        with pytest.raises(AttackError, match="needs localisation losses"):
            evaluate(subject, [[sample(0)]], perturbations, progress=False)
        return
    outcome = evaluate(subject, [[sample(0)]], perturbations, progress=False)
    notes = outcome.results["by_perturbation"][perturbations[1].name]["notes"]
    told = f"losses that the goal {goal} leaves out, of unknown kind: loss_contrast, loss_extra"
    assert notes == ([] if goal == "all" else [told])


ATTACKS = [{"name": "detector-pgd", "goal": "vanish", "steps": 2}, {"name": "square", "queries": 5}]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack["name"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one.pop("instances"), "image 0 comes without instances.*labelled_test_mapper"),
        (lambda one: one.update(image=one["image"].float() / 255), r"pixels in \[0, 1\].*give 0..255"),
        (lambda one: one.update(image=one["image"].float() - 128), "detectron2's mappers give 0..255"),
        (lambda one: one.update(image=one["image"].float() * torch.nan), "detectron2's mappers give 0..255"),
    ],
)
def test_samples_that_would_make_an_attack_mean_something_else_are_refused(attack, change, words):
    one = sample(0)
    change(one)
    perturbations = build_perturbations([{"eps": "8/255", **attack}])
    with pytest.raises(AttackError, match=words):
        evaluate(DetectorSubject(Odd().eval(), CLASSES), [[one]], perturbations, progress=False)


def test_a_model_that_is_no_detector_says_so(root):
    model = build("plain", root, "MODEL.META_ARCHITECTURE", "ProposalNetwork")
    with pytest.raises(AttackError, match="a ProposalNetwork answers with proposals, and a detector with instances"):
        evaluate(DetectorSubject(model, CLASSES), [[sample(0)]], build_perturbations([]), progress=False)


def test_attacks_that_cannot_work_are_refused_before_work_starts():
    (attack,) = build_perturbations([{"name": "foolbox", "attack": "LinfPGD", "eps": "8/255"}])[1:]
    with pytest.raises(ValueError, match="attacks a classifier, and this model is a detector"):
        DetectorSubject(Odd(), CLASSES).check([attack])
    (attack,) = build_perturbations([{"name": "detector-pgd", "goal": "mislabel", "eps": "8/255"}])[1:]
    with pytest.raises(ValueError, match="needs at least two classes"):
        DetectorSubject(Odd(), 1).check([attack])


def test_keypoints_are_read_without_the_training_data_and_scored(root):
    cfg = detector_config("faster_rcnn", *OPTIONS["keypoints"], "DATASETS.TRAIN", "()", root=root)
    mapper = labelled_test_mapper(cfg)
    assert mapper.use_keypoint
    assert mapper.is_train
    assert mapper.keypoint_hflip_indices is None
    (evaluator,) = evaluators_of(cfg)
    assert evaluator._tasks == ("bbox", "keypoints")


def test_a_mapper_of_a_lazy_configuration_keeps_the_labels(tmp_path):
    """As the documentation says it."""
    from detectron2 import model_zoo
    from PIL import Image

    cfg = model_zoo.get_config("new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py").dataloader.test.mapper
    cfg.is_train, cfg.use_instance_mask = True, True
    mapper = instantiate(cfg)
    assert isinstance(mapper, DatasetMapper)
    assert not any(isinstance(one, T.RandomFlip) for one in mapper.augmentations.augs)
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    box = {"bbox": [2, 3, 20, 20], "bbox_mode": 0, "category_id": 1, "segmentation": [[2, 3, 20, 3, 20, 20]]}
    crowd = {**box, "iscrowd": 1}
    record = {"file_name": str(tmp_path / "a.png"), "image_id": 1, "height": 30, "width": 40}
    found = mapper({**record, "annotations": [box, crowd]})
    assert len(found["instances"]) == 1, "crowds are no objects"
    assert len(found["instances"].gt_masks) == 1
    assert len(mapper({**record, "annotations": []})["instances"]) == 0


class Pixels(nn.Module):
    """Calls each pixel one of three classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, batch: list[dict]) -> list[dict]:
        return [{"sem_seg": 5 * self.layers(one["image"][None] / 255)[0]} for one in batch]


@pytest.mark.parametrize("loss", ["ce", "segpgd", "cospgd", "margin"])
def test_an_image_without_labelled_pixels_is_no_zero_gradient_and_ends_nothing(loss):
    unlabelled = sample(1)
    unlabelled["sem_seg"][:] = 255
    partly = sample(2)
    partly["sem_seg"][:30] = 255
    perturbations = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 3, "loss": loss}])
    batch = [unlabelled, partly, sample(3)]
    outcome = evaluate(SegmenterSubject(Pixels().eval()), [batch], perturbations, progress=False)
    entry = outcome.results["by_perturbation"][perturbations[1].name]
    assert entry["zero_gradient_images"] == 0
    assert outcome.results["warnings"] == []
    assert entry["notes"] == ["images without labelled pixels were not attacked"]
    attacked = [record for record in outcome.records if record.perturbation != "clean"]
    assert [record.distance > 0.03 for record in attacked] == [False, True, True]
    assert not any(record.fooled for record in attacked)


def test_labels_beyond_the_classes_are_named():
    """Such as another number than 255 for what is not labelled."""
    one = sample(1)
    one["sem_seg"][0, 0] = 254
    perturbations = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255", "steps": 3}])
    with pytest.raises(AttackError, match=r"labels must lie in \[0, 3\) or be 255 .*found 254"):
        evaluate(SegmenterSubject(Pixels().eval()), [[one]], perturbations, progress=False)
    evaluate(SegmenterSubject(Pixels().eval()), [[sample(1)]], perturbations, progress=False)
    assert str(ThreatModel("linf", 8 / 255)) in perturbations[1].name


def test_the_label_that_is_left_out_is_the_same_for_attack_and_verdict():
    (attack,) = build_perturbations([{"name": "segmentation-pgd", "eps": "8/255"}])[1:]
    with pytest.raises(ValueError, match="leaves out pixels of label 255, and the evaluation those of 0"):
        SegmenterSubject(Pixels(), ignore=0).check([attack])
    SegmenterSubject(Pixels(), ignore=255).check([attack])


def test_a_list_of_perturbations_without_clean_or_with_one_twice_is_refused_before_work_starts():
    clean, noise = build_perturbations([{"name": "noise", "eps": "8/255"}])
    for given, words in (
        ([noise], "the clean images are missing"),
        ([clean, noise, noise], "repeated: noise linf 8/255"),
    ):
        with pytest.raises(ValueError, match=words):
            evaluate(DetectorSubject(Odd(), CLASSES), [[sample(0)]], given, progress=False)


def test_samples_that_no_corruption_can_read_are_refused_before_work_starts():
    """A corruption changes the photograph, which samples in memory do not have any more."""
    model = Odd().eval()
    perturbations = build_perturbations([{"name": "corruption", "kind": "fog", "severity": 1}])
    model.forward = None
    with pytest.raises(ValueError, match="cannot be read through a corruption"):
        evaluate(DetectorSubject(model, CLASSES), [[sample(0)]], perturbations, progress=False)
