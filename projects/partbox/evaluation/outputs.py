"""A detectron2 model's output for one image as plain JSON values, and back."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from pycocotools import mask as coco_mask
from torch import Tensor

BOXES, MASKS = "pred_boxes", "pred_masks"
UNREAD = ("pred_keypoint_heatmaps",)  # what keypoints were found from: megabytes that no evaluator looks at


def encode_output(output: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON values of an output.

    Exact for instances (boxes, masks, scores, classes and every other field that is a tensor, but for the heatmaps of
    keypoints, which are left out), panoptic maps, tensors and plain values. Of ``sem_seg`` scores (C, H, W) only the
    winning class of each pixel is kept.

    Raises:
        TypeError: something that cannot be kept; named.
    """
    encoded: dict[str, Any] = {}
    for key, value in output.items():
        if key == "sem_seg":
            encoded[key] = {"classes": len(value), "winner": _pack(value.argmax(dim=0).to(torch.int32))}
        elif key == "panoptic_seg":
            encoded[key] = {"map": _pack(value[0]), "segments": value[1]}
        elif isinstance(value, Instances):
            encoded[key] = _encode_instances(value)
        elif isinstance(value, Tensor):
            encoded[key] = _pack(value)
        elif value is None or isinstance(value, bool | int | float | str):
            encoded[key] = value
        else:
            raise TypeError(f"the output {key!r} is a {type(value).__name__}, which a record cannot keep")
    return encoded


def decode_output(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`encode_output` was given, on the CPU; ``sem_seg`` as one-hot scores."""
    output: dict[str, Any] = {}
    for key, value in encoded.items():
        if key == "sem_seg":
            winner = _unpack(value["winner"]).long()
            output[key] = torch.nn.functional.one_hot(winner, value["classes"]).permute(2, 0, 1).float()
        elif key == "panoptic_seg":
            output[key] = (_unpack(value["map"]), value["segments"])
        elif isinstance(value, Mapping) and "image_size" in value:
            output[key] = _decode_instances(value)
        elif isinstance(value, Mapping):
            output[key] = _unpack(value)
        else:
            output[key] = value
    return output


def _pack(tensor: Tensor) -> dict[str, Any]:
    array = np.ascontiguousarray(tensor.detach().cpu().numpy())
    data = base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.str, "zlib": data}


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    data = zlib.decompress(base64.b64decode(packed["zlib"]))
    return torch.from_numpy(np.frombuffer(data, dtype=packed["dtype"]).reshape(packed["shape"]).copy())


def _encode_instances(instances: Instances) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in instances.get_fields().items():
        if name == BOXES and isinstance(value, Boxes):
            fields[name] = _pack(value.tensor)
        elif name == MASKS and isinstance(value, Tensor):
            fields[name] = [_run_lengths(mask) for mask in value.cpu().numpy().astype(np.uint8)]
        elif name in UNREAD:
            continue
        elif isinstance(value, Tensor):
            fields[name] = _pack(value)
        else:
            raise TypeError(f"the instances' {name!r} is a {type(value).__name__}, which a record cannot keep")
    return {"image_size": list(instances.image_size), "fields": fields}


def _decode_instances(encoded: Mapping[str, Any]) -> Instances:
    height, width = encoded["image_size"]
    instances = Instances((height, width))
    for name, value in encoded["fields"].items():
        if name == MASKS:
            masks = list(coco_mask.decode(value).transpose(2, 0, 1)) if value else []
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            instances.set(name, torch.from_numpy(stacked.astype(bool)))
        else:
            tensor = _unpack(value)
            instances.set(name, Boxes(tensor) if name == BOXES else tensor)
    return instances


def _run_lengths(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}
