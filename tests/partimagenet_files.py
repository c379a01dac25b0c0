"""Miniatures of PartImageNet and PartImageNet++ in the layouts of their downloads, written by the tests."""

import json
import pickle
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from coco_files import write_photo
from pycocotools import mask as mask_util

WIDTH, HEIGHT = 48, 36  # of the photographs, in pixels

PARTS = {  # the published parts, in the order of the published category ids 0 to 39
    "Quadruped": ("Head", "Body", "Foot", "Tail"),
    "Biped": ("Head", "Body", "Hand", "Foot", "Tail"),
    "Fish": ("Head", "Body", "Fin", "Tail"),
    "Bird": ("Head", "Body", "Wing", "Foot", "Tail"),
    "Snake": ("Head", "Body"),
    "Reptile": ("Head", "Body", "Foot", "Tail"),
    "Car": ("Body", "Tier", "Side Mirror"),
    "Bicycle": ("Body", "Head", "Seat", "Tier"),
    "Boat": ("Body", "Sail"),
    "Aeroplane": ("Head", "Body", "Engine", "Wing", "Tail"),
    "Bottle": ("Mouth", "Body"),
}

TENCH, GOLDFISH, VIZSLA, TIGER, JEEP, KING_SNAKE = (
    "n01440764",
    "n01443537",
    "n02100583",
    "n02129604",
    "n03594945",
    "n01728920",
)
SUPER_CLASS = {
    TENCH: "Fish",
    GOLDFISH: "Fish",
    VIZSLA: "Quadruped",
    TIGER: "Quadruped",
    JEEP: "Car",
    KING_SNAKE: "Snake",
}

SQUARE = [[4.0, 4.0, 20.0, 4.0, 20.0, 16.0, 4.0, 16.0]]
STAR = [[24.5, 5.25, 30, 30, 10.5, 14, 40, 14.75, 16, 31.5], [1, 1, 3, 1, 2, 4]]  # crosses itself; two pieces


def rle(x0, y0, x1, y1, *, compressed=True) -> dict:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    if compressed:
        packed = mask_util.encode(mask)
        return {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": [0, *counts] if flat[0] else counts}


def area(segmentation) -> int:
    """Pixels of a segmentation, as COCO counts them."""
    return int(decode(segmentation).sum())


def decode(segmentation) -> np.ndarray:
    if isinstance(segmentation, list):
        packed = mask_util.merge(mask_util.frPyObjects(segmentation, HEIGHT, WIDTH))
    elif isinstance(segmentation["counts"], list):
        packed = mask_util.frPyObjects(segmentation, HEIGHT, WIDTH)
    else:
        packed = segmentation
    return mask_util.decode(packed)


class CocoSplit:
    """One COCO file that grows by calls."""

    def __init__(self, categories: list[dict]) -> None:
        self.document = {"images": [], "annotations": [], "categories": categories}

    def photo(self, name: str, **fields) -> int:
        number = len(self.document["images"])
        entry = {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT, **fields}
        self.document["images"].append(entry)
        return number

    def label(self, image_id: int, category_id: int, segmentation=SQUARE, **fields) -> int:
        number = len(self.document["annotations"])
        entry = {"id": number, "image_id": image_id, "category_id": category_id, "iscrowd": 0, "area": 1.0, **fields}
        entry["segmentation"] = segmentation
        entry.setdefault("bbox", [0, 0, 1, 1])  # what readers must not trust
        self.document["annotations"].append(entry)
        return number


def categories() -> list[dict]:
    pairs = [(super_class, part) for super_class, parts in PARTS.items() for part in parts]
    return [{"id": i, "name": f"{s} {part}", "supercategory": s} for i, (s, part) in enumerate(pairs)]


CATEGORY = {c["name"]: c["id"] for c in categories()}


class PartImageNetFiles:
    """A miniature of PartImageNet."""

    def __init__(self) -> None:
        self.splits = {split: CocoSplit(categories()) for split in ("train", "val", "test")}
        self._numbers: defaultdict[str, int] = defaultdict(int)

    def photo(self, split: str, wnid: str, *parts: str, segmentation=SQUARE, folder: bool = False) -> str:
        """A photograph with some parts of its super-class. Returns its name."""
        self._numbers[wnid] += 1
        name = f"{wnid}_{self._numbers[wnid]}.JPEG"
        file = self.splits[split]
        image_id = file.photo(f"{wnid}/{name}" if folder else name)
        for part in parts:
            file.label(image_id, CATEGORY[f"{SUPER_CLASS[wnid]} {part}"], segmentation)
        return name

    def write(self, folder: Path, layout="annotations/{split}/{split}.json", images="images/{split}/{name}") -> Path:
        """Write files and photographs; ``images`` says where these go. Returns the folder."""
        for split, file in self.splits.items():
            path = folder / layout.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(file.document))
            for image in file.document["images"]:
                name = image["file_name"].replace("\\", "/").split("/")[-1]
                place = folder / images.format(split=split, name=name, wnid=name.split("_")[0])
                write_photo(place, zlib.crc32(name.encode()), (image.get("width", WIDTH), image.get("height", HEIGHT)))
        return folder


