"""Clean and attacked images with the parts that a model finds in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from .learning_curves import save_figure

EXAMPLES = "examples.npz"


def part_colours(part_map: np.ndarray) -> np.ndarray:
    """Parts as colours, (H, W) int -> (H, W, 4) in [0, 1]; the background is transparent."""
    palette = colormaps["tab20"]
    colours = palette((part_map - 1) % 20).astype(np.float32)
    colours[..., 3] = np.where(part_map > 0, 0.6, 0.0)
    return colours


def save_example_pictures(folder: str | Path, *, most_images: int = 8, most_perturbations: int = 4) -> Path:
    """Draw ``examples.png`` from ``examples.npz`` of a run's folder.

    One column an image; a row of images and, where the model finds parts, a row of parts for each perturbation. A
    title is green where the prediction is right.

    Args:
        folder: of the run.
        most_images: columns at most.
        most_perturbations: perturbations at most, in the order of the evaluation.
    """
    folder = Path(folder)
    with np.load(folder / EXAMPLES, allow_pickle=False) as stored:
        names = [str(name) for name in stored["perturbations"][:most_perturbations]]
        classes = [str(name) for name in stored["class_names"]]
        labels = stored["labels"][:most_images]
        groups = [{key: stored[f"{key}_{i}"] for key in _keys(stored, i)} for i in range(len(names))]
    rows = [(name, group, kind) for name, group in zip(names, groups, strict=True) for kind in _kinds(group)]
    count = len(labels)
    figure = Figure(figsize=(1.7 * count + 0.8, 1.9 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), count, squeeze=False)
    for axes_row, (name, group, kind) in zip(grid, rows, strict=True):
        for column, axes in enumerate(axes_row):
            axes.imshow(group["images"][column], interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if kind == "parts":
                axes.imshow(part_colours(group["parts"][column]), interpolation="nearest")
            else:
                right = group["predictions"][column] == labels[column]
                title = f"{classes[group['predictions'][column]]} {group['confidences'][column]:.0%}"
                axes.set_title(title, fontsize=8, color="#00704f" if right else "#b33a00")
        axes_row[0].set_ylabel(f"{name}\n{kind}", fontsize=8)
    for column, axes in enumerate(grid[-1]):
        axes.set_xlabel(f"true: {classes[labels[column]]}", fontsize=8)
    return save_figure(figure, folder / "examples.png", dpi=80)


def _keys(stored: Any, index: int) -> list[str]:
    return [key for key in ("images", "predictions", "confidences", "parts") if f"{key}_{index}" in stored]


def _kinds(group: dict[str, np.ndarray]) -> list[str]:
    return ["image", "parts"] if "parts" in group else ["image"]
