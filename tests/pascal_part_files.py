"""A miniature of PASCAL-Part in the layout of its archives, written by the tests."""

import zlib
from pathlib import Path

import numpy as np
from coco_files import write_photo
from scipy.io import savemat

SIZE = (60, 40)  # width and height of the photographs, in pixels


def region(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask as PASCAL-Part has it: (H, W) uint8, 1 inside the rectangle."""
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


def structs(*records: dict, fields: tuple[str, ...]) -> np.ndarray:
    """A 1 x n MATLAB struct; without records the 0 x 0 matrix of numbers that MATLAB saves for []."""
    if not records:
        return np.zeros((0, 0))
    matrix = np.empty((1, len(records)), dtype=[(name, object) for name in fields])
    for i, record in enumerate(records):
        matrix[0, i] = tuple(record[name] for name in fields)
    return matrix


def labelled(class_name: str, mask: np.ndarray, *parts: tuple[str, np.ndarray]) -> dict:
    """An object with its parts."""
    records = [{"part_name": name, "mask": part} for name, part in parts]
    return {
        "class": class_name,
        "class_ind": 1,
        "mask": mask,
        "parts": structs(*records, fields=("part_name", "mask")),
    }


def write_mat(file: Path, *objects: dict, compressed: bool = True) -> None:
    """An annotation file. MATLAB's own files are compressed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    matrix = structs(*objects, fields=("class", "class_ind", "mask", "parts"))
    anno = structs({"imname": file.stem, "objects": matrix}, fields=("imname", "objects"))
    savemat(file, {"anno": anno}, do_compression=compressed)


class PascalPart:
    """A folder that grows photograph by photograph; VOC2010 lies where its archive unpacks."""

    def __init__(self, folder: Path, voc: str = "VOCdevkit/VOC2010") -> None:
        self.folder, self.voc = folder, folder / voc
        (self.voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (folder / "Annotations_Part").mkdir(exist_ok=True)

    def add(self, name: str, *objects: dict, split: str = "train", size: tuple[int, int] = SIZE) -> Path:
        file = self.folder / "Annotations_Part" / f"{name}.mat"
        write_mat(file, *objects)
        write_photo(self.voc / "JPEGImages" / f"{name}.jpg", zlib.crc32(name.encode()), size)
        with open(self.voc / "ImageSets" / "Main" / f"{split}.txt", "a") as listing:
            listing.write(f"{name}\n")
        return file


def dog(x0: int = 10, y0: int = 5, x1: int = 40, y1: int = 35) -> dict:
    """A dog whose eye lies in its head, whose muzzle reaches beyond it, and part of whom is in no part."""
    return labelled(
        "dog",
        region(x0, y0, x1, y1),
        ("head", region(x0, y0, x0 + 10, y0 + 8)),
        ("leye", region(x0 + 3, y0 + 2, x0 + 5, y0 + 4)),
        ("muzzle", region(x0 + 6, y0 + 5, x0 + 14, y0 + 8)),
        ("torso", region(x0, y0 + 6, x1, y0 + 20)),
        ("lfleg", region(x0 + 2, y0 + 18, x0 + 6, y1)),
        ("rbpa", region(x1 - 6, y1 - 4, x1, y1)),
    )


def car(x0: int = 10, y0: int = 10, x1: int = 50, y1: int = 30) -> dict:
    """A car whose side was labelled across its windows and wheels."""
    return labelled(
        "car",
        region(x0, y0, x1, y1),
        ("leftside", region(x0, y0, x1, y1 - 2)),
        ("window_1", region(x0 + 2, y0 + 2, x0 + 12, y0 + 8)),
        ("window_2", region(x0 + 14, y0 + 2, x0 + 24, y0 + 8)),
        ("wheel_1", region(x0 + 2, y1 - 8, x0 + 8, y1)),
        ("wheel_10", region(x1 - 8, y1 - 8, x1 - 2, y1)),
    )
