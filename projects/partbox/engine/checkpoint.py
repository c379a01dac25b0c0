"""Checkpoints that are whole, safe to load, and fit completely."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from partbox.files import write_atomically, write_text
from partbox.processes import on_main
from partbox.suggestions import nearest_files, sentence

logger = logging.getLogger(__name__)

NAMES = ("class_names", "part_names", "channel_names", "channel_of_part")  # what a model's outputs mean
PREFIX = "resume"  # of the names of checkpoints that a run continues from
NUMBERED = re.compile(rf"{PREFIX}_(\d+|final)\.pth")
DAMAGED = ".damaged"  # added to the name of a checkpoint that could not be read
WEIGHTS = ("model_best.pth", "model_final.pth")  # of a run, without what it takes to continue


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit the model."""


class DamagedCheckpoint(CheckpointError):
    """A file that is not there, truncated, or no checkpoint of the kind that is wanted."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint; names the run's other checkpoints beside it, if any.
    """
    try:
        return _contents(Path(path))
    except DamagedCheckpoint as error:
        others = [other.name for other in checkpoints_beside(path) if zipfile.is_zipfile(other)]
        offer = f"; whole files beside it: {', '.join(others)}" if others else ""
        hint = "" if others or Path(path).is_file() else sentence(nearest_files(Path(path)))
        raise DamagedCheckpoint(f"checkpoint {path} {error}{offer}{hint}") from error


def checkpoints_beside(path: str | Path) -> list[Path]:
    """The run's other checkpoints in the folder of this one: weights, then those to continue from, newest first."""
    folder = Path(path).parent
    weights = [folder / name for name in WEIGHTS if (folder / name).is_file()]
    return [other for other in (*weights, *resumable_files(folder)) if other.name != Path(path).name]


def weights_of_run(run: str | Path) -> str:
    """The weights that an evaluation of a finished run takes: the best, else the last.

    Raises:
        CheckpointError: there are none.
    """
    for name in WEIGHTS:
        if (Path(run) / name).is_file():
            return str(Path(run) / name)
    unfinished = resumable_files(run)
    others = f", such as {unfinished[0]}" if unfinished else ""
    raise CheckpointError(
        f"{run} has neither {WEIGHTS[0]} nor {WEIGHTS[1]}: finish the training (--resume), or name the weights{others}"
    )


def resumable_files(folder: str | Path) -> list[Path]:
    """The files of a run's folder that by their names can be continued from, newest first."""
    files = [path for path in Path(folder).glob(f"{PREFIX}_*.pth") if NUMBERED.fullmatch(path.name)]
    return sorted(files, key=iteration_of, reverse=True)


def iteration_of(path: Path) -> float:
    """The iteration in the name of a checkpoint to continue from; infinite for the last one."""
    found = NUMBERED.fullmatch(path.name)
    if found is None:
        raise ValueError(f"{path.name} is no name of a checkpoint to continue from")
    return float("inf") if found[1] == "final" else int(found[1])


def _contents(path: Path) -> dict[str, Any]:
    """See :func:`read_checkpoint`; what :class:`DamagedCheckpoint` says here goes on the file's name."""
    if not path.is_file():
        raise DamagedCheckpoint("does not exist")
    try:
        file = open(path, "rb")  # noqa: SIM115 closed below; another error than one of reading
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be opened: {error}") from error
    with file:
        try:
            _check_sums(file)
            contents = torch.load(file, map_location="cpu", weights_only=True)
        except MemoryError as error:
            raise CheckpointError(f"checkpoint {path} does not fit into memory") from error
        except Exception as error:  # torch raises many types for a broken file
            raise DamagedCheckpoint(f"cannot be read (truncated or foreign): {_first_sentence(error)}") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise DamagedCheckpoint("has no 'model' entry with the weights")
    return contents


