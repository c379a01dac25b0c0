"""Checkpoints that are whole, safe to load, and fit completely."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from partbox.files import write_atomically, write_text

logger = logging.getLogger(__name__)

NAMES = ("class_names", "part_names", "channel_names", "channel_of_part")  # what a model's outputs mean


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or does not fit the model."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The contents of a checkpoint file; only tensors and plain values are unpickled.

    Raises:
        CheckpointError: missing, truncated, or not a checkpoint.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        raise CheckpointError(f"checkpoint {path} cannot be read (truncated or foreign): {error}") from error
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise CheckpointError(f"checkpoint {path} has no 'model' entry with the weights")
    return contents


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


class RunCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with atomic writes; only partbox's own runs are loaded through it."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth whole or not at all, then point ``last_checkpoint`` to it; the main process does."""
        contents = {  # in every process: they gather what each has of it
            "model": self.model.state_dict(),
            **{key: obj.state_dict() for key, obj in self.checkpointables.items()},
        }
        if not self.save_dir or not self.save_to_disk:
            return
        path = Path(self.save_dir) / f"{name}.pth"
        write_atomically(path, lambda file: torch.save({**contents, **kwargs}, file))
        self.tag_last_checkpoint(path.name)
        logger.info("Saved checkpoint %s", path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        write_text(Path(self.save_dir) / "last_checkpoint", last_filename_basename)

    def resume(self) -> bool:
        """Load the last checkpoint of this run into the model and everything tracked; False where there is none.

        Raises:
            CheckpointError: it cannot be read or does not fit.
        """
        if not self.has_checkpoint():
            return False
        path = self.get_checkpoint_file()
        contents = read_checkpoint(path)
        load_weights(self.model, contents["model"], path)
        for key, tracked in self.checkpointables.items():
            if key not in contents:
                raise CheckpointError(f"checkpoint {path} has no entry {key!r}: it is not one to resume from")
            tracked.load_state_dict(contents[key])
        logger.info("Resumed from %s", path)
        return True


def save_weights(path: str | Path, model: nn.Module, **facts: Any) -> None:
    """Write the weights alone, for evaluation and as a start for other runs.

    Names of classes and parts, where the model has them, and plain ``facts`` stand beside them.
    """
    names = {key: list(getattr(model, key)) for key in NAMES if hasattr(model, key)}
    write_atomically(path, lambda file: torch.save({"model": model.state_dict(), **names, **facts}, file))
