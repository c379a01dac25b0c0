"""Networks and images for attack tests: the reference fixtures, and a small network that needs none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

NORMS = {"linf": "Linf", "l2": "L2"}


def reference_network(folder: Path, name: str = "at") -> nn.Module:
    """A reference network (architecture net_a of the fixtures): ``at`` has 10 classes, ``at3`` 3 and ``at2`` 2."""
    classes = {"at": 10, "std": 10, "at3": 3, "at2": 2}[name]
    model = nn.Sequential(
        nn.Conv2d(3, 24, 3, 1, 1),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 48, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, 96),
        nn.ReLU(),
        nn.Linear(96, classes),
    )
    model.load_state_dict(torch.load(folder / f"{name}.pt", weights_only=True))
    return model.eval().requires_grad_(False)


def reference_images(folder: Path, name: str = "at", count: int = 100) -> tuple[Tensor, Tensor]:
    """The first images (B, 3, 16, 16) in [0, 1] and labels (B,) of a reference network."""
    file = "inputs.npz" if name in ("at", "std") else f"inputs_{name}.npz"
    with np.load(folder / file) as inputs:
        return torch.from_numpy(inputs["x"][:count]), torch.from_numpy(inputs["y"][:count])


def arrays(path: Path) -> dict[str, Tensor]:
    """All arrays of a .npz file as tensors."""
    with np.load(path) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def small_network(seed: int = 0, classes: int = 4) -> nn.Module:
    """A random network for images of 8 x 8 with smooth decisions, so that attacks have something to climb."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, classes)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.5 / max(parameter[0].numel(), 1) ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval().requires_grad_(False)


def labelled_images(model: nn.Module, count: int = 64, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, 8, 8) with the network's own answers as labels."""
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return images, model(images).argmax(dim=1)
