"""Images kept for pictures: which, what of them, and that they come back from their files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from example_images import assert_same, example
from part_dataset_files import forget_builtin_datasets
from PIL import Image
from small_detectors import SEGMENTER, detector_config
from small_models import DETECTOR_MODELS, MODELS, small_config

from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.engine.detectors import build_detector, mapper_of, records_of, subject_of
from partbox.evaluation import build_perturbations, evaluate
from partbox.evaluation.batches import RecordBatches
from partbox.evaluation.example_files import from_arrays, to_arrays, write_examples
from partbox.evaluation.examples import (
    MOST_PICTURES,
    as_rgb,
    check_channel_order,
    choose_examples,
    classifier_example,
    detector_example,
    pixels_of,
    segmenter_example,
)
from partbox.evaluation.record_files import RecordsError
from partbox.evaluation.records import Record
from partbox.report.examples import FOLDER, SCHEMA_VERSION, read_examples


def labelled(*labels: int) -> list[dict]:
    return [{"image_id": f"image {number}", "label": label} for number, label in enumerate(labels)]


# --- which images -----------------------------------------------------------------------------------------------------


def test_the_choice_goes_round_the_classes():
    records = labelled(*[0] * 40, *[1] * 5, *[2] * 2, 3)
    label_of = {record["image_id"]: record["label"] for record in records}

    def labels(count: int) -> list[int]:
        return [label_of[image_id] for image_id in choose_examples(records, count, seed=0)]

    assert sorted(labels(4)) == [0, 1, 2, 3]
    assert sorted(labels(7)) == [0, 0, 1, 1, 2, 2, 3]
    assert sorted(labels(20)) == [0] * 12 + [1] * 5 + [2] * 2 + [3]
    assert len(set(choose_examples(records, 1000, seed=0))) == len(records)
    assert choose_examples(records, 0, seed=0) == []
    assert choose_examples([], 5, seed=0) == []


def test_the_choice_depends_on_seed_and_ids_alone():
    records = labelled(*[number % 5 for number in range(50)])
    chosen = choose_examples(records, 12, seed=3)
    assert choose_examples(records[::-1], 12, seed=3) == chosen
    assert choose_examples(records, 7, seed=3) == chosen[:7], "fewer images are the beginning of the same list"
    assert set(choose_examples(records, 12, seed=4)) != set(chosen)
    renamed = [{**record, "image_id": f"other {record['image_id']}"} for record in records]
    assert choose_examples(renamed, 12, seed=3) != [f"other {one}" for one in chosen]


def test_images_of_a_detector_stand_for_each_of_their_categories():
    """One image shows category 9, all show 0; an image without objects is a kind of its own."""
    categories = [[0]] * 20 + [[0, 0, 9]] + [[]]
    records = [
        {"image_id": number, "annotations": [{"category_id": one} for one in its]}
        for number, its in enumerate(categories)
    ]
    for seed in range(10):
        chosen = choose_examples(records, 3, seed=seed)
        assert {20, 21} < set(chosen)
        assert len(set(chosen)) == 3
    assert sorted(choose_examples(records, 22, seed=0)) == list(range(22))


def test_pictures_are_bounded_over_all_perturbations():
    records = labelled(*range(200))
    assert len(choose_examples(records, 24, seed=0, perturbations=MOST_PICTURES // 24)) == 24
    for perturbations in (76, 300, 10_000):
        count = len(choose_examples(records, 24, seed=0, perturbations=perturbations))
        assert 1 <= count <= 24
        assert count == 1 or count * perturbations <= MOST_PICTURES
    assert len(choose_examples(records, 24, seed=0, perturbations=76)) == 7


# --- what is kept of an image -----------------------------------------------------------------------------------------


def instances(size: tuple[int, int], boxes: list, scores: list, classes: list) -> Instances:
    found = Instances(size)
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.scores, found.pred_classes = torch.tensor(scores, dtype=torch.float32), torch.tensor(classes)
    return found


def test_a_classifiers_image_has_its_pixels_verdict_and_parts():
    image = torch.rand(3, 8, 12)
    masks = torch.zeros(3, 4, 6)
    masks[2, :2], masks[0, 2:] = 1, 1
    output = {"label": 1, "probabilities": torch.tensor([0.25, 0.75]), "part_probabilities": masks}
    found = classifier_example({"image_id": "a", "label": 0}, image, output)
    assert (found.label, found.prediction, found.confidence, found.correct) == (0, 1, 0.75, False)
    np.testing.assert_array_equal(found.image, (image.permute(1, 2, 0).numpy() * 255).round())
    assert found.part_map.shape == (8, 12)
    assert set(found.part_map[:3].ravel()) == {2}
    assert set(found.part_map[5:].ravel()) == {0}
    assert found.boxes.shape == (0, 4)
    assert classifier_example({"image_id": "a", "label": 1}, image, output).correct is True
    broken = {"label": 0, "probabilities": torch.tensor([float("nan")] * 2)}
    assert classifier_example({"image_id": "a", "label": 0}, image, broken).confidence is None


def test_every_grey_level_survives():
    levels = torch.arange(256).reshape(1, 16, 16).expand(3, 16, 16)
    np.testing.assert_array_equal(pixels_of(levels.float() / 255)[..., 1], levels[0].numpy())


def test_boxes_are_scaled_to_the_image_kept_within_it_and_sorted():
    """The detector answers at the photograph's size, 20 x 10; the network saw 40 x 20."""
    boxes = [[1, 2, 3, 4], [-5, 0, 99, 10], [0, 0, float("nan"), 1], [0, 0, 1, 1], [2, 2, 4, 4]]
    found = instances((10, 20), boxes, [0.2, 0.9, 0.99, float("nan"), 0.2], [5, 6, 7, 8, 9])
    record = Record(1, "clean", None, None, False, None, 1, 0.0, False, objects=2, found=1)
    kept = detector_example({"image_id": 1}, np.zeros((20, 40, 3), np.uint8), {"instances": found}, record)
    assert kept.boxes.tolist() == [[0, 0, 40, 20], [2, 4, 6, 8], [4, 4, 8, 8]]
    assert kept.categories.tolist() == [6, 5, 9]
    assert kept.scores.tolist() == pytest.approx([0.9, 0.2, 0.2])
    assert found.pred_boxes.tensor[0].tolist() == [1, 2, 3, 4], "the model's own boxes stay"
    assert kept.label is kept.prediction is kept.confidence is None


