"""What a submission runs: a list of cells, each one run of a tool in a folder of its own."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode

from partbox.evaluation.perturbations import without_name
from partbox.evaluation.record_files import RecordsError, read_object, writing
from partbox.files import write_lines, write_text
from partbox.suggestions import nearest_files, sentence

from ..build import perturbations_of
from ..checkpoint import resumable_files
from ..checks import ConfigError
from ..detectors import is_segmenter
from ..folder_guide import submission_guide, tool_of
from ..hooks.best_checkpoint import BEST, FINAL
from ..run_folder import append_start
from ..setup import load_config

PLAN = "plan.json"
COMMANDS = "commands.txt"
CLEAN = [{"name": "clean"}]


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        name: of the cell, unique in its plan.
        kind: ``train`` or ``evaluate``.
        command: a tool of the repository and its arguments.
        output: folder of the run.
        config: name of the configuration, or of the trained run.
        seed: of the training.
        perturbation: name; empty for a training.
        training: name of the cell whose weights it needs; empty if they are there already.
        needs: file that its training leaves at the end; without it the weights are those of an unfinished one.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    output: str
    config: str
    seed: int
    perturbation: str = ""
    training: str = ""
    needs: str = ""

    @property
    def line(self) -> str:
        """The command as a line of a shell."""
        return shlex.join(self.command)

    @property
    def finished(self) -> bool:
        """Whether its results are there."""
        return (Path(self.output) / "results.json").is_file()


def check_perturbations(cfg: CfgNode) -> None:
    """Refuse perturbations that do not exist or attack another kind of model.

    Raises:
        ConfigError: naming them.
    """
    if tool_of(cfg) == "tools/train_net.py":
        perturbations_of(cfg)
    else:
        perturbations_of(cfg, "segmenter" if is_segmenter(cfg) else "detector")


def single(kind: str, config_file: Path, options: Sequence[str]) -> Cell:
    """The one run of a configuration: a training with its evaluation, or an evaluation.

    Raises:
        ConfigError: the configuration is wrong, has no OUTPUT_DIR of its own, or names weights that are not there.
    """
    cfg = load_config(config_file, options)
    check_perturbations(cfg)
    given = dict(zip(options[::2], options[1::2], strict=True))
    if "OUTPUT_DIR" not in given:
        raise ConfigError("name the run's folder: OUTPUT_DIR output/my_run")
    mode = "--resume" if kind == "train" else "--eval-only"
    if kind == "evaluate":
        _check_weights(cfg.MODEL.WEIGHTS)
    output = Path(cfg.OUTPUT_DIR).resolve()
    command = (tool_of(cfg), mode, "--config-file", str(config_file), *options)
    return Cell(output.name, kind, command, str(output), config_file.stem, max(cfg.SEED, 0))


def sweep_of_configurations(
    files: Sequence[Path],
    seeds: Sequence[int],
    perturbations: Sequence[Mapping[str, Any]],
    folder: Path,
    options: Sequence[str],
) -> list[Cell]:
    """Trainings of each configuration with each seed, then an evaluation of each under each perturbation.

    Raises:
        ConfigError: a configuration or perturbation is wrong, or two are called the same.
    """
    folder = folder.resolve()
    trainings, evaluations = [], []
    names = _unique([file.stem for file in files], "configurations")
    _unique([str(seed) for seed in seeds], "seeds")
    kinds = _perturbation_names(perturbations)
    _refuse(options, ("OUTPUT_DIR", "SEED", "ROBUST_EVAL.PERTURBATIONS"), "the sweep sets it for each run")
    for config, file in zip(names, files, strict=True):
        for seed in seeds:
            own = [*options, "SEED", str(seed)]
            cfg = load_config(file, [*own, "ROBUST_EVAL.PERTURBATIONS", _text(perturbations)])
            check_perturbations(cfg)
            name = f"{config}-seed{seed}"
            run = folder / "runs" / name
            # its own evaluation is short: the perturbations are cells of their own
            during = ["ROBUST_EVAL.PERTURBATIONS", _text(CLEAN), "OUTPUT_DIR", str(run)]
            command = (tool_of(cfg), "--resume", "--config-file", str(file), *own, *during)
            trainings.append(Cell(name, "train", command, str(run), config, seed))
            best = tool_of(cfg) == "tools/train_net.py" and bool(cfg.DATASETS.VALIDATION)
            weights = run / (BEST if best else FINAL)
            for kind, spec in kinds.items():
                evaluations.append(_evaluation(folder, trainings[-1], run, weights, kind, spec, tool_of(cfg)))
    return [*trainings, *evaluations]


def sweep_of_runs(
    runs: Sequence[Path], perturbations: Sequence[Mapping[str, Any]], folder: Path, options: Sequence[str]
) -> list[Cell]:
    """An evaluation of each trained run under each perturbation.

    Raises:
        ConfigError: a folder holds no finished run, a perturbation is wrong, or two runs are called the same.
    """
    folder = folder.resolve()
    names = _unique([run.resolve().name for run in runs], "runs")
    kinds = _perturbation_names(perturbations)
    _refuse(options, ("OUTPUT_DIR", "MODEL.WEIGHTS", "ROBUST_EVAL.PERTURBATIONS"), "the sweep sets it for each run")
    cells = []
    for name, run in zip(names, runs, strict=True):
        cfg = load_config(run / "config.yaml", [*options, "ROBUST_EVAL.PERTURBATIONS", _text(perturbations)])
        check_perturbations(cfg)
        weights = _weights_of(run)
        seed = max(cfg.SEED, 0)
        of_run = Cell("", "train", (), str(run), re.sub(r"-seed\d+$", "", name), seed)
        for kind, spec in kinds.items():
            cell = _evaluation(folder, of_run, run.resolve(), weights, kind, spec, tool_of(cfg), name, options)
            cells.append(cell)
    return cells


def _weights_of(run: Path) -> Path:
    """The weights of a finished run: the best, or the last."""
    best, final = run.resolve() / BEST, run.resolve() / FINAL
    if final.is_file() or (best.is_file() and not resumable_files(run)):  # a copy may have the best alone
        return best if best.is_file() else final
    raise ConfigError(f"{run} has no {FINAL}: it is no finished training")


def _evaluation(
    folder: Path,
    training: Cell,
    run: Path,
    weights: Path,
    kind: str,
    spec: Mapping[str, Any],
    tool: str,
    name: str = "",
    options: Sequence[str] = (),
) -> Cell:
    name = f"{name or training.name}--{kind}"
    output = folder / "cells" / name
    settings = ["MODEL.WEIGHTS", str(weights), "ROBUST_EVAL.PERTURBATIONS", _text([spec]), "OUTPUT_DIR", str(output)]
    command = (tool, "--eval-only", "--config-file", str(run / "config.yaml"), *options, *settings)
    needs = str(run / FINAL) if training.name else ""
    return Cell(name, "evaluate", command, str(output), training.config, training.seed, kind, training.name, needs)


def parse_perturbation(text: str) -> dict[str, Any]:
    """``clean`` or ``{name: pgd, eps: 8/255, steps: 20}``.

    Raises:
        ConfigError: neither.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"perturbation {text!r}: {error}") from None
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, dict):
        raise ConfigError(f"a perturbation is a name or a mapping such as '{{name: pgd, eps: 8/255}}', not {text!r}")
    if "name" not in value:
        raise ConfigError(f"perturbation {text!r}: {without_name(value)}")
    return value


