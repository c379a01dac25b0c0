"""The images on which a file is compared with torch: photographs of the run's test, or seeded draws."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch import Tensor
from torch.nn import functional

from partbox.data import PartDatasetError
from partbox.data.catalog import register_dataset_file
from partbox.data.image_files import read_rgb
from partbox.data.loader import subset
from partbox.engine.setup import load_dataset

COARSEST, FINEST = 4, 32  # cells a side of the noises that a draw is made of


@dataclass(frozen=True)
class Pictures:
    """Images of one size.

    Attributes:
        images: (3, H, W) uint8 RGB each.
        names: of each.
        source: what they are, in words.
    """

    images: tuple[Tensor, ...]
    names: tuple[str, ...]
    source: str


def pictures_for(cfg: CfgNode, size: tuple[int, int], count: int, seed: int) -> Pictures:
    """At most ``count`` photographs of the one dataset of ``DATASETS.TEST``, where it is on this machine; else draws.

    Args:
        cfg: complete configuration.
        size: (height, width).
        count: at least 1.
        seed: of the choice, and of the draws.

    Raises:
        PartDatasetError, ConfigError: the dataset is there, and wrong or of other classes or parts.
    """
    absent = _why_absent(cfg)
    if absent:
        images = tuple(drawn_image(size, seed, number) for number in range(count))
        names = tuple(f"draw {number}" for number in range(count))
        return Pictures(images, names, f"images drawn with seed {seed}, since {absent}")
    [name] = cfg.DATASETS.TEST
    records: list[dict[str, Any]]
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier":
        records = load_dataset(cfg.clone(), cfg.DATASETS.TEST, "DATASETS.TEST").records
    else:
        records = DatasetCatalog.get(name)
    chosen = subset(records, count, seed=seed)
    files = [str(record["file_name"]) for record in chosen]
    images = tuple(read_image(file, size) for file in files)
    return Pictures(images, tuple(Path(file).name for file in files), f"photographs of {name}")


def _why_absent(cfg: CfgNode) -> str:
    """Why there are no photographs; "" where there are."""
    if len(cfg.DATASETS.TEST) != 1:
        return f"DATASETS.TEST names {len(cfg.DATASETS.TEST)} datasets"
    [name] = cfg.DATASETS.TEST
    register_dataset_file(name)
    if name not in DatasetCatalog:
        return f"no dataset is registered as {name}"
    json_file = MetadataCatalog.get(name).get("json_file", "")
    return "" if json_file and Path(json_file).is_file() else f"{name} is not on this machine"


def read_image(file: str, size: tuple[int, int]) -> Tensor:
    """A photograph as a test sees it: turned upright, the whole of it resized; (3, H, W) uint8 RGB.

    Raises:
        PartDatasetError: it cannot be read.
    """
    try:
        photograph = read_rgb(file)
    except (OSError, ValueError, SyntaxError) as error:
        raise PartDatasetError(file, "image", f"unreadable: {error}") from error
    resized = photograph.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())


def drawn_image(size: tuple[int, int], seed: int, number: int) -> Tensor:
    """An image of smooth colours and fine noise, (3, H, W) uint8; a function of its arguments alone."""
    generator = np.random.default_rng([seed, number])
    layers = []
    for cells in (COARSEST, FINEST):
        noise = torch.from_numpy(generator.random((1, 3, cells, cells), dtype=np.float32))
        layers.append(functional.interpolate(noise, size=size, mode="bilinear", align_corners=False)[0])
    mixed = 0.7 * layers[0] + 0.3 * layers[1]
    return (mixed * 255).round().to(torch.uint8)