@pytest.mark.parametrize(
    ("objects", "found", "correct"), [(2, 2, True), (2, 1, False), (0, 0, None), (None, None, None)]
)
def test_a_detector_is_right_where_every_object_is_found(objects, found, correct):
    record = Record(1, "clean", None, None, False, None, 1, 0.0, False, objects=objects, found=found)
    nothing = {"instances": instances((4, 4), [], [], [])}
    assert detector_example({"image_id": 1}, np.zeros((4, 4, 3), np.uint8), nothing, record).correct is correct


def test_a_segmenters_map_has_the_size_of_the_image():
    scores = torch.zeros(300, 2, 4)
    scores[299, :, :2], scores[0, :, 2:] = 1, 1
    kept = segmenter_example({"image_id": 1}, np.zeros((8, 16, 3), np.uint8), {"sem_seg": scores})
    assert kept.part_map.shape == (8, 16)
    assert set(kept.part_map[:, :7].ravel()) == {299}
    assert set(kept.part_map[:, 9:].ravel()) == {0}


def test_blue_first_is_turned_round_and_other_formats_are_refused():
    one = example()
    np.testing.assert_array_equal(as_rgb(one, "BGR").image, one.image[..., ::-1])
    assert as_rgb(one, "RGB") is one
    with pytest.raises(ValueError, match=r"format L .*ROBUST_EVAL\.EXAMPLES 0"):
        check_channel_order("L")


# --- in an evaluation -------------------------------------------------------------------------------------------------

