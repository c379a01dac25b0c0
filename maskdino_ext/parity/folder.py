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

Run = tuple[str, Callable[[], Comparison]]


def runs_of(folder: Path) -> Iterator[Run]:
    """Name and comparison of every run in a folder, in the order of names.

    A run is a JSON file with ``cfg`` and the ``.pt`` files that begin with its name: ``maskdino_SET_VARIANT`` with
    ``_model``, ``_eval``, ``_train_dnoff`` and ``_train_dnon`` and the set's ``_images``; ``dino_SET_VARIANT`` likewise
    with the set's ``_inputs``; a decoder alone with ``_model`` and ``_io``; ``msdeformattn_SET`` with ``_ref2`` and
    ``_ref4``.

    Raises:
        FileNotFoundError: no run in the folder, or files of a run that are not there.
        ValueError: a file beside weights that describes something else.
    """
    any_run = False
    for path in sorted(folder.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        if path.stem.startswith("msdeformattn_"):
            found = _attention_runs(path, document)
        elif path.stem.startswith("maskdino_") and (folder / f"{path.stem}_io.pt").exists():
            found = _decoder_runs(path, document)
        elif path.stem.startswith("maskdino_") and "variant" in document.get("cfg", {}):
            found = _maskdino_runs(path, document)
        elif path.stem.startswith("dino_") and "two_stage_type" in document.get("cfg", {}) and "train" in document:
            found = _dino_runs(path, document)
        elif path.with_name(f"{path.stem}_model.pt").exists():
            raise ValueError(f"{path.name} describes no run that is known here, and weights of that name are beside it")
        else:
            continue
        for run in found:
            any_run = True
            yield run
    if not any_run:
        raise FileNotFoundError(f"{folder} holds no reference run, such as maskdino_A_ts_bitmask_3s.json")


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
        raise FileNotFoundError(f"{path.name} needs the inputs of its set, one file such as dino_A_inputs.pt")
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
    """The run's evaluation, and its training steps where it has them."""
    kinds = ("eval", "train_dnoff", "train_dnon")
    files = [path.with_name(f"{path.stem}_{kind}.pt") for kind in kinds]
    return [files[0], *(file for file in files[1:] if file.exists())]
