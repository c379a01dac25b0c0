"""Miniature PACO releases in the layout of docs/PACO_DATASET.md of the PACO repository, written by the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from coco_files import write_photo
from part_dataset_files import compressed
from pycocotools import mask as mask_util

WIDTH, HEIGHT = 64, 48  # of the photographs, in pixels

MUG, DOG = ("handle", "rim", "body"), ("head", "leg", "tail")
WITHOUT_PARTS = ("ball", "napkin")
VOCABULARY: dict[str, tuple[str, ...]] = {"trash_can": ("lid",), "ball": (), "mug": MUG, "dog": DOG, "napkin": ()}
"""Class -> parts: the published numbers, 75 classes of which two own no part, and 456 parts."""
_MORE = 75 - len(VOCABULARY)
for _index in range(_MORE):
    _parts = (456 - 7) // _MORE + (_index < (456 - 7) % _MORE)
    VOCABULARY[f"thing_{_index}"] = tuple(f"part_{place}" for place in range(_parts))

CLASS_ID = {name: 23 + 7 * index for index, name in enumerate(VOCABULARY)}  # LVIS's ids have gaps
_BY_PART = sorted((part, name) for name, parts in VOCABULARY.items() for part in parts)
PART_ID = {f"{name}:{part}": 2000 + index for index, (part, name) in enumerate(_BY_PART)}  # PACO's begin there
ATTRIBUTES = [(f"color_{index}", "color") for index in range(30)]
ATTRIBUTES += [(f"pattern_{index}", "pattern_marking") for index in range(11)]
ATTRIBUTES += [(f"material_{index}", "material") for index in range(14)]
ATTRIBUTES += [(f"transparency_{index}", "transparency") for index in range(4)]


def rectangle(box: tuple[int, int, int, int]) -> np.ndarray:
    """The (HEIGHT, WIDTH) mask of an xywh box."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[box[1] : box[1] + box[3], box[0] : box[0] + box[2]] = 1
    return mask


def listed(mask: np.ndarray) -> dict[str, Any]:
    """The RLE of a mask whose counts are a list."""
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    return {"size": list(mask.shape), "counts": counts}


def _categories() -> list[dict[str, Any]]:
    shared = {"image_count": 3, "instance_count": 5, "frequency": "f"}
    objects = [{"supercategory": "OBJECT", "id": i, "name": n, "synset": f"{n}.n.01"} for n, i in CLASS_ID.items()]
    parts = [{"supercategory": "PART", "id": i, "name": n, "synset": n.split(":")[1]} for n, i in PART_ID.items()]
    return [{**entry, **shared} for entry in (*objects, *parts)]


class PacoFiles:
    """A release that grows by calls. Ids of annotations are unique in their split only, those of images everywhere."""

    def __init__(self, name: str = "lvis") -> None:
        self.name = name
        generic = sorted({part for parts in VOCABULARY.values() for part in parts})
        self.documents: dict[str, dict[str, Any]] = {
            split: {
                "info": {"version": 1},
                "attributes": [{"supercategory": "ATTR", "id": i, "name": n} for i, (n, _) in enumerate(ATTRIBUTES)],
                "attr_type_to_attr_idxs": {
                    kind: [i for i, (_, k) in enumerate(ATTRIBUTES) if k == kind] for _, kind in ATTRIBUTES
                },
                # the ids of generic parts are those of objects, too
                "part_categories": [{"supercategory": "PART", "id": i, "name": n} for i, n in enumerate(generic)],
                "annotations": [],
                "images": [],
                "categories": _categories(),
            }
            for split in ("train", "val", "test")
        }

    def image(self, split: str = "train", **fields) -> int:
        number = 1 + sum(len(document["images"]) for document in self.documents.values())
        name = f"train2017/{number:012d}.jpg" if self.name == "lvis" else f"0f1e-{number % 3}_{number:06d}.jpeg"
        entry = {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1}
        lists = ("neg_category_ids", "not_exhaustive_category_ids")
        entry |= {f"{key}{end}": [CLASS_ID["mug"]] for key in lists for end in ("", "_attrs")}
        self.documents[split]["images"].append(entry | fields)
        return number

    def object(self, image: int, category: str, box, split: str = "train", **fields) -> int:
        number = len(self.documents[split]["annotations"]) + 1
        own = {"category_id": CLASS_ID[category], "obj_ann_id": number, "bbox": list(box)}
        self._annotate(split, image, {"segmentation": compressed(rectangle(box)), **own, **fields})
        return number

    def part(self, owner: int, category: str, box, split: str = "train", **fields) -> int:
        number = len(self.documents[split]["annotations"]) + 1
        image = self.documents[split]["annotations"][owner - 1]["image_id"]
        own = {"category_id": PART_ID[category], "obj_ann_id": owner, "bbox": list(box)}
        self._annotate(split, image, {"segmentation": compressed(rectangle(box)), **own, **fields})
        return number

    def _annotate(self, split: str, image: int, fields: dict[str, Any]) -> None:
        annotations = self.documents[split]["annotations"]
        entry = {"id": len(annotations) + 1, "image_id": image, "attribute_ids": [1, 31], "dom_color_ids": [1]}
        entry |= {f"unknown_{key}": 0 for key in ("color", "pattern_marking", "material", "transparency")}
        entry |= {"instance_id": 7, "blur_level": 2} if self.name == "ego4d" else {}
        if isinstance(fields["segmentation"], dict) and isinstance(fields["segmentation"].get("counts"), str):
            entry["area"] = float(mask_util.area(fields["segmentation"]))
        annotations.append({**entry, **fields})

    def mug_and_dog(self, split: str = "train", **fields) -> int:
        """An image with a mug on the left (8, 8, 16, 20) and a dog on the right (36, 8, 20, 30), with their parts."""
        image = self.image(split, **fields)
        mug = self.object(image, "mug", (8, 8, 16, 20), split)
        dog = self.object(image, "dog", (36, 8, 20, 30), split)
        self.part(dog, "dog:head", (36, 8, 9, 10), split)
        self.part(mug, "mug:handle", (8, 12, 4, 9), split)
        self.part(mug, "mug:body", (12, 8, 12, 20), split)
        self.part(dog, "dog:leg", (40, 28, 6, 10), split)
        return image

    def write(self, folder: Path) -> tuple[Path, Path]:
        """The folders of the annotations and of the photographs."""
        annotations, images = folder / "annotations", folder / "photographs"
        annotations.mkdir(parents=True, exist_ok=True)
        for split, document in self.documents.items():
            (annotations / f"paco_{self.name}_v1_{split}.json").write_text(json.dumps(document))
            for image in document.get("images", []):
                if ".." not in image["file_name"] and not (images / image["file_name"]).exists():
                    write_photo(images / image["file_name"], image["id"], (WIDTH, HEIGHT))
        return annotations, images


def small_release(name: str = "lvis", images: tuple[int, int, int] = (3, 1, 1)) -> PacoFiles:
    """A mug and a dog an image, so many images in train, val and test."""
    paco = PacoFiles(name)
    for split, count in zip(paco.documents, images, strict=True):
        for _ in range(count):
            paco.mug_and_dog(split)
    return paco
