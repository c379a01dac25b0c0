"""What a model says about an image: as an evaluation says it, in the image's own pixels, one image at a time."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, Instances
from PIL import Image
from small_models import INEXACT

import partbox
from partbox.api.images import ImageInputError
from partbox.api.prediction import parts_of_instances
from partbox.attacks import PGD, ThreatModel
from partbox.data import get_part_dataset
from partbox.data.mapper import PartDatasetMapper
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import mapper_of
from partbox.evaluation.detectron2_subject import DetectorSubject
from partbox.evaluation.part_boxes import boxes_of_masks
from partbox.evaluation.records import read_records
from partbox.report.examples import read_examples

EVERY_SCORE = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]
FAMILIES = ("normal", "part_box", "two_head_decoder", "masks_multiply", "dino_box_sequence", "maskdino_part_box")


def values_of(prediction: partbox.Prediction) -> tuple:
    """Everything that a prediction says, to be compared."""
    parts = [(p.name, p.score, p.box, None if p.mask is None else p.mask.tobytes()) for p in prediction.parts]
    return prediction.label, prediction.probabilities, parts, prediction.image_size


@pytest.mark.parametrize("name", ["normal", "part_box", "dino_box_sequence"])
def test_a_file_gets_the_answer_of_an_evaluation(run_tool, classifier_run, photographs, tmp_path, name):
    """The same resize, the same label, the same probabilities as the records and pictures of ``--eval-only``."""
    run = classifier_run(name, "ROBUST_EVAL.BATCH_SIZE", "8")
    clean = ["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "OUTPUT_DIR", tmp_path / "evaluated"]
    weights = run / "model_final.pth"
    run_tool("train_net", "--eval-only", "--config-file", run / "config.yaml", "MODEL.WEIGHTS", weights, *clean)
    model = partbox.load(run)
    predictions = model.predict(photographs)
    records = read_records(tmp_path / "evaluated/records.jsonl")
    assert len(records) == len(predictions) == 22
    for record, prediction in zip(records, predictions, strict=True):
        assert prediction.label == model.class_names[record.prediction]
        logarithms = np.log(list(prediction.probabilities.values()))
        others = np.delete(logarithms, record.label)
        assert others.max() - logarithms[record.label] == pytest.approx(record.loss, abs=1e-5)
        assert list(prediction.probabilities) == list(model.class_names)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    shown = [(example.image_id, example.confidence) for example in read_examples(tmp_path / "evaluated/examples")]
    confidence = {str(r.image_id): max(p.probabilities.values()) for r, p in zip(records, predictions, strict=True)}
    assert [confidence[image_id] for image_id, _ in shown] == pytest.approx([value for _, value in shown], abs=1e-5)
    assert len({value for _, value in shown}) > 1


@pytest.mark.parametrize("name", [*FAMILIES, *INEXACT[:1]])
def test_an_image_alone_gets_the_bits_of_an_evaluation_of_one(classifier_run, example_root, photographs, name):
    """Through the evaluation's own mapper and in a batch of one: nothing is left to tolerances."""
    model = partbox.load(classifier_run(name))
    mapper = PartDatasetMapper.from_config(model.cfg, is_train=False)
    for record, path in zip(get_part_dataset("example_test").records[:3], photographs, strict=False):
        sample = mapper(record)
        with torch.no_grad():
            (output,) = model.module([sample])
        found = model.predict(path)
        assert list(found.probabilities.values()) == output["probabilities"].tolist()
        assert torch.equal(model.preprocess(path), sample["image"].float() / 255)