def _perturbation_names(perturbations: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """A name for each that can be a folder's: ``pgd-eps8_255-steps20``."""
    names = {}
    for spec in perturbations:
        settings = "".join(f"-{key}{value}" for key, value in spec.items() if key != "name")
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{spec['name']}{settings}").strip("_")
        if name in names:
            raise ConfigError(f"the perturbation {name} is asked for twice")
        names[name] = spec
    return names


def _unique(names: list[str], what: str) -> list[str]:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"two {what} are called {name}: their results could not be told apart")
    return names


def _refuse(options: Sequence[str], keys: Sequence[str], why: str) -> None:
    for key in options[::2]:
        if key in keys:
            raise ConfigError(f"{key}: {why}")


def _check_weights(weights: str) -> None:
    if not weights:
        raise ConfigError("an evaluation needs MODEL.WEIGHTS, such as MODEL.WEIGHTS output/part_box/model_best.pth")
    if "://" not in weights and not Path(weights).is_file():
        raise ConfigError(f"MODEL.WEIGHTS {weights} does not exist{sentence(nearest_files(Path(weights)))}")


def _text(perturbations: Sequence[Mapping[str, Any]]) -> str:
    return repr([dict(spec) for spec in perturbations])


def save_plan(folder: Path, cells: Sequence[Cell]) -> None:
    """Write the plan and what explains the folder, or compare with what is there: one folder is one submission's.

    Raises:
        ConfigError: the folder holds another plan, or runs and no plan.
        RecordsError: its plan cannot be read, or the folder not written.
    """
    if (folder / PLAN).exists():
        if load_plan(folder) != list(cells):
            raise ConfigError(
                f"{folder} holds another submission: choose another --folder, or delete it with its results"
            )
        append_start(folder)
        return
    for cell in cells:  # their results would pass for those of this plan
        if folder in Path(cell.output).parents and Path(cell.output).exists():
            raise ConfigError(
                f"{cell.output} is of a submission whose {PLAN} is gone: choose another --folder, or delete {folder} "
                "with all that is in it"
            )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"schema_version": 1, "created": now, "cells": [asdict(cell) for cell in cells]}
    with writing(folder, "a submission"):
        write_lines(folder / COMMANDS, [cell.line for cell in cells])
        write_text(folder / "README.txt", submission_guide(folder, sys.argv))
        write_text(folder / PLAN, json.dumps(document, indent=2) + "\n")
    append_start(folder)


def load_plan(folder: Path) -> list[Cell]:
    """The cells of a submission.

    Raises:
        ConfigError: the folder holds none.
        RecordsError: its plan is damaged.
    """
    if not (folder / PLAN).is_file():
        raise ConfigError(f"{folder} has no {PLAN}: it is not the folder of a submission")
    document = read_object(folder / PLAN, "submit again into another folder")
    try:
        return [Cell(**{**cell, "command": tuple(cell["command"])}) for cell in document["cells"]]
    except (KeyError, TypeError) as error:
        raise RecordsError(f"{folder / PLAN} is damaged ({error}): submit again into another folder") from error
