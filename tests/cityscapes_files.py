"""A miniature of Cityscapes-Panoptic-Parts in the layout of its archives, written by the tests."""

import zlib
from pathlib import Path

import numpy as np
from coco_files import write_photo
from PIL import Image

SIZE = (96, 64)  # width and height of the photographs, in pixels
ROAD, SKY = 7, 23


class Scene:
    """The uids of a photograph, painted rectangle by rectangle."""

    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        self.uids = np.full((size[1], size[0]), ROAD, dtype=np.int32)
        self.uids[: size[1] // 4] = SKY

    def paint(self, uid: int, x0: int, y0: int, x1: int, y1: int) -> "Scene":
        self.uids[y0:y1, x0:x1] = uid
        return self

    def person(self, iid: int, x0: int, y0: int, sid: int = 24) -> "Scene":
        """12 x 40 pixels: head, torso, arms, legs, and feet that belong to no part."""
        base = (sid * 1000 + iid) * 100
        self.paint(sid * 1000 + iid, x0, y0, x0 + 12, y0 + 40)
        self.paint(base + 2, x0 + 3, y0, x0 + 9, y0 + 8).paint(base + 1, x0, y0 + 8, x0 + 12, y0 + 22)
        return self.paint(base + 3, x0, y0 + 8, x0 + 2, y0 + 20).paint(base + 4, x0 + 2, y0 + 22, x0 + 10, y0 + 38)

    def car(self, iid: int, x0: int, y0: int, sid: int = 26) -> "Scene":
        """40 x 20 pixels: chassis, with a window, two wheels, a light and a plate."""
        base = (sid * 1000 + iid) * 100
        self.paint(base + 5, x0, y0, x0 + 40, y0 + 20).paint(base + 1, x0 + 8, y0 + 2, x0 + 30, y0 + 8)
        self.paint(base + 2, x0 + 4, y0 + 14, x0 + 10, y0 + 20).paint(base + 2, x0 + 30, y0 + 14, x0 + 36, y0 + 20)
        return self.paint(base + 3, x0 + 37, y0 + 10, x0 + 40, y0 + 13).paint(base + 4, x0, y0 + 12, x0 + 3, y0 + 14)


class Cityscapes:
    """A folder that grows photograph by photograph."""

    def __init__(self, folder: Path, labels: str = "gtFinePanopticParts") -> None:
        self.folder, self.labels = folder, folder / labels

    def add(self, city: str, sequence: int, frame: int, scene: Scene, split: str = "train") -> Path:
        stem = f"{city}_{sequence:06d}_{frame:06d}"
        file = self.labels / split / city / f"{stem}_gtFinePanopticParts.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.uids).save(file, compression="tiff_lzw")
        height, width = scene.uids.shape
        photo = self.folder / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        write_photo(photo, zlib.crc32(stem.encode()), (width, height))
        return file