def shared_classes(photos: int = 10) -> PartImageNetFiles:
    """As PartImageNet_Seg: all classes in all splits."""
    files = PartImageNetFiles()
    for wnid in (TENCH, GOLDFISH, VIZSLA, JEEP):
        for number in range(photos):
            split = "val" if number == 1 else "test" if number == 2 else "train"
            files.photo(split, wnid, "Body", segmentation=(SQUARE, STAR)[number % 2])
    return files


def disjoint_classes(photos: int = 10) -> PartImageNetFiles:
    """As PartImageNet_OOD: each class in one split, but both fish and both quadrupeds are in different ones."""
    files = PartImageNetFiles()
    for wnid, split in ((TENCH, "train"), (VIZSLA, "train"), (JEEP, "train"), (GOLDFISH, "val"), (TIGER, "test")):
        for _ in range(photos):
            files.photo(split, wnid, "Body", folder=True)
    return files


class PartImageNetPPFiles:
    """A miniature of PartImageNet++: one file a class, whose categories have their own ids."""

    def __init__(self) -> None:
        self.files: dict[str, CocoSplit] = {}
        self.discarded: list[dict] = []

    def add_class(self, wnid: str, *parts: str, first_id: int = 1) -> CocoSplit:
        names = [{"id": first_id + i, "name": name, "supercategory": "x"} for i, name in enumerate(parts)]
        self.files[wnid] = CocoSplit(names)
        return self.files[wnid]

    def photo(self, wnid: str, *category_ids: int, segmentation=SQUARE) -> str:
        file = self.files[wnid]
        name = f"{wnid}_{len(file.document['images'])}.JPEG"
        image_id = file.photo(f"{wnid}/{name}")
        for category_id in category_ids:
            file.label(image_id, category_id, segmentation)
        return name

    def write(self, folder: Path, images="ILSVRC/train") -> tuple[Path, Path]:
        """Write files and photographs. Returns the folder of the labels and that of the photographs."""
        (folder / "pin/json").mkdir(parents=True, exist_ok=True)
        for wnid, file in self.files.items():
            (folder / f"pin/json/{wnid}.json").write_text(json.dumps(file.document))
            for image in file.document["images"]:
                name = image["file_name"].split("/")[-1]
                place = folder / images / name.split("_")[0] / name
                write_photo(place, zlib.crc32(name.encode()), (WIDTH, HEIGHT))
        if self.discarded:
            (folder / "pin/discarded_data.json").write_text(json.dumps(self.discarded))
        return folder / "pin", folder / images


def three_classes(photos: int = 10) -> PartImageNetPPFiles:
    files = PartImageNetPPFiles()
    files.add_class(TENCH, "tench head", "tench body", "tench fin", "tench tail")
    files.add_class(TIGER, "tiger head", "tiger body", first_id=7)
    files.add_class("n02776631", "bakery", first_id=3)  # a class without parts: the object itself
    for number in range(photos):
        files.photo(TENCH, 1, 3, segmentation=(SQUARE, STAR)[number % 2])
        files.photo(TIGER, 8, 7, 8)
        files.photo("n02776631", 3)
    return files


def read_all(reader):
    """Entries in the main process, labels in a "worker": everything in between is pickled."""
    worker = pickle.loads(pickle.dumps(reader))
    return [worker.read(pickle.loads(pickle.dumps(entry))) for entry in reader.entries()]


def dropped(labels) -> Counter:
    return sum((one.dropped for one in labels), Counter())


def photos(labels) -> dict:
    """Photographs with an object, by file name."""
    return {one.photo.name.split("/")[-1]: one.photo for one in labels if one.photo.objects}
