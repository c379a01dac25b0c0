"""Miniature COCO files of part labels, written by the tests."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from partbox.data import load_part_dataset
from partbox.data.preparation import CocoOptions, PreparationReport, PrepareOptions, RelationOptions, prepare_parts

SIDE = 64  # of the photographs, in pixels


def write_photo(path: Path, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


class CocoFile:
    """A COCO file that grows by calls; ``write`` puts it and its photographs into a folder."""

    def __init__(self, *categories: tuple[str, str] | str) -> None:
        pairs = [c if isinstance(c, tuple) else (c, "") for c in categories]
        self.category_id = {name: i for i, (name, _) in enumerate(pairs, start=1)}
        self.document = {
            "images": [],
            "annotations": [],
            "categories": [{"id": i, "name": n, "supercategory": s} for i, (n, s) in enumerate(pairs, start=1)],
        }

    def image(self, **fields) -> int:
        number = len(self.document["images"]) + 1
        entry = {"id": number, "file_name": f"{number}.jpg", "width": SIDE, "height": SIDE, **fields}
        self.document["images"].append(entry)
        return number

    def label(self, image_id: int, category: str, box=None, **fields) -> int:
        number = len(self.document["annotations"]) + 1
        entry = {"id": number, "image_id": image_id, "category_id": self.category_id[category], **fields}
        if box is not None:
            entry["bbox"] = list(box)
        self.document["annotations"].append(entry)
        return number

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The file and the folder of its photographs."""
        for index, image in enumerate(self.document["images"]):
            path = folder / "images" / image.get("path", image["file_name"])
            if not path.exists():
                write_photo(path, index, (image.get("width", SIDE), image.get("height", SIDE)))
        (folder / "parts.json").write_text(json.dumps(self.document))
        return folder / "parts.json", folder / "images"


def animals(photos: int = 12, link: str | None = "obj_ann_id") -> CocoFile:
    """Form (a): ``dog``, ``dog:head``...; two animals a photograph, a dog on the left and a cat on the right."""
    coco = CocoFile("dog", "cat", "dog:head", "dog:leg", "cat:head")
    for _ in range(photos):
        image = coco.image()
        dog = coco.label(image, "dog", (2, 4, 28, 40))
        cat = coco.label(image, "cat", (34, 4, 28, 40))
        for owner, name, box in (
            (dog, "dog:head", (4, 6, 10, 10)),
            (dog, "dog:leg", (6, 30, 4, 12)),
            (cat, "cat:head", (40, 6, 10, 10)),
        ):
            coco.label(image, name, box, **({link: owner} if link else {}))
    return coco


def tree(folder: Path) -> dict[str, bytes]:
    """What is there, but for the explanations, which name their folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.txt"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def prepare(
    coco: CocoFile, folder: Path, *, workers=1, overwrite=False, say=lambda text: None, output="out", **options
) -> PreparationReport:
    """Prepare a file; relation options may be given beside the others."""
    relations = {key: options.pop(key) for key in list(options) if key in RelationOptions.__dataclass_fields__}
    meaning = {key: options.pop(key) for key in list(options) if key in CocoOptions.__dataclass_fields__}
    coco_options = CocoOptions(relations=RelationOptions(**relations), **meaning)
    made = PrepareOptions(**options)
    file, images = coco.write(folder)
    return prepare_parts(
        file, images, folder / output, coco_options, made, workers=workers, overwrite=overwrite, say=say
    )


def load(folder: Path, split: str = "train"):
    return load_part_dataset(folder / "out" / f"{split}.json", folder / "out" / "images", verify_images="decode")


def rle(x0: int, y0: int, x1: int, y1: int) -> dict:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    packed = mask_util.encode(mask)
    return {"size": [SIDE, SIDE], "counts": packed["counts"].decode()}


def rewrite(coco: CocoFile, folder: Path) -> tuple[Path, Path]:
    """Write the file without its photographs."""
    (folder / "parts.json").write_text(json.dumps(coco.document))
    return folder / "parts.json", folder / "images"
