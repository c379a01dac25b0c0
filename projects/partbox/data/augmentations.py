"""Augmentations that detectron2 lacks, as detectron2 augmentations (they draw from numpy's global generator)."""

from __future__ import annotations

import math

import numpy as np
from detectron2.data import transforms as T
from PIL import Image


class RandomResizedCrop(T.Augmentation):
    """Crop a random area and aspect ratio, then resize to one size (Szegedy et al. 2015, as in torchvision).

    Args:
        size: (height, width) of the result in pixels.
        area: smallest and largest share of the image's area.
        aspect: smallest and largest width / height of the crop.
    """

    ATTEMPTS = 10

    def __init__(self, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]) -> None:
        super().__init__()
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError(f"INPUT.CROP_AREA must be 0 < smallest <= largest <= 1, not {area}")
        if not 0 < aspect[0] <= aspect[1]:
            raise ValueError(f"INPUT.CROP_ASPECT must be 0 < smallest <= largest, not {aspect}")
        self.size, self.area, self.aspect = size, area, aspect

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        return self._transforms(self._draw(height, width), height, width)

    def cut(self, photograph: Image.Image) -> tuple[np.ndarray, T.TransformList]:
        """The same for a photograph that is no array yet: the result, (H, W, 3) uint8, and what was done."""
        x, y, w, h = drawn = self._draw(photograph.height, photograph.width)
        crop = photograph.crop((x, y, x + w, y + h)).resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(crop), self._transforms(drawn, photograph.height, photograph.width)

    def _transforms(self, drawn: tuple[int, int, int, int], height: int, width: int) -> T.TransformList:
        x, y, w, h = drawn
        return T.TransformList(
            [
                T.CropTransform(x, y, w, h, orig_w=width, orig_h=height),
                T.ResizeTransform(h, w, *self.size, interp=Image.Resampling.BILINEAR),
            ]
        )

    def _draw(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(x, y, width, height) of the crop in pixels; the whole image where no draw fits."""
        for _ in range(self.ATTEMPTS):
            area = height * width * np.random.uniform(*self.area)
            aspect = math.exp(np.random.uniform(math.log(self.aspect[0]), math.log(self.aspect[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                x, y = np.random.randint(0, width - w + 1), np.random.randint(0, height - h + 1)
                return int(x), int(y), w, h
        return 0, 0, width, height


def training_augmentations(
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
    flip: str,
    color_jitter: float,
) -> list[T.Augmentation]:
    """What a training image goes through.

    Raises:
        ValueError: a setting out of range.
    """
    if flip not in ("horizontal", "vertical", "none"):
        raise ValueError(f"INPUT.RANDOM_FLIP must be horizontal, vertical or none, not {flip!r}")
    if not 0 <= color_jitter < 1:
        raise ValueError(f"INPUT.COLOR_JITTER must lie in [0, 1), not {color_jitter}")
    steps: list[T.Augmentation] = [RandomResizedCrop(size, area, aspect)]
    if flip != "none":
        steps.append(T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical"))
    if color_jitter > 0:
        low, high = 1 - color_jitter, 1 + color_jitter
        steps += [T.RandomBrightness(low, high), T.RandomContrast(low, high), T.RandomSaturation(low, high)]
    return steps
