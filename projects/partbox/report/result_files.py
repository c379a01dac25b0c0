"""What a report reads: results and records of runs, found, checked and named before any work starts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from partbox.suggestions import nearest_files, sentence

ImageId = int | str
SCHEMA_VERSIONS = (2,)  # of results.json
RESULTS, RECORDS, BATCHES = "results.json", "records.jsonl", "records"
BUDGETS, SWEEP = "label_budget.json", "sweep_results.json"
OF_BUDGET = {
    *("run", "seed", "mask_share", "box_share", "images_with_masks", "images_with_boxes", "labelled_parts", "hours"),
    *("clean_accuracy", "robust_accuracy", "unreliable"),
}  # of each run in BUDGETS


class ReportError(ValueError):
    """Something that a report is asked to show cannot be shown; the message names the file and what to do."""


class ImageRecord(NamedTuple):
    """What ``records.jsonl`` says of one image under one perturbation; see docs/robust_evaluation.md."""

    label: int | None
    fooled: bool
    objects: int | None
    found: int | None
    false_objects: int | None = None


@dataclass(frozen=True)
class Run:
    """One evaluated run.

    Attributes:
        name: unique in the report.
        path: of its results file.
        document: content of that file.
        records: by perturbation and image id; None where there is no ``records.jsonl`` beside it.
    """

    name: str
    path: Path
    document: Mapping[str, Any]
    records: Mapping[str, Mapping[ImageId, ImageRecord]] | None = field(repr=False)

    @property
    def folder(self) -> Path | None:
        """Of the run; None for a results file under another name, a copy: what lies beside it may be of other runs."""
        return self.path.parent if self.path.name == RESULTS else None

    @property
    def results(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["results"]
        return found

    @property
    def entries(self) -> Mapping[str, Mapping[str, Any]]:
        """Results by perturbation."""
        found: Mapping[str, Mapping[str, Any]] = self.results["by_perturbation"]
        return found

    @property
    def is_classifier(self) -> bool:
        return "clean_accuracy" in self.results


@dataclass(frozen=True)
class Results:
    """Everything a report is made from.

    Attributes:
        runs: in the order given, each once.
        budgets: summaries of label-budget sweeps, by the name of their folder.
        sources: the paths given.
        missing: sentences on what a sweep lacks.
    """

    runs: Sequence[Run]
    budgets: Mapping[str, Mapping[str, Any]]
    sources: Sequence[Path]
    missing: Sequence[str] = ()


def entry_value(entry: Mapping[str, Any], key: str) -> Any:
    """What stands under a dotted key; None without it."""
    value: Any = entry
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def role_of(settings: Mapping[str, Any]) -> str:
    """``clean``, ``corruption``, ``noise`` or ``attack``, from the settings of a perturbation."""
    name = settings["name"]
    return name if name in ("clean", "corruption", "noise") else "attack"


def threat_of(perturbation: str, settings: Mapping[str, Any]) -> str | None:
    """The threat model of a perturbation as ``robust_accuracy`` names it, such as ``linf 8/255``; None without one."""
    return " ".join(perturbation.split(" ")[-2:]) if "norm" in settings else None


def read_results(paths: Iterable[str | Path]) -> Results:
    """Read run folders, results files, and folders of sweeps.

    Raises:
        ReportError: no results there, an unfinished evaluation, a file that is damaged or of another version, or
            records that are not those of the results beside them.
    """
    sources = [Path(path) for path in paths]
    if not sources:
        raise ReportError("no results: give at least one run folder or results file")
    files: dict[Path, Path] = {}
    budgets: dict[Path, Mapping[str, Any]] = {}
    missing: list[str] = []
    once: dict[Path, Path] = {}
    for source in sources:
        folder = source.parent if source.name in (BUDGETS, SWEEP) and source.is_file() else source
        once.setdefault(folder.resolve(), folder)
    for source in once.values():
        for file in _results_files(source, budgets, missing):
            files.setdefault(file.resolve(), file)
    runs = [_read_run(path, name) for path, name in _named(list(files.values())).items()]
    if not runs and not any(summary["runs"] for summary in budgets.values()):
        raise ReportError(f"{sources[0]}: no finished run in it")
    return Results(runs, {_named(list(budgets))[path]: budgets[path] for path in budgets}, sources, missing)


def _results_files(source: Path, budgets: dict[Path, Mapping[str, Any]], missing: list[str]) -> Iterator[Path]:
    """The results files that a path given by the user stands for; summaries of sweeps are put aside."""
    if source.is_file():
        if source.suffix.lower() in (".html", ".htm"):
            raise ReportError(f"{source} is a page and no results file: write --output {source} to make a page there")
        yield source
    elif (source / RESULTS).is_file():
        yield source / RESULTS
    elif (source / BUDGETS).is_file():
        summary = _object(source / BUDGETS)
        if not _is_budget(summary):
            raise ReportError(
                f"{source / BUDGETS} is no summary of a label-budget sweep: run tools/label_budget.py again"
            )
        budgets[source] = summary
        missing += [f"{source.name}: {name} is not finished" for name in summary["missing"]]
        for run in summary["runs"]:
            if (source / run["run"] / RESULTS).is_file():
                yield source / run["run"] / RESULTS
            else:
                missing.append(f"{source.name}: the folder of {run['run']} is not there, only its line in {BUDGETS}")
    elif (source / SWEEP).is_file():
        yield from _cells_of(source, missing)
    elif not source.exists():
        raise ReportError(
            f"{source} does not exist{sentence(nearest_files(source)) or ': give a run folder or a results file'}"
        )
    elif (source / BATCHES).is_dir():
        raise ReportError(
            f"{source} holds an unfinished evaluation (records, and no {RESULTS}): start the same command again, it "
            "goes on where it was"
        )
    else:
        inside = sorted(path.parent.name for path in source.glob(f"*/{RESULTS}"))
        raise ReportError(
            f"{source} has no {RESULTS}: "
            + (
                f"give the runs in it, such as {source / inside[0]} ({len(inside)} of its folders have one)"
                if inside
                else "evaluate the run with tools/train_net.py or tools/train_detector.py first"
            )
        )


def _is_budget(summary: Mapping[str, Any]) -> bool:
    runs, known = summary.get("runs"), summary.keys()
    return (
        isinstance(runs, list)
        and {"missing", "dataset", "training_images", "seconds_per_box", "seconds_per_mask"} <= known
        and all(isinstance(run, dict) and run.keys() >= OF_BUDGET for run in runs)
    )


def _cells_of(source: Path, missing: list[str]) -> Iterator[Path]:
    """The results files of a Slurm sweep's cells; of a sweep that was moved, those beside ``sweep_results.json``."""
    document = _object(source / SWEEP)
    if not isinstance(document.get("cells"), list) or not isinstance(document.get("missing"), list):
        raise ReportError(f"{source / SWEEP} is no summary of a sweep: run tools/submit_slurm.py collect again")
    missing += [f"{source.name}: {one['name']} is missing ({one['reason']})" for one in document["missing"]]
    for cell in document["cells"]:
        places = [Path(cell["folder"]), source / Path(cell["folder"]).name]
        there = [place / RESULTS for place in places if (place / RESULTS).is_file()]
        if not there:
            raise ReportError(f"{source / SWEEP}: the results of {cell['name']} are not in {places[0]}")
        yield there[0]


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:  # ValueError: neither JSON nor UTF-8
        raise ReportError(f"{path} is damaged or cannot be read ({error}): evaluate the run again") from error
    if not isinstance(values, dict):
        raise ReportError(f"{path} holds no JSON object: give a run folder or its {RESULTS}")
    return values


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _named(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each path: that of its folder, with as many folders above it as it takes to tell them apart."""
    # a copy of a results file has its own name, with what stands behind the dot where it takes that, too
    whole = [path.parent.resolve() / path.name if path.is_file() else path.resolve() for path in paths]
    short = [one.parent if one.name == RESULTS else one.with_suffix("") if one.is_file() else one for one in whole]
    pairs = zip(whole, short, strict=True)
    folders = [one if short.count(name) > 1 and one.name != RESULTS else name for one, name in pairs]
    parts = [folder.parts for folder in folders]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)) and depth < max(map(len, parts)):
        depth += 1
    return {path: "/".join(part[-depth:]) for path, part in zip(paths, parts, strict=True)}


def _read_run(path: Path, name: str) -> Run:
    document = _object(path)
    version = document.get("schema_version")
    if version not in SCHEMA_VERSIONS:
        known = ", ".join(map(str, SCHEMA_VERSIONS))
        raise ReportError(f"{path} has schema version {version!r}, this report reads {known}: evaluate the run again")
    if not _is_complete(document):
        raise ReportError(f"{path} is not a complete results file of partbox: evaluate the run again")
    run = Run(name, path, document, None)
    if run.folder is None or not (run.folder / RECORDS).is_file():
        return run
    run = replace(run, records=_read_records(run.folder / RECORDS))
    _check_records(run)
    return run


def _is_complete(document: Mapping[str, Any]) -> bool:
    """Whether everything is there that every results file has."""
    try:
        entries, results = document["results"]["by_perturbation"], document["results"]
        return (
            {"config", "created", "command"} <= document.keys()
            and {"name", "images"} <= document["dataset"].keys()
            and "training" in document["seeds"]
            and isinstance(results["warnings"], list)
            and ("clean_accuracy" not in results or "majority_share" in results)
            and "clean" in entries
            and all("name" in entry["settings"] and isinstance(entry["images"], int) for entry in entries.values())
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _read_records(path: Path) -> dict[str, dict[ImageId, ImageRecord]]:
    records: dict[str, dict[ImageId, ImageRecord]] = {}
    number = 0
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                number += 1
                one = json.loads(line)
                counts = (one.get(name) for name in ("objects", "found", "false_objects"))
                kept = ImageRecord(one["label"], bool(one["fooled"]), *counts)
                records.setdefault(one["perturbation"], {})[one["image_id"]] = kept
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path}, line {number} is damaged ({type(error).__name__}: {error}): delete {RESULTS} and {RECORDS} and "
            "start the evaluation again, it computes them from the records"
        ) from error
    return records


def right_images(run: Run, perturbation: str) -> dict[ImageId, bool]:
    """Whether each image is right, by the rule of ``accuracy`` in results.json: under an attack only if clean, too."""
    assert run.records is not None
    attack = role_of(run.entries[perturbation]["settings"]) == "attack"
    clean = run.records["clean"]
    return {
        image: not one.fooled and (not attack or not clean[image].fooled)
        for image, one in run.records[perturbation].items()
    }


def _check_records(run: Run) -> None:
    """Refuse records that do not give the numbers beside them: every interval would be of something else."""
    assert run.records is not None
    for name, entry in run.entries.items():
        found = run.records.get(name, {})
        same = len(found) == entry["images"] and found.keys() == run.records["clean"].keys()
        if same and "correct" in entry:
            same = sum(right_images(run, name).values()) == entry["correct"]
        if same and "objects" in entry:
            same = sum(one.found or 0 for one in found.values()) == entry["objects_found"]
        if same and "false_objects" in entry:
            same = sum(one.false_objects or 0 for one in found.values()) == entry["false_objects"]
        if not same:
            raise ReportError(
                f"{run.path.parent / RECORDS} does not give the numbers of {run.path} under {name}: they are of "
                "different evaluations; delete both and start the evaluation again, it computes them from the records"
            )
