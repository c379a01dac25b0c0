"""From a record of a part dataset to what the model sees."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from PIL import Image

from .augmentations import RandomResizedCrop, training_augmentations
from .image_files import read_rgb
from .part_json import PartDatasetError
from .part_map import IGNORE, paint_part_map
from .part_objects import part_instances

OBJECTS = {"dino": "boxes", "maskdino": "masks"}  # extractors that learn from parts as objects


class PartDatasetMapper:
    """Reads an image, augments it, and builds its targets.

    Training: random resized crop, flip, colour jitter. Test: the whole image resized to the same size, nothing cut
    off, so results go back to the photograph by scaling alone.

    The result is a dict with ``image`` (3, H, W) uint8 RGB, ``part_map`` (H, W) int64 (0 = background, 1 + part,
    -1 = not labelled), ``label`` int, and the record's ``image_id``, ``file_name``, ``height``, ``width``,
    ``part_labels`` and, where it has one, ``part_weight``; test samples keep ``annotations`` for evaluators. For
    detectors there is also ``instances``, the labelled parts as objects, absent where the parts are not labelled.

    Args:
        size: (height, width) of the result in pixels.
        supervision: ``mask`` or ``box``, see :func:`partbox.data.part_map.paint_part_map`, or ``auto``: masks of the
            images that have masks, boxes of the others.
        augmentations: None = test.
        part_maps: whether part maps are wanted; without them no mask is decoded.
        part_objects: whether ``instances`` are wanted: ``none``, ``boxes`` or ``masks`` (with boxes).
    """

    image_format = "RGB"

    def __init__(
        self,
        size: tuple[int, int],
        *,
        supervision: str,
        augmentations: list[T.Augmentation] | None,
        part_maps: bool = True,
        part_objects: str = "none",
    ) -> None:
        self.size = size
        self.supervision = supervision
        self.is_train = augmentations is not None
        resize = T.Resize(size, interp=Image.Resampling.BILINEAR)
        self.augmentations = T.AugmentationList(augmentations if augmentations is not None else [resize])
        self.part_maps = part_maps
        self.part_objects = part_objects

    @classmethod
    def from_config(cls, cfg: CfgNode, *, is_train: bool, part_maps: bool = True) -> PartDatasetMapper:
        """Test maps are painted from masks where the data have them, whatever the model learned from."""
        size = (int(cfg.INPUT.SIZE[0]), int(cfg.INPUT.SIZE[1]))
        steps = None
        if is_train:
            steps = training_augmentations(
                size,
                tuple(cfg.INPUT.CROP_AREA),
                tuple(cfg.INPUT.CROP_ASPECT),
                cfg.INPUT.RANDOM_FLIP,
                cfg.INPUT.COLOR_JITTER,
            )
        extractor = cfg.MODEL.PART.EXTRACTOR
        return cls(
            size,
            supervision=extractor.SUPERVISION if is_train else "auto",
            augmentations=steps,
            part_maps=part_maps and extractor.NAME != "none",
            part_objects=OBJECTS.get(extractor.NAME, "none") if is_train else "none",
        )

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Raises PartDatasetError where the image file cannot be read."""
        try:
            image, transforms = self._augmented(read_rgb(record["file_name"]))
        except (OSError, ValueError, SyntaxError) as error:
            raise PartDatasetError(
                record["file_name"], f"image {record['image_id']}", f"unreadable: {error}"
            ) from error
        sample = {key: record[key] for key in ("image_id", "file_name", "height", "width", "label", "part_labels")}
        if "part_weight" in record:
            sample["part_weight"] = record["part_weight"]
        sample["image"] = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if self.part_maps:
            sample["part_map"] = self._part_map(record, transforms)
        if self.part_objects != "none":
            instances = part_instances(
                record, transforms, self.size, self.supervision, wants_masks=self.part_objects == "masks"
            )
            if instances is not None:
                sample["instances"] = instances
        if not self.is_train:
            sample["annotations"] = copy.copy(record["annotations"])
        return sample

    def _augmented(self, photograph: Image.Image) -> tuple[np.ndarray, T.Transform]:
        """The augmented image, (H, W, 3) uint8, and what was done.

        A crop that comes first is cut before the photograph becomes an array: most of a large one is never copied.
        """
        steps = self.augmentations.augs
        if steps and isinstance(steps[0], RandomResizedCrop):
            image, cut = steps[0].cut(photograph)
            found = T.AugInput(image)
            transforms = cut + T.AugmentationList(steps[1:])(found)
            return found.image, transforms
        found = T.AugInput(np.asarray(photograph))
        transforms = self.augmentations(found)
        return found.image, transforms

    def _part_map(self, record: Mapping[str, Any], transforms: T.Transform) -> torch.Tensor:
        supervision = self.supervision
        if supervision == "auto":
            supervision = "mask" if record["part_labels"] == "mask" else "box"
        return torch.from_numpy(transform_part_map(paint_part_map(record, supervision), transforms))


def transform_part_map(part_map: np.ndarray, transforms: T.Transform) -> np.ndarray:
    """Apply an image's transforms to its part map, nearest pixel centre; int16 (H, W) -> int64 (H', W').

    The map travels as planes of bytes: detectron2 resizes uint8 with Pillow, which keeps pixel centres where the
    image's bilinear resize has them; other types go through a nearest resize that is half a pixel off.
    """
    shifted = part_map - part_map.dtype.type(IGNORE)  # from 0 on
    planes = [shifted] if shifted.max() < 256 else [shifted & 255, shifted >> 8]
    moved = [transforms.apply_segmentation(plane.astype(np.uint8)).astype(np.int64) for plane in planes]
    return np.ascontiguousarray(sum(plane << (8 * i) for i, plane in enumerate(moved))) + IGNORE
