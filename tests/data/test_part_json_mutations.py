"""Random damage to valid part datasets: the outcome is a whole dataset or PartDatasetError, nothing else.

Every case is drawn from its own seed, and runs in a forked process: should C code crash (libjpeg, pycocotools), the
test fails and names the case instead of taking pytest along.
"""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from part_dataset_files import Document, string_id_document, valid_document, write_images
from pycocotools import mask as mask_util

from partbox.data import PartDataset, PartDatasetError, load_part_dataset
from partbox.data.image_files import VERIFY_LEVELS
from partbox.data.part_json_checks import CheckedDocument, check_document

NORMAL, SLOW = 1, 10  # times the cases
CASES = {"json": 1_200, "text": 400, "images": 400}

EXTREMES: list[Any] = [
    *(0, -1, 1, 2, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"), -float("inf")),
    *(True, False, None, "", " ", "0", "10", "dog", "mask", "none", "\0", "../x", "é", "\ud800", "x" * 10_000),
    *([], {}, [[]], [{}], [None], {"id": 1}, [1, 2, 3, 4], [[0, 0, 5, 0, 5, 5]], {"size": [16, 24], "counts": "0"}),
]
KEYS = ("id", "bbox", "segmentation", "part_label", "partlabels", "source_img", "object_ids", "iscrowd", "note", "")
KEYS += ("label_source", "score")


# ---------------------------------------------------------------- damage


def pick(document: Document, rng: random.Random) -> tuple[Any, Any]:
    """A random place of a JSON tree, as container and key; lists of numbers do not crowd out the rest."""
    container: Any = document
    while True:
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = rng.choice(keys)
        child = container[key]
        if not isinstance(child, dict | list) or not child or rng.random() < 0.2:
            return container, key
        container = child


def retyped(value: Any, rng: random.Random) -> Any:
    forms: list[Callable[[], Any]] = [
        lambda: str(value),
        lambda: [value],
        lambda: {"value": value},
        lambda: None,
        lambda: bool(value),
        lambda: float(value),
        lambda: int(value),
        lambda: value[: rng.randrange(len(value))],
        lambda: value + value,
        lambda: -value,
        lambda: value * rng.choice([0.5, 0.99, 1.01, 2, 10]),
    ]
    try:
        return rng.choice(forms)()
    except (TypeError, ValueError, OverflowError, KeyError):
        return rng.choice(EXTREMES)


def damage_string(text: str, rng: random.Random) -> str:
    """Change one character, or cut, or double; this is what reaches the decoder of compressed RLE."""
    place = rng.randrange(len(text) + 1)
    forms = [
        text[:place],
        text[place:],
        text[:place] + chr(48 + rng.randrange(64)) + text[place + 1 :],
        text[:place] + rng.choice("0Ooé\0 !") + text[place:],
        text + text,
    ]
    return rng.choice(forms)


def damage_json(document: Document, rng: random.Random) -> None:
    container, key = pick(document, rng)
    value = container[key]
    draw = rng.random()
    if draw < 0.15:
        del container[key]
    elif draw < 0.4:
        container[key] = copy.deepcopy(rng.choice(EXTREMES))
    elif draw < 0.6:
        container[key] = damage_string(value, rng) if isinstance(value, str) else retyped(value, rng)
    elif draw < 0.75:
        other, other_key = pick(document, rng)
        container[key] = copy.deepcopy(other[other_key])
    elif draw < 0.85 and isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(value))
    elif isinstance(value, dict):
        value[rng.choice(KEYS)] = copy.deepcopy(rng.choice(EXTREMES))
    elif isinstance(value, list):
        rng.shuffle(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        container[key] = value + rng.choice([-1, 1, 0.5, 1e-9])


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    place, length = rng.randrange(len(data)), rng.randrange(1, 40)
    draw = rng.random()
    if draw < 0.2:
        return data[:place]
    if draw < 0.6:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 2, 20])):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)
    if draw < 0.75:
        return data[:place] + data[place + length :]
    if draw < 0.9:
        return data[:place] + data[place : place + length] + data[place:]
    return data[:place] + rng.randbytes(length) + data[place:]


def damage_text(text: bytes, rng: random.Random) -> bytes:
    """Damage JSON text; half of the time only digits, so that it is still JSON."""
    if rng.random() < 0.5:
        return damage_bytes(text, rng)
    digits = [place for place, byte in enumerate(text) if 48 <= byte <= 57]
    changed = bytearray(text)
    for place in rng.sample(digits, rng.choice([1, 1, 2])):
        changed[place] = 48 + rng.randrange(10)
    return bytes(changed)


def damage_image_file(root: Path, names: list[str], rng: random.Random) -> None:
    path, other = root / rng.choice(names), root / rng.choice(names)
    draw = rng.random()
    if draw < 0.7:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))
    elif draw < 0.8:
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        if draw < 0.85:
            path.write_bytes(b"")
        elif draw < 0.9:
            path.mkdir()
        elif draw < 0.95 and other != path:
            path.symlink_to(other)