NOISE, PGD = "noise linf 8/255", "pgd-2 linf 8/255"
PERTURBED = [
    {"name": "corruption", "kind": "fog", "severity": 5},
    {"name": "noise", "eps": "8/255"},
    {"name": "pgd", "eps": "8/255", "steps": 2},
]
KINDS = {
    **{name: MODELS[name] for name in ("normal", "part_box", "part_box_group", "part_auxiliary")},
    **{name: DETECTOR_MODELS[name] for name in ("dino_box_sequence", "maskdino_part_box")},
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_kept_is_what_the_classifier_saw_and_said(example_dataset, name):
    """Of every kind of classifier, under every perturbation: asked again, it answers the same of the kept image."""
    cfg = small_config(example_dataset, *KINDS[name])
    model = build_classifier(cfg).eval()
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batches = RecordBatches(example_dataset.records[::3], mapper, batch_size=8)
    outcome = evaluate(model, batches, build_perturbations(PERTURBED), keep_examples=5, progress=False)
    records = {(one.perturbation, one.image_id): one for one in outcome.records}
    clean = outcome.examples["clean"]
    assert len({one.label for one in clean}) == len(clean) == 5
    assert list(outcome.examples) == ["clean", "fog 5", NOISE, PGD]
    for perturbation, its in outcome.examples.items():
        assert [one.image_id for one in its] == [one.image_id for one in clean]
        for one, before in zip(its, clean, strict=True):
            record = records[perturbation, one.image_id]
            assert (one.label, one.prediction) == (record.label, record.prediction)
            assert one.correct == (record.label == record.prediction)
            change = np.abs(one.image.astype(int) - before.image.astype(int)).max()
            least, most = {"clean": (0, 0), "fog 5": (9, 255), NOISE: (7, 8), PGD: (int(before.correct), 8)}[
                perturbation
            ]
            assert least <= change <= most
            assert (one.part_map is not None) == (name not in ("normal", "part_auxiliary", "dino_box_sequence"))
            assert bool(len(one.boxes)) == ("dino" in name)
            if perturbation in (NOISE, PGD):  # whose pixels were rounded
                continue
            with torch.no_grad():
                (answer,) = model([{"image": torch.from_numpy(one.image.transpose(2, 0, 1)), "label": one.label}])
            assert one.confidence == pytest.approx(float(answer["probabilities"].max()), abs=1e-4)
            if one.part_map is not None:
                top = torch.nn.functional.interpolate(
                    answer["part_probabilities"][None], one.image.shape[:2], mode="bilinear", align_corners=False
                )[0].argmax(dim=0)
                assert float((top.numpy() == one.part_map).mean()) > 0.99
            if len(one.boxes):
                boxes = answer["instances"].pred_boxes.tensor[0].clamp(0, 64).numpy()
                np.testing.assert_allclose(one.boxes[0], boxes, atol=0.05)


def test_the_choice_is_that_of_any_batch_size(example_dataset):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    model = build_classifier(cfg)
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    pixels = {record["image_id"]: np.asarray(Image.open(record["file_name"])) for record in example_dataset.records}
    seen = []
    for size in (1, 7, 66):
        batches = RecordBatches(example_dataset.records, mapper, batch_size=size)
        kept = evaluate(model, batches, build_perturbations([]), keep_examples=6, seed=2, progress=False).examples
        for one in kept["clean"]:
            np.testing.assert_array_equal(one.image, pixels[one.image_id])
        seen.append([one.image_id for one in kept["clean"]])
    assert seen[0] == seen[1] == seen[2]
    first = [record["image_id"] for record in example_dataset.records[:6]]
    assert seen[0] != first, "not simply the first"


@pytest.fixture(scope="module")
def registered(example_root):
    """The example data under its built-in names."""
    forget_builtin_datasets()
    yield example_root
    forget_builtin_datasets()


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("name", ["faster_rcnn", "maskdino", SEGMENTER])
def test_detectors_and_segmenters_keep_rgb_images_of_their_own_size(registered, name, channels):
    """The photographs have 32 pixels, the networks see 64 (a segmenter: INPUT.SIZE)."""
    if name == SEGMENTER and channels == "BGR":
        pytest.skip("reads part datasets in RGB only")
    cfg = detector_config(name, "INPUT.FORMAT", channels, root=registered)
    records = records_of(cfg.DATASETS.TEST, "DATASETS.TEST")[:4]
    model = build_detector(cfg).eval()
    attack = {"name": "segmentation-pgd" if name == SEGMENTER else "detector-pgd", "eps": "8/255", "steps": 1}
    attack |= {} if name == SEGMENTER else {"goal": "all"}
    batches = RecordBatches(records, mapper_of(cfg, is_train=False), batch_size=3)
    outcome = evaluate(subject_of(cfg, model), batches, build_perturbations([attack]), keep_examples=3, progress=False)
    photographs = {
        record["image_id"]: Image.open(record["file_name"]).convert("RGB").resize((64, 64), Image.Resampling.BILINEAR)
        for record in records
    }
    (clean, attacked), verdicts = outcome.examples.values(), {}
    for one in outcome.records:
        verdicts[one.perturbation, one.image_id] = one
    assert [one.image_id for one in clean] == [one.image_id for one in attacked]
    for perturbation, its in outcome.examples.items():
        for one in its:
            expected = np.asarray(photographs[one.image_id]).astype(int)
            change = np.abs(one.image.astype(int) - expected).max()
            assert change == 0 if perturbation == "clean" else 0 < change <= 8
            assert one.label is one.prediction is one.confidence is None
            assert (one.part_map is None) == (name != SEGMENTER)
            record = verdicts[perturbation, one.image_id]
            assert one.correct == (None if name == SEGMENTER else record.found == record.objects)
            sample = batches.mapper(next(r for r in records if r["image_id"] == one.image_id))
            with torch.no_grad():
                (answer,) = model([sample])
            if name == SEGMENTER:
                assert one.part_map.shape == (64, 64)
                if perturbation == "clean":
                    assert float((answer["sem_seg"].argmax(dim=0).numpy() == one.part_map).mean()) > 0.99
            elif perturbation == "clean" and len(one.boxes):
                best = answer["instances"].scores.argmax()
                np.testing.assert_allclose(
                    one.boxes[0], 2 * answer["instances"].pred_boxes.tensor[best].numpy(), atol=0.05
                )


# --- in files ---------------------------------------------------------------------------------------------------------

HOSTILE = ['../../<b>"x"</b>', "a/b\\c $\\frac{ \n", "\u5bb6 \U0001f600", "con."]


def hostile() -> dict:
    """Ids, names of perturbations, classes and parts with characters that no file name may have."""
    part_map = np.zeros((6, 8), np.uint16)
    part_map[1, 2] = len(HOSTILE)
    boxes = np.array([[0.5, 1, 3, 4], [1, 1, 2, 2.25]], np.float32)
    found = {"boxes": boxes, "scores": np.array([0.9, 0.25], np.float32), "categories": np.array([2, 0])}
    its = [
        example(HOSTILE[0], part_map=part_map, **found),
        example(HOSTILE[1], label=3, prediction=None, confidence=None, correct=None, size=(3, 5)),
        example(17, correct=True, prediction=0),
    ]
    return {"clean": its, HOSTILE[0]: its[::-1]}


def write(folder, examples=None, score: float = 0.3, part_names=HOSTILE) -> None:
    given = hostile() if examples is None else examples
    write_examples(folder, given, class_names=HOSTILE, part_names=part_names, score=score)


def test_what_is_written_is_read(tmp_path):
    write(tmp_path / FOLDER)
    found = read_examples(tmp_path / FOLDER)
    flat = [(name, one) for name, its in hostile().items() for one in its]
    assert len(found) == len(flat) == 6
    for read, (perturbation, one) in zip(found, flat, strict=True):
        assert read.perturbation == perturbation
        assert read.image_id == str(one.image_id)
        assert read.label == HOSTILE[one.label]
        assert read.prediction == (None if one.prediction is None else HOSTILE[one.prediction])
        assert (read.confidence, read.correct) == (one.confidence, one.correct)
        assert read.part_names == tuple(HOSTILE)
        np.testing.assert_array_equal(read.image, one.image)
        assert read.image.dtype == np.uint8
        if one.part_map is None:
            assert read.part_map is None
        else:
            np.testing.assert_array_equal(read.part_map, one.part_map)
    (box,) = found[0].boxes
    assert (box.name, box.box) == (HOSTILE[2], (0.5, 1, 3, 4))
    assert box.score == pytest.approx(0.9)
    names = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert names == {"index.json", "00000_parts.png", "00005_parts.png", *(f"{number:05d}.png" for number in range(6))}
    assert json.loads((tmp_path / FOLDER / "index.json").read_text())["schema_version"] == SCHEMA_VERSION
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def test_all_boxes_are_kept_until_the_threshold_is_known(tmp_path):
    write(tmp_path / FOLDER, score=0.0)
    assert [box.name for box in read_examples(tmp_path / FOLDER)[0].boxes] == [HOSTILE[2], HOSTILE[0]]
    write(tmp_path / FOLDER, score=0.95)
    assert read_examples(tmp_path / FOLDER)[0].boxes == ()


@pytest.mark.parametrize(("parts", "mode"), [(255, "L"), (256, "I;16"), (40_000, "I;16")])
def test_part_maps_of_many_parts_take_16_bits(tmp_path, parts, mode):
    part_map = np.full((6, 8), parts, np.uint16)
    write(tmp_path / FOLDER, {"clean": [example(part_map=part_map)]}, part_names=[str(i) for i in range(parts)])
    assert Image.open(tmp_path / FOLDER / "00000_parts.png").mode == mode
    np.testing.assert_array_equal(read_examples(tmp_path / FOLDER)[0].part_map, part_map)


def test_arrays_of_the_store_give_the_same_back():
    its = [*hostile()["clean"], example(part_map=np.ones((6, 8), np.uint16))]
    assert_same({"clean": from_arrays(to_arrays(its))}, {"clean": its})


def test_an_old_folder_is_replaced_as_a_whole_or_stays(tmp_path, monkeypatch):
    folder = tmp_path / FOLDER
    write(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    save, calls = Image.Image.save, []

    def full(image, path, *arguments) -> None:
        calls.append(path)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save(image, path, *arguments)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(RecordsError, match=r"cannot write example pictures to .*the disk is full"):
        write(folder, {"clean": [example(i) for i in range(5)]})
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
    write(folder, {"clean": [example()]})
    assert {path.name for path in folder.iterdir()} == {"index.json", "00000.png"}
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


@pytest.mark.parametrize("at", [1, 4])
def test_a_kill_while_writing_leaves_the_old_folder(tmp_path, at):
    folder = tmp_path / FOLDER
    write(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def child() -> None:
        save, calls = Image.Image.save, []

        def killed(image, path, *arguments) -> None:
            calls.append(path)
            if len(calls) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            save(image, path, *arguments)

        Image.Image.save = killed
        write(folder, {"clean": [example(i) for i in range(5)]})

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
