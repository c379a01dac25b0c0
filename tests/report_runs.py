"""Run folders for the tests of the report: the evaluation itself computes their numbers from made-up records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from partbox.evaluation.image_evaluator import IN_PERCENT
from partbox.evaluation.part_segmentation import PartSegmentationEvaluator
from partbox.evaluation.perturbations import build_perturbations
from partbox.evaluation.records import Record, write_records
from partbox.evaluation.summary import performance_under_corruptions, summarize

PGD = {"name": "pgd", "eps": "8/255", "steps": 20}
SQUARE = {"name": "square", "eps": "8/255", "queries": 100}


def write_run(
    folder: Path,
    fooled: Mapping[str, Sequence[bool]],
    specs: Sequence[Mapping[str, Any]] = (PGD,),
    *,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = ("cat", "dog"),
    seed: int = 1,
    config: Mapping[str, Any] | None = None,
    entries: Mapping[str, Mapping[str, Any]] | None = None,
    objects: Sequence[int] | None = None,
    found: Mapping[str, Sequence[int]] | None = None,
    false: Mapping[str, Sequence[int]] | None = None,
    confusions: Mapping[str, Sequence[Any]] | None = None,
    measured: Mapping[str, Mapping[str, Sequence[Any]]] | None = None,
    image_ids: Sequence[str | int] | None = None,
    **changes: Any,
) -> Path:
    """A run folder with results.json, records.jsonl, records/, command.txt and environment.txt.

    Args:
        folder: made.
        fooled: by perturbation name, one an image.
        specs: of the perturbations beside clean.
        labels: true classes; alternating where they are not given. None of a detector (``objects`` given).
        class_names: of the classes.
        seed: of the training.
        config: keys of the configuration, nested.
        entries: more of the results of a perturbation, such as ``{"clean": {"bbox": {"AP": 40.0}}}``.
        objects, found, false: of a detector, one an image.
        confusions: by perturbation, of each image ``[[true, found, pixels], ...]`` of three parts and a background.
        measured: by evaluator and perturbation, what it keeps of each image.
        image_ids: "image 0", "image 1", ... where they are not given.
        changes: of ``results.json["results"]``.
    """
    folder.mkdir(parents=True)
    perturbations = build_perturbations(list(specs))
    count = len(fooled["clean"])
    detector = objects is not None
    labels = [i % len(class_names) for i in range(count)] if labels is None else labels
    ids = [f"image {i}" for i in range(count)] if image_ids is None else list(image_ids)
    kept: dict[str, Mapping[str, Sequence[Any]]] = dict(measured or {})
    if confusions:
        kept["PartSegmentationEvaluator"] = confusions
    records = [
        Record(
            image_id=ids[i],
            perturbation=one.name,
            label=None if detector else labels[i],
            prediction=None if detector else (labels[i] + fooled[one.name][i]) % len(class_names),
            fooled=bool(fooled[one.name][i]),
            loss=None,
            queries=1,
            distance=0.0,
            zero_gradient=False,
            objects=objects[i] if objects is not None else None,
            found=found[one.name][i] if found is not None else None,
            false_objects=false[one.name][i] if false is not None else None,
            measurements={name: its[one.name][i] for name, its in kept.items()},
        )
        for one in perturbations
        for i in range(count)
    ]
    results = summarize(records, perturbations)
    for one in perturbations:
        entry = results["by_perturbation"][one.name]
        entry.update({"settings": one.settings, "notes": []})
        entry.update((entries or {}).get(one.name, {}))
        if confusions:
            entry["part_segmentation"] = part_segmentation(confusions[one.name])
    performances = [*IN_PERCENT, *PartSegmentationEvaluator.performances]
    under = performance_under_corruptions(results["by_perturbation"], perturbations, performances)
    results.update({"performance_under_corruptions": under} if under else {})
    results.update(changes)
    document = {
        "schema_version": 2,
        "created": "2026-01-02T03:04:05+00:00",
        "command": ["tools/train_net.py", "--config-file", "a config.yaml"],
        "dataset": {"name": "pets_test", "images": count, "of": count},
        "seeds": {"training": seed, "evaluation": 0},
        "config_hash": "abc",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "device": "cpu",
        "threads": 1,
        "results": results,
        "config_changes": {"SEED": {"value": seed, "default": -1}},
        "config": yaml.safe_dump({"SEED": seed, "OUTPUT_DIR": str(folder), **(config or {})}),
        "weights": str(folder / "model_best.pth"),
        "class_names": list(class_names),
        "seconds": 12.0,
    }
    (folder / "results.json").write_text(json.dumps(document))
    (folder / "command.txt").write_text("2026-01-02T03:00:00+00:00 host=h  tools/train_net.py\n")
    (folder / "environment.txt").write_text("a machine of the tests\n")
    write_records(folder / "records.jsonl", records)
    (folder / "records").mkdir()
    lines = [json.dumps({"batch": 0, "place": i, "of": len(records), **r.to_json()}) for i, r in enumerate(records)]
    (folder / "records" / "process-0-of-1.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def part_segmentation(entries: Sequence[Any]) -> dict[str, Any]:
    """As the evaluator of part segmentations computes it."""
    evaluator = PartSegmentationEvaluator(["cat:ear", "cat:tail", "dog:ear"])
    found = evaluator.combine([one for one in entries if one is not None])
    assert found is not None
    values: dict[str, Any] = found["part_segmentation"]
    return values


def write_examples(
    folder: Path,
    perturbations: Sequence[str],
    images: int,
    *,
    labels: Sequence[str | None] = ("cat", "dog"),
    side: int = 48,
    noise: bool = False,
) -> None:
    """``examples/`` of a run: image i is grey 40 + i, under a perturbation 5 lighter; the first two pixels rows a part.

    Ids and verdicts are those of the first images of ``records.jsonl``. ``noise`` makes pictures large.
    """
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    records = {name: [one for one in lines if one["perturbation"] == name] for name in perturbations}
    (folder / "examples").mkdir()
    draw = np.random.default_rng(0)
    listed = []
    for place, perturbation in enumerate(perturbations):
        for i in range(images):
            array = np.full((side, side, 3), 40 + i % 100 + 5 * (place > 0), dtype=np.uint8)
            if noise:
                array = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            parts = np.zeros((side, side), dtype=np.uint8)
            parts[: 2 * (1 + place)] = 1
            Image.fromarray(array).save(folder / "examples" / f"{place}-{i}.png")
            Image.fromarray(parts).save(folder / "examples" / f"{place}-{i}-parts.png")
            record = records[perturbation][i]
            right = not record["fooled"]
            if record["label"] is None:
                right = record["found"] == record["objects"] if record["objects"] else None
            label = labels[i % len(labels)]
            listed.append(
                {
                    "image_id": record["image_id"],
                    "perturbation": perturbation,
                    "label": label,
                    "prediction": None if label is None else (label if right else "bird"),
                    "confidence": None if label is None else 0.5 + 0.01 * i,
                    "correct": right,
                    "image": f"{place}-{i}.png",
                    "part_map": f"{place}-{i}-parts.png",
                    "boxes": [],
                }
            )
    index = {"schema_version": 1, "part_names": ["cat:ear", "cat:tail"], "examples": listed}
    (folder / "examples" / "index.json").write_text(json.dumps(index))


class Page(HTMLParser):
    """Elements of a page: (tag, attributes, text inside)."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.inside: dict[str, list[str]] = {}  # tags around each element that has an id
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        element = (tag, {key: value or "" for key, value in attributes}, [])
        self.elements.append(element)
        if "id" in element[1]:
            self.inside[element[1]["id"]] = [one[0] for one in self._open]
        if tag not in ("meta", "link", "img", "br"):
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element[2].append(data)

    def all(self, tag: str, **attributes: str) -> list[tuple[dict[str, str], str]]:
        """(attributes, text) of the elements with these attributes; ``class_`` asks for one of the classes."""
        found = []
        for name, has, text in self.elements:
            wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
            classes = wanted.pop("class", None)
            fits = name == tag and all(has.get(key) == value for key, value in wanted.items())
            if fits and (classes is None or classes in has.get("class", "").split()):
                found.append((has, "".join(text)))
        return found

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]
