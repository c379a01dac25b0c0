"""Which runs are one model: those that differ only in the seed of their training."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import yaml

from .result_files import ReportError, Run

# What may differ between two trainings of one model: the seed, and what does not decide the numbers of an evaluation.
NO_MODEL = (
    "SEED",
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATALOADER.NUM_WORKERS",
    "INPUT.VERIFY_IMAGES",
    "ROBUST_EVAL.SELF_CHECK_IMAGES",
    "ROBUST_EVAL.EXAMPLES",
    "ROBUST_EVAL.EXAMPLE_SCORE",
)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Model:
    """One row of the report: a run, or several that differ only in their seed.

    Attributes:
        name: unique in the report.
        runs: all evaluated on the same images under the same perturbations.
    """

    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        """Of the trainings."""
        return [run.document["seeds"]["training"] for run in self.runs]


def group_by_seed(runs: Sequence[Run]) -> list[Model]:
    """Models in the order of their first run.

    Runs of one configuration are one model if their training seeds all differ. Two of the same seed are two evaluations
    of one training (the best and the last checkpoint, say), so none of them are put together.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    models: list[Model] = []
    for members in groups.values():
        seeds = [run.document["seeds"]["training"] for run in members]
        together = len(set(seeds)) == len(seeds)
        for one in [members] if together else [[run] for run in members]:
            models.append(Model(_name(one), tuple(one)))
    first = {id(run): place for place, run in enumerate(runs)}
    models.sort(key=lambda model: first[id(model.first)])
    return _unique(models)


def _identity(run: Run) -> str:
    """Text that is the same for runs that differ only in the seed of their training."""
    document = run.document
    config = configuration(run)
    kept = {
        key: value
        for key, value in config.items()
        if key not in (*NO_MODEL, "MODEL.WEIGHTS") and not key.startswith("TRACKING.")
    }
    facts = {
        "config": kept,
        "starts from": _start(run, str(config.get("MODEL.WEIGHTS", ""))),
        "weights": _file_name(document.get("weights", "")),
        "dataset": document["dataset"],
        "classes": document.get("class_names"),
        "evaluation seed": document["seeds"].get("evaluation"),
        "perturbations": {name: entry["settings"] for name, entry in run.entries.items()},
        "images": sorted(map(str, run.records["clean"])) if run.records is not None else None,
    }
    return json.dumps(facts, sort_keys=True, default=str)


def configuration(run: Run) -> dict[str, Any]:
    """The configuration of a run by dotted key.

    Raises:
        ReportError: the results file holds none that can be read.
    """
    try:
        # half a character, of a folder whose name is not UTF-8, is written and cannot be read
        text = re.sub(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}", "?", run.document["config"])
        values = yaml.load(text, Loader=LOADER)  # both are safe loaders
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ReportError(f"{run.path}: its configuration cannot be read ({error}): evaluate the run again") from error
    return dict(_flat(values)) if isinstance(values, dict) else {}


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _start(run: Run, weights: str) -> str:
    """Folder and file of the weights that a training starts from, whatever its seed; the same file name in the folder
    of another model is another start.

    An evaluation alone no longer says what its training started from. The folder of that training stands for it: where
    the folders of two differ in more than their seeds, they may be two models.
    """
    if "://" in weights:
        return weights
    path = PurePath(weights)
    evaluated = weights == str(run.document.get("weights", ""))
    return _without_seed(str(path) if evaluated else "/".join(path.parts[-2:]), run.document["seeds"]["training"])


def _without_seed(path: str, seed: int) -> str:
    """A path with a star where it names the seed: behind the word, or, without that, as a number of its own."""
    named = re.sub(rf"(seed[-_. ]?){seed}(?!\d)", r"\1*", path, flags=re.IGNORECASE)
    return named if named != path else re.sub(rf"(?<!\d){seed}(?!\d)", "*", path)


def _file_name(weights: Any) -> str:
    """Of weights: every seed has its own folder. Addresses such as ``pkg://...`` name a file as a whole."""
    text = str(weights)
    return text if "://" in text else PurePath(text).name


def same_images(one: Run, other: Run) -> bool:
    """Whether two evaluations saw the same images: by their ids, else by what drew them."""
    data, others = one.document["dataset"], other.document["dataset"]
    if (data["name"], data["images"]) != (others["name"], others["images"]):
        return False
    if one.records is not None and other.records is not None:
        return one.records["clean"].keys() == other.records["clean"].keys()
    seeds = [run.document["seeds"].get("evaluation") for run in (one, other)]
    return data["images"] == data.get("of", data["images"]) or seeds[0] == seeds[1]


def by_images(models: Sequence[Model]) -> list[list[Model]]:
    """The models that were evaluated on the same images together, in their order."""
    groups: list[list[Model]] = []
    for model in models:
        for group in groups:
            if same_images(group[0].first, model.first):
                group.append(model)
                break
        else:
            groups.append([model])
    return groups


def _name(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(runs) == 1:
        return names[0]
    without = {re.sub(r"[-_. ]?seed[-_. ]?\d+(?=$|--|/)", "", name) for name in names}
    common = without.pop() if len(without) == 1 else names[0]
    return f"{common} ({len(runs)} seeds)"


def _unique(models: Sequence[Model]) -> list[Model]:
    """Names that two groups share get the name of their first run behind them."""
    names = [model.name for model in models]
    found: dict[str, Model] = {}
    for model in models:
        name = f"{model.name} from {model.first.name}" if names.count(model.name) > 1 else model.name
        name = distinct(name, found)
        found[name] = Model(name, model.runs)
    return list(found.values())


def distinct(name: str, taken: Collection[str]) -> str:
    """The name, with a number behind it where it is taken."""
    number, free = 2, name
    while free in taken:
        number, free = number + 1, f"{name} [{number}]"
    return free