def _first_sentence(error: Exception) -> str:
    """What an error of torch says, without its advice."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no checkpoint, or holds more than tensors and plain values"
    text = re.sub(r"^\[enforce fail at [^]]*\][ .]*", "", str(error)).strip()
    return f"{type(error).__name__}: {text.splitlines()[0].split('. ')[0]}" if text else type(error).__name__


def _check_sums(file: IO[bytes]) -> None:
    """Raises ValueError for changed bytes, which torch would load as other weights without a word."""
    if zipfile.is_zipfile(file):
        changed = zipfile.ZipFile(file).testzip()
        if changed is not None:
            raise ValueError(f"the checksum of {changed} is another one")
    file.seek(0)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, anew: Sequence[str] = ()) -> None:
    """Load all weights or none.

    Args:
        model: takes the weights.
        state: name -> tensor.
        source: where they come from, for messages.
        anew: patterns of names, such as ``*class_embed*``: these keep the model's own values, whatever ``state`` has.

    Raises:
        CheckpointError: a tensor is missing, not expected, or has another shape (the first few are named), or a pattern
            of ``anew`` matches nothing.
    """
    complete = model.state_dict()
    for pattern in anew:
        if not any(fnmatchcase(name, pattern) for name in complete):
            raise CheckpointError(f"MODEL.WEIGHTS_EXCEPT: no parameter of the model is called {pattern!r}")

    def kept(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t for name, t in tensors.items() if not any(fnmatchcase(name, pattern) for pattern in anew)}

    own, given = kept(complete), kept(state)
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is not expected" for name in given if name not in own]
    problems += [
        f"{name} has shape {tuple(given[name].shape)}, the model {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source} does not fit the model: {'; '.join(problems[:3])}{more}. Use the config.yaml that lies beside "
            "the checkpoint, or name what training is to start anew in MODEL.WEIGHTS_EXCEPT."
        )
    model.load_state_dict({**complete, **given})


def check_names(model: nn.Module, contents: Mapping[str, Any], source: str) -> None:
    """Compare the classes, parts and groups of parts that a checkpoint was made for with the model's.

    Weights of as many classes in another order, or of groups with other members, would load and give wrong labels.

    Raises:
        CheckpointError: they differ.
    """
    for key in NAMES:
        own, stored = list(getattr(model, key, ())), contents.get(key)
        if stored is not None and list(stored) != own:
            raise CheckpointError(
                f"{source} was made for other {key.replace('_', ' ')} (or another order): {stored[:4]} ..."
            )


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Compare a stored state with the optimizer's parameters; torch loads tensors of any shape.

    Raises:
        ValueError: it is of other parameters.
    """
    groups = [group["params"] for group in optimizer.param_groups]
    stored = [group["params"] for group in state["param_groups"]]
    if [len(group) for group in groups] != [len(group) for group in stored]:
        raise ValueError("the optimizer's state is of other groups of parameters")
    shape_of = {
        number: parameter.shape
        for numbers, parameters in zip(stored, groups, strict=True)
        for number, parameter in zip(numbers, parameters, strict=True)
    }
    for number, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim() and value.shape != shape_of[number]:
                raise ValueError(
                    f"the optimizer's {name} of parameter {number} has shape {tuple(value.shape)}, the parameter "
                    f"{tuple(shape_of[number])}"
                )


class RunCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic writes; only partbox's own runs are loaded through it.

    In a run of several processes the main one writes and chooses; all must call the same methods.
    """

    _read: dict[str, Any] | None = None  # contents of the chosen file, in the process that has read it

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth whole or not at all, then point ``last_checkpoint`` to it; the main process does."""
        contents = {  # in every process: they gather what each has of it
            "model": self.model.state_dict(),
            **{key: obj.state_dict() for key, obj in self.checkpointables.items()},
        }
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        _write(path, {**contents, **kwargs})
        self.tag_last_checkpoint(path.name)
        logger.info("Saved checkpoint %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def drop_older(self, iteration: int, *, keep: int) -> None:
        """Delete the checkpoints of earlier iterations, where those of this one and ``keep`` - 1 before it are there.

        The folder is looked at each time, so that those of earlier starts of a run are dropped as well.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        for path in [one for one in resumable_files(self.save_dir) if iteration_of(one) <= iteration][keep:]:
            path.unlink()

    def resume(self) -> bool:
        """Load the newest whole checkpoint of this run into the model and everything tracked; False where none is.

        A damaged one is set aside under another name, and the one before is taken; the log says so.

        Raises:
            CheckpointError: none can be read, or it does not fit; then nothing is changed.
        """
        path = on_main(self._choose)
        if path is None:
            return False
        contents, self._read = self._read or self._resumable(path), None
        self._load_all(contents, path)
        logger.info("Resumed from %s", path)
        return True

    def _candidates(self) -> list[Path]:
        """The checkpoint that the run calls its last, and the others from the newest to the oldest."""
        folder = Path(self.save_dir)
        tag = folder / "last_checkpoint"
        last = tag.read_text(encoding="utf-8", errors="replace").strip() if tag.is_file() else ""
        named = [folder / last] if NUMBERED.fullmatch(last) else []
        return named + [path for path in resumable_files(folder) if path not in named]

    def _choose(self) -> Path | None:
        """The checkpoint to continue from, those that were tried before it set aside; None where there is none."""
        failures: list[tuple[Path, str]] = []
        for path in self._candidates():
            try:
                self._read = self._resumable(path)
            except DamagedCheckpoint as error:
                failures.append((path, str(error)))
                continue
            for damaged, reason in failures:
                _set_aside(damaged, reason, instead=path)
            self.tag_last_checkpoint(path.name)
            return path
        if failures:
            tried = "; ".join(f"{path.name} {reason}" for path, reason in failures)
            weights = [path.name for path in checkpoints_beside(failures[0][0]) if path.name in WEIGHTS]
            start = "".join(f" (MODEL.WEIGHTS {Path(self.save_dir) / one} starts from it)" for one in weights[:1])
            raise CheckpointError(
                f"{self.save_dir} holds no checkpoint to continue from: {tried}. Bring one back from a copy, or train "
                f"anew in another OUTPUT_DIR{start}"
            )
        return None

    def _resumable(self, path: Path) -> dict[str, Any]:
        contents = _contents(path)
        for key in self.checkpointables:
            if not isinstance(contents.get(key), dict):
                raise DamagedCheckpoint(f"has no entry {key!r}: it is not one to resume from")
        return contents

    def _load_all(self, contents: Mapping[str, Any], path: Path) -> None:
        """Load the model and everything tracked, or nothing.

        Raises:
            CheckpointError: something does not fit.
        """
        before = deepcopy({key: tracked.state_dict() for key, tracked in self.checkpointables.items()})
        model = deepcopy(self.model.state_dict())
        load_weights(self.model, contents["model"], str(path))
        try:
            for key, tracked in self.checkpointables.items():
                _check_entries(before[key], contents[key])
                if isinstance(optimizer := getattr(tracked, "optimizer", None), torch.optim.Optimizer):
                    check_optimizer_state(optimizer, contents[key]["optimizer"])
                tracked.load_state_dict(contents[key])
        except Exception as error:  # whatever a state dict of other code raises
            self.model.load_state_dict(model)
            for key, tracked in self.checkpointables.items():
                tracked.load_state_dict(before[key])
            raise CheckpointError(f"checkpoint {path} does not fit this run: {' '.join(str(error).split())}") from error


def _set_aside(path: Path, reason: str, *, instead: Path) -> None:
    """Give a damaged checkpoint another name, under which nothing looks for checkpoints."""
    if not path.exists():
        logger.warning("Checkpoint %s %s: going on from %s", path, reason, instead.name)
        return
    aside, number = path.with_name(path.name + DAMAGED), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{DAMAGED}-{number}")
    path.rename(aside)
    logger.warning("Checkpoint %s %s. It is called %s now; going on from %s", path, reason, aside.name, instead.name)


def _check_entries(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raises ValueError where two states have other entries; detectron2 leaves out hooks that a state does not know."""
    for one, other in ((own, stored), (own.get("hooks", {}), stored.get("hooks", {}))):
        if one.keys() != other.keys():
            raise ValueError(f"it has no, or other, entries {', '.join(sorted(map(str, one.keys() ^ other.keys())))}")


def save_weights(path: str | Path, model: nn.Module, **facts: Any) -> None:
    """Write the weights alone, for evaluation and as a start for other runs.

    Names of classes and parts, where the model has them, and plain ``facts`` stand beside them.
    """
    names = {key: list(getattr(model, key)) for key in NAMES if hasattr(model, key)}
    _write(Path(path), {"model": model.state_dict(), **names, **facts})


def _write(path: Path, contents: Mapping[str, Any]) -> None:
    """Raises CheckpointError where it cannot be written, such as on a full disk; then the old file is still there."""
    try:
        write_atomically(path, lambda file: torch.save(dict(contents), file))
    except (OSError, RuntimeError) as error:  # torch says of a full disk that its writer failed
        raise CheckpointError(f"checkpoint {path} cannot be written: {_first_sentence(error)}") from error
