"""All reference runs of a folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .attention_runs import compare_attention
from .comparison import Comparison
from .dino_runs import compare_dino_evaluation, compare_dino_training
from .edges import compare_across_edges
from .maskdino_runs import compare_decoder_alone, compare_maskdino_evaluation, compare_maskdino_training, load

KINDS = ("model", "io", "eval", "train_dnoff", "train_dnon")
Run = tuple[str, Callable[[], Comparison]]


def runs_of(folder: Path) -> Iterator[Run]:
    """Name and comparison of every run in a folder, in the order of names.

    What cannot be compared (weights of an unknown description, files that are not there or belong to nothing) is a run
    as well: calling it raises ValueError or FileNotFoundError, and the others are still compared. A run is a JSON file
    with ``cfg`` and the ``.pt`` files that begin with its name: ``maskdino_SET_VARIANT`` with
    ``_model``, ``_eval``, ``_train_dnoff`` and ``_train_dnon`` and the set's ``_images``; ``dino_SET_VARIANT`` likewise
    with the set's ``_inputs``; a decoder alone with ``_model`` and ``_io``; ``msdeformattn_SET`` with ``_ref2`` and
    ``_ref4``.

    Raises:
        FileNotFoundError: no run in the folder.
    """
    known: set[Path] = set()
    any_run = False
    for path in sorted(folder.glob("*.json")):
        for run in _runs_of_file(path):
            any_run = True
            known |= {path.with_name(f"{path.stem}_{kind}.pt") for kind in KINDS}
            known |= set(path.parent.glob(f"{path.stem}_ref*.pt"))
            yield run
    if not any_run:
        raise FileNotFoundError(f"{folder} holds no reference run, such as maskdino_A_ts_bitmask_3s.json")
    inputs = {*folder.glob("maskdino_*_images.pt"), *folder.glob("dino_*_inputs.pt")}
    for file in sorted(set(folder.glob("*.pt")) - known - inputs):
        yield file.stem, partial(_not_comparable, f"{file.name} belongs to no run that is known here")


def _runs_of_file(path: Path) -> Iterator[Run]:
    """The runs that a JSON file describes; none where it describes something else and has no weights beside it."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        yield path.stem, partial(_not_comparable, f"{path.name} cannot be read: {problem}")
        return
    described = document.get("cfg", {}) if isinstance(document, dict) else {}
    described = described if isinstance(described, dict) else {}
    if path.stem.startswith("msdeformattn_"):
        yield from _attention_runs(path, document)
    elif path.stem.startswith("maskdino_") and path.with_name(f"{path.stem}_io.pt").exists():
        yield from _decoder_runs(path, document)
    elif path.stem.startswith("maskdino_") and "variant" in described:
        yield from _maskdino_runs(path, document)
    elif path.with_name(f"{path.stem}_model.pt").exists():
        if path.stem.startswith("dino_") and "two_stage_type" in described:
            yield from _dino_runs(path, document)
        else:
            reason = f"{path.name} describes no run that is known here, and weights of that name are beside it"
            yield path.stem, partial(_not_comparable, reason)


def _not_comparable(reason: str) -> Comparison:
    raise ValueError(reason)


def _attention_runs(path: Path, document: dict[str, Any]) -> Iterator[Run]:
    for file in sorted(path.parent.glob(f"{path.stem}_ref*.pt")):
        yield file.stem, partial(_attention, file, document)


def _attention(file: Path, described: dict[str, Any]) -> Comparison:
    return compare_attention(file.stem, described, load(file))


def _decoder_runs(path: Path, document: dict[str, Any]) -> Iterator[Run]:
    model, stored = (path.with_name(f"{path.stem}_{kind}.pt") for kind in ("model", "io"))
    yield path.stem, lambda: compare_decoder_alone(path.stem, document["cfg"], load(model), load(stored))


def _maskdino_runs(path: Path, document: dict[str, Any]) -> Iterator[Run]:
    images = path.with_name(f"maskdino_{document['cfg']['set']}_images.pt")
    for file in _files(path):
        yield file.stem, partial(_maskdino, path, file, images, _with_training(document, file))


def _with_training(document: dict[str, Any], file: Path) -> dict[str, Any]:
    """The description of a run with the kind of denoising and the weights of the losses that its training step had."""
    described = dict(document["cfg"])
    steps = document.get("train", {})
    without = [kind for kind in steps if kind in ("no", "dnoff")]
    kinds = without if file.stem.endswith("_dnoff") else [kind for kind in steps if kind not in without]
    if "_train_" in file.stem and kinds:
        described["training_denoising"] = kinds[0]
        described["weight_dict"] = steps[kinds[0]].get("weight_dict", {})
    return described


def _maskdino(path: Path, file: Path, images: Path, described: dict[str, Any]) -> Comparison:
    state, seen, stored = load(path.with_name(f"{path.stem}_model.pt")), load(images), load(file)
    if file.stem.endswith("_eval"):
        return compare_maskdino_evaluation(file.stem, described, state, seen, stored)
    denoising = described.get("training_denoising", "seg" if file.stem.endswith("_dnon") else "no")
    return compare_across_edges(
        partial(compare_maskdino_training, file.stem, described, state, seen, stored, denoising)
    )


def _dino_runs(path: Path, document: dict[str, Any]) -> Iterator[Run]:
    sets = [file for file in path.parent.glob("dino_*_inputs.pt") if path.stem.startswith(file.stem[: -len("inputs")])]
    if len(sets) != 1:
        reason = f"{path.name} needs the inputs of its set, one file such as dino_A_inputs.pt"
        yield path.stem, partial(_not_comparable, reason)
        return
    for file in _files(path):
        yield file.stem, partial(_dino, path, file, sets[0], _with_training(document, file))


def _dino(path: Path, file: Path, inputs: Path, described: dict[str, Any]) -> Comparison:
    state, seen, stored = load(path.with_name(f"{path.stem}_model.pt")), load(inputs), load(file)
    if file.stem.endswith("_eval"):
        return compare_dino_evaluation(file.stem, described, state, seen, stored)
    denoising = file.stem.endswith("_dnon")
    return compare_across_edges(
        partial(compare_dino_training, file.stem, described, state, seen, stored, denoising=denoising)
    )


def _files(path: Path) -> list[Path]:
    """The run's evaluation and training steps, as far as they are stored; the evaluation where nothing is."""
    files = [path.with_name(f"{path.stem}_{kind}.pt") for kind in ("eval", "train_dnoff", "train_dnon")]
    return [file for file in files if file.exists()] or files[:1]