def test_a_list_gives_what_its_images_give_one_by_one(classifier_run, photographs):
    model = partbox.load(classifier_run("part_box"))
    large = Image.open(photographs[1]).resize((90, 70))
    images = [photographs[0], large, np.asarray(Image.open(photographs[2]))]
    together = model.predict(images, min_score=0)
    assert [values_of(one) for one in together] == [values_of(model.predict(one, min_score=0)) for one in images]
    assert [values_of(one) for one in model.predict(tuple(images[::-1]), min_score=0)] == [
        values_of(one) for one in together[::-1]
    ]
    assert model.predict([]) == []
    with pytest.raises(ImageInputError, match=r"images\[2\]: .*nowhere.png does not exist"):
        model.predict([photographs[0], large, "nowhere.png"])
    with pytest.raises(ImageInputError, match=r"images\[0\]: a value of type list is no image"):
        model.predict([[photographs[0]]])


def test_an_image_that_breaks_while_it_is_read_is_named(classifier_run, photographs, tmp_path):
    """Its header is fine, which is all that is looked at before work begins."""
    model = partbox.load(classifier_run("normal"))
    cut = tmp_path / "cut.png"
    Image.open(photographs[0]).resize((200, 200)).save(cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    with pytest.raises(ImageInputError, match=r"^images\[1\]: .*cut\.png cannot be read"):
        model.predict([photographs[0], cut])
    with pytest.raises(ImageInputError, match=r"^/.*cut\.png cannot be read"):
        model.predict(cut)


def test_all_images_are_checked_before_the_first_is_looked_at(classifier_run, photographs, monkeypatch):
    model = partbox.load(classifier_run("normal"))
    monkeypatch.setattr(model.module, "predict_batch", lambda *_: pytest.fail("work has started"))
    with pytest.raises(ImageInputError, match=r"images\[1\]"):
        model.predict([photographs[0], np.zeros((4, 4, 3))[:, :, :2]])


@pytest.mark.parametrize("name", ["part_box", "part_pooling_fg", "part_box_group", "maskdino_part_box"])
def test_parts_of_masks_are_regions_at_the_size_of_the_image(classifier_run, photographs, name):
    model = partbox.load(classifier_run(name))
    image = Image.open(photographs[0]).resize((70, 50))
    found = model.predict(image, min_score=0)
    assert found.image_size == (50, 70)
    with torch.no_grad():
        (output,) = model.module.predict_batch(model.preprocess(image)[None], [{}])
    expected = boxes_of_masks(output["part_probabilities"], (50, 70))
    named = [model.module.channel_names[index] for index in expected.pred_classes.tolist()]
    wanted = sorted(zip(named, expected.scores.tolist(), map(tuple, expected.pred_boxes.tensor.tolist()), strict=True))
    got = sorted((part.name, part.score, part.box) for part in found.parts)
    assert [one[::2] for one in got] == [one[::2] for one in wanted]
    assert [one[1] for one in got] == pytest.approx([one[1] for one in wanted], abs=1e-6)
    assert len(found.parts) > (name != "maskdino_part_box")  # of random weights it shows one part everywhere
    scores = [part.score for part in found.parts]
    assert scores == sorted(scores, reverse=True)
    covered = np.zeros((50, 70), dtype=int)
    for part in found.parts:
        assert part.mask.shape == (50, 70)
        assert part.mask.dtype == bool
        rows, columns = np.nonzero(part.mask)
        assert part.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        covered += part.mask
    assert covered.max() == 1  # a pixel shows one part
    assert [part.score for part in model.predict(image).parts] == scores, "each has won: none is left out unasked"
    middle = scores[len(scores) // 2]
    assert [part.score for part in model.predict(image, min_score=middle).parts] == [s for s in scores if s >= middle]


def test_parts_of_a_detector_without_masks_are_its_detections(classifier_run, photographs):
    model = partbox.load(classifier_run("dino_box_sequence"))
    image = Image.open(photographs[0]).resize((200, 100))
    found = model.predict(image, min_score=0)
    assert found.parts
    with torch.no_grad():
        (output,) = model.module.predict_batch(model.preprocess(image)[None], [{}])
    best = output["instances"][int(output["instances"].scores.argmax())]
    factors = torch.tensor([200, 100, 200, 100]) / torch.tensor([64, 64, 64, 64])
    box = best.pred_boxes.tensor[0].clamp(0, 64) * factors
    part = found.parts[0]
    assert part.mask is None
    assert part.score == pytest.approx(float(best.scores[0]))
    assert part.name == model.part_names[int(best.pred_classes[0])]
    assert part.box == pytest.approx(box.tolist(), abs=1e-3)


def test_models_without_parts_have_none(classifier_run, photographs):
    for name in ("normal", "part_auxiliary"):
        model = partbox.load(classifier_run(name, folder=name))
        assert model.part_names == ()
        assert model.predict(photographs[0], min_score=0).parts == ()


@pytest.mark.parametrize("name", ["faster_rcnn", "mask_rcnn", "retinanet", "dino", "maskdino"])
def test_a_detector_answers_as_in_an_evaluation(detector_run, example_root, photographs, name):
    model = partbox.load(detector_run(name, "INPUT.FORMAT", "BGR", *EVERY_SCORE))
    record = get_part_dataset("example_test").records[0]
    sample = mapper_of(model.cfg, is_train=False)(record)
    assert sample["image"].shape != (3, 32, 32)
    expected = DetectorSubject(model.module, len(model.part_names)).output(sample, sample["image"].float() / 255)[
        "instances"
    ]
    found = model.predict(photographs[0], min_score=0)
    assert (found.label, found.probabilities, found.image_size) == (None, {}, (32, 32))
    assert len(found.parts) == len(expected) > 0
    order = expected.scores.argsort(descending=True, stable=True)
    assert [part.score for part in found.parts] == expected.scores[order].tolist()
    boxes = expected.pred_boxes.tensor[order].clamp(0, 32)
    assert [list(part.box) for part in found.parts] == boxes.tolist()
    assert [part.name for part in found.parts] == [model.part_names[i] for i in expected.pred_classes[order].tolist()]
    if name in ("mask_rcnn", "maskdino"):
        masks = torch.from_numpy(np.stack([part.mask for part in found.parts]))
        assert masks.dtype == torch.bool
        assert torch.equal(masks, expected.pred_masks[order].bool())
    else:
        assert all(part.mask is None for part in found.parts)
    surer = found.parts[len(found.parts) // 2].score
    kept = model.predict(photographs[0], min_score=surer).parts
    assert [part.score for part in kept] == [part.score for part in found.parts if part.score >= surer]


def test_boxes_that_reach_beyond_the_image_end_at_its_border():
    boxes = torch.tensor([[-3.0, 2.0, 25.0, 9.0], [1.0, -4.0, 5.0, 12.5]])
    instances = Instances((10, 20), pred_boxes=Boxes(boxes), scores=torch.tensor([0.6, 0.9]))
    instances.pred_classes = torch.tensor([1, 0])
    found = parts_of_instances(instances, ("a", "b"), 0.5)
    assert [(part.name, part.box) for part in found] == [("a", (1, 0, 5, 10)), ("b", (0, 2, 20, 9))]
    assert torch.equal(instances.pred_boxes.tensor, boxes)
    instances.scores[0] = torch.nan
    with pytest.raises(FloatingPointError):
        parts_of_instances(instances, ("a", "b"), 0.5)


def test_a_segmenter_gives_regions_of_its_classes(detector_run, photographs):
    model = partbox.load(detector_run("deeplabv3plus"))
    image = Image.open(photographs[0]).resize((90, 60))
    found = model.predict(image, min_score=0)
    seen = model.preprocess(image)
    assert seen.shape == (3, 64, 64)
    with torch.no_grad():
        (output,) = model.module([{"image": seen * 255, "height": 60, "width": 90}])
    winner = output["sem_seg"].softmax(dim=0).argmax(dim=0).numpy()
    assert found.label is None
    assert found.parts
    shown = np.zeros((60, 90), dtype=int)
    for part in found.parts:
        shown[part.mask] = 1 + model.part_names.index(part.name)
    assert np.array_equal(shown, winner)


def test_an_attacked_image_keeps_its_bits(classifier_run, photographs):
    model = partbox.load(classifier_run("part_box"))
    clean = torch.stack([model.preprocess(path) for path in photographs[:2]])
    labels = model.module.logits(clean).argmax(dim=1)  # right, or nothing would be attacked
    attack = PGD(ThreatModel("linf", "8/255"), steps=2)
    adversarial = attack(model.module.logits, clean, labels, image_ids=["a", "b"], seed=0).images
    assert not torch.equal((adversarial * 255).round() / 255, adversarial)
    for image, found in zip(adversarial, model.predict(list(adversarial)), strict=True):
        with torch.no_grad():
            expected = model.module.logits(image[None]).softmax(dim=1)[0]
        assert list(found.probabilities.values()) == expected.tolist()


def test_floats_are_resized_by_the_filter_of_8_bits(classifier_run, photographs):
    """An image of floats that are hardly not those of 8 bits is resized to what the 8 bits become, up to rounding."""
    model = partbox.load(classifier_run("normal"))
    pixels = np.asarray(Image.open(photographs[0]).resize((333, 217)))
    floats = np.clip(pixels / 255 + 1e-4, 0, 1)
    difference = (model.preprocess(floats) - model.preprocess(pixels)).abs()
    assert 0 < float(difference.max()) < 1.2 / 255
    in_bgr = model.preprocess(floats[:, :, ::-1], channels="bgr")
    assert torch.equal(in_bgr, model.preprocess(floats))


def test_nothing_of_the_caller_is_changed(classifier_run, detector_run, photographs):
    for model in (partbox.load(classifier_run("part_box")), partbox.load(detector_run(folder="detector"))):
        model.module.train()
        model.module.backbone.eval()
        torch.manual_seed(3)
        np.random.seed(3)
        before = torch.get_rng_state(), np.random.get_state()[1].tolist()
        weights = {name: value.clone() for name, value in model.module.state_dict().items()}
        model.predict(photographs[0])
        assert torch.equal(torch.get_rng_state(), before[0])
        assert np.random.get_state()[1].tolist() == before[1]
        assert model.module.training
        assert not model.module.backbone.training
        assert all(parameter.requires_grad for parameter in model.module.parameters())
        assert all(torch.equal(value, weights[name]) for name, value in model.module.state_dict().items())


def test_an_image_is_turned_before_the_model_sees_it(classifier_run, photographs, tmp_path):
    model = partbox.load(classifier_run("part_box"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photographs[0]).resize((60, 30)).save(tmp_path / "turned.jpg", exif=exif)
    found = model.predict(tmp_path / "turned.jpg", min_score=0)
    upright = model.predict(read_image(str(tmp_path / "turned.jpg"), "RGB"), min_score=0)
    assert found.image_size == (60, 30)
    assert values_of(found) == values_of(upright)
    flat = json.loads(json.dumps([part.box for part in found.parts]))
    assert all(0 <= x0 < x1 <= 30 and 0 <= y0 < y1 <= 60 for x0, y0, x1, y1 in flat)


def test_oracles_and_diverged_models_are_refused(classifier_run, photographs):
    oracle = partbox.load(classifier_run("oracle_masks", folder="oracle"))
    with pytest.raises(ConfigError, match=r"oracle: .*partbox\.evaluate"):
        oracle.predict(photographs[0])
    model = partbox.load(classifier_run("part_box"))
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ConfigError, match=r"model_final.pth: .*not finite"):
        model.predict(photographs[0])
    with pytest.raises(ImageInputError, match="min_score must lie in"):
        model.predict(photographs[0], min_score=50)


def test_a_model_that_looks_at_the_clean_image_looks_at_this_one(classifier_run, photographs):
    """Nobody attacks here: it answers as the same weights do without that privilege."""
    run = classifier_run("clean_masks")
    found = partbox.load(run).predict(photographs[0])
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("FROM_CLEAN_IMAGE: true", "FROM_CLEAN_IMAGE: false"))
    assert (run / "config.yaml").read_text() != config
    assert values_of(partbox.load(run).predict(photographs[0])) == values_of(found)


@pytest.mark.parametrize("name", ["faster_rcnn", "maskdino"])
def test_an_image_of_one_pixel_gets_an_answer_and_a_line_a_reason(detector_run, name):
    """detectron2 enlarges the shorter side and then limits the longer one, which leaves no pixel of a long line."""
    model = partbox.load(detector_run(name, *EVERY_SCORE))
    for size in ((1, 1), (40, 1)):
        found = model.predict(Image.new("RGB", size, "orange"), min_score=0)
        assert found.image_size == size[::-1]
        assert all(
            0 <= x0 <= x1 <= size[0] and 0 <= y0 <= y1 <= size[1] for x0, y0, x1, y1 in (p.box for p in found.parts)
        )
    line = Image.new("RGB", (6000, 1))
    for ask in (model.predict, model.preprocess):
        with pytest.raises(ImageInputError, match=r"the image of 6000 x 1 pixels is too narrow"):
            ask(line)
    with pytest.raises(ImageInputError, match=r"^images\[1\]: the image of 6000 x 1 pixels"):
        model.predict([Image.new("RGB", (4, 4)), line])


def test_a_classifier_answers_to_any_shape_of_image(classifier_run):
    model = partbox.load(classifier_run("part_box"))
    for size in ((1, 1), (1, 3000), (3000, 1)):
        found = model.predict(Image.new("RGB", size, "orange"), min_score=0)
        assert found.image_size == size[::-1]
        assert all(part.mask.shape == size[::-1] and part.mask.any() for part in found.parts)


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_what_the_network_sees_goes_back_in_its_own_order_of_channels(classifier_run, detector_run, photographs, kind):
    """A detector sees BGR: an attack on it gives BGR."""
    model = partbox.load(
        classifier_run("part_box")
        if kind == "classifier"
        else detector_run("faster_rcnn", *EVERY_SCORE, "INPUT.FORMAT", "BGR")
    )
    assert model.channels == ("rgb" if kind == "classifier" else "bgr")
    seen = model.preprocess(photographs[0])
    other = {"rgb": "bgr", "bgr": "rgb"}[model.channels]
    again, swapped = (model.preprocess(seen, channels=order) for order in (model.channels, other))
    assert torch.equal(again, seen)
    assert torch.equal(swapped, seen.flip(0))
    assert not torch.equal(seen.flip(0), seen)
    answers = [values_of(model.predict(seen, channels=order, min_score=0)) for order in (model.channels, other)]
    assert answers[0] != answers[1]


def test_whose_order_of_channels_is_not_said_is_warned_about_in_his_own_line(classifier_run, photographs):
    model = partbox.load(classifier_run("normal"))
    pixels = np.asarray(Image.open(photographs[0]))
    for ask in (model.predict, model.preprocess):
        with pytest.warns(UserWarning, match="read as RGB") as caught:
            ask(pixels)
        assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(photographs[0])
        said = model.predict(pixels, channels="rgb")
    assert values_of(said) == values_of(model.predict(photographs[0]))
    with pytest.raises(ImageInputError, match="'rgb' or 'bgr', not ''"):
        model.predict(pixels, channels="")


def test_an_image_on_a_graph_stays_on_it(classifier_run, photographs):
    """A tensor that requires gradients is looked at, and neither it nor the graph is touched."""
    model = partbox.load(classifier_run("part_box"))
    image = model.preprocess(photographs[0]).requires_grad_(True)
    found = model.predict(image * 1, channels="rgb")
    assert image.grad is None
    assert values_of(found) == values_of(model.predict(image.detach(), channels="rgb"))
    model.module.logits(image[None]).sum().backward()
    assert image.grad is not None