# ---------------------------------------------------------------- what has to hold


def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a repeated key was dropped"
    return dict(pairs)


def assert_complete(dataset: PartDataset, text: bytes) -> None:
    """Nothing of the file is lost, and what came out can be used."""
    document = json.loads(text, object_pairs_hook=no_repeats)
    assert len(dataset.class_names) == len(dataset.class_ids) == len(document["classes"])
    assert len(dataset.categories) == len(dataset.part_to_class) == len(document["categories"])
    assert [record["image_id"] for record in dataset.records] == [image["id"] for image in document["images"]]
    expected = Counter(annotation["image_id"] for annotation in document["annotations"])
    for record in dataset.records:
        assert len(record["annotations"]) == expected[record["image_id"]]
        assert record["part_labels"] in ("mask", "box", "none")
        assert record["label_source"] in ("annotated", "predicted")
        for part in record["annotations"]:
            x, y, w, h = part["bbox"]
            assert all(map(math.isfinite, part["bbox"]))
            assert ("score" in part) == (record["label_source"] == "predicted")
            assert 0 <= part.get("score", 0) <= 1
            assert min(x, y) >= 0
            assert min(w, h) > 0
            assert x + w <= record["width"] * (1 + 1e-12)
            assert y + h <= record["height"] * (1 + 1e-12)
            segmentation = part.get("segmentation")
            if isinstance(segmentation, dict):
                assert mask_util.decode(segmentation).shape == (record["height"], record["width"])
            elif segmentation is not None:
                mask_util.frPyObjects(segmentation, record["height"], record["width"])


def assert_paths_agree(text: bytes) -> None:
    """The fast and the precise check of annotations come to the same result."""
    results: list[CheckedDocument | str] = []
    for fast in (True, False):
        try:
            results.append(check_document(json.loads(text), "file", fast=fast))
        except PartDatasetError as error:
            results.append(str(error))
    quick, slow = results
    if isinstance(quick, str) or isinstance(slow, str):
        assert quick == slow
        return
    for name, values in vars(quick.annotations).items():
        assert np.array_equal(values, getattr(slow.annotations, name)), name
    assert quick.part_labels == slow.part_labels


def assert_names_the_reason(refusal: PartDatasetError, json_file: Path) -> None:
    assert refusal.file == str(json_file)
    assert refusal.entry
    assert refusal.reason
    assert str(refusal).isprintable()


def run_case(kind: str, case: int, folder: Path, backup: Path) -> bool:
    """Damage a dataset, load it; whether it was accepted. Any exception is a failure of the test."""
    rng = random.Random(f"{kind} {case}")
    document = valid_document() if rng.random() < 0.75 else string_id_document()
    names = [image["file_name"] for image in document["images"]]
    root = folder / "images"
    text = json.dumps(document).encode()
    if kind == "json":
        for _ in range(rng.choice([1, 1, 2, 3])):
            damage_json(document, rng)
        text = json.dumps(document).encode()
        assert_paths_agree(text)
    elif kind == "text":
        text = damage_text(text, rng)
    else:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(backup, root)
        damage_image_file(root, names, rng)
    json_file = folder / "train.json"
    json_file.write_bytes(text)
    try:
        dataset = load_part_dataset(json_file, root, verify_images=rng.choice(VERIFY_LEVELS))
    except PartDatasetError as refusal:
        assert_names_the_reason(refusal, json_file)
        return False
    assert_complete(dataset, text)
    return True


def run_cases(kind: str, count: int, folder: Path, answer: Any) -> None:
    """All cases of a kind; ``answer`` gets the number of each case before it runs, and a summary in the end."""
    backup = folder / "backup"
    write_images(backup, valid_document())
    shutil.copytree(backup, folder / "images")
    accepted = 0
    for case in range(count):
        answer.send(case)
        accepted += run_case(kind, case, folder, backup)
    answer.send({"accepted": accepted})


def survive(kind: str, count: int, folder: Path) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run_cases, args=(kind, count, folder, sender))
    process.start()
    sender.close()
    last: Any = None
    try:
        while not isinstance(last, dict):
            assert receiver.poll(60), f"case ({kind}, {last}) hangs"
            last = receiver.recv()
    except EOFError:
        process.join()
        pytest.fail(f"case ({kind}, {last}) ended its process with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()
    share = last["accepted"] / count
    assert 0.02 < share < 0.7, f"{kind}: {share:.0%} of the damaged datasets were accepted, so little is tested"


@pytest.mark.parametrize("kind", list(CASES))
def test_damage(kind: str, tmp_path: Path) -> None:
    survive(kind, NORMAL * CASES[kind], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CASES))
def test_much_damage(kind: str, tmp_path: Path) -> None:
    survive(kind, SLOW * CASES[kind], tmp_path)
