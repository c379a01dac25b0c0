"""Random numbers that depend on (seed, image id, restart) only.

A shared generator would make the numbers of an image depend on its neighbours in the batch. Here every image has
a generator of its own, on the CPU, so batch size, order, process count and device do not matter.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .threat import ThreatModel

ImageId = int | str


def image_seed(seed: int, image_id: ImageId, restart: int) -> int:
    """A seed below 2**63 for one image; ``1`` and ``"1"`` are the same image id."""
    digest = hashlib.blake2b(f"{seed}|{image_id}|{restart}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def image_generator(seed: int, image_id: ImageId, restart: int) -> torch.Generator:
    """A CPU generator for one image."""
    return torch.Generator().manual_seed(image_seed(seed, image_id, restart))


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """All global generators start at ``seed`` inside and go on afterwards where they were.

    For code of others that draws from them; our own has generators of its own.
    """
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)


def content_ids(images: Tensor) -> list[str]:
    """Ids made from the pixels, for callers without ids: independent of batch and order. (B, C, H, W) -> B texts."""
    host = images.detach().to("cpu", torch.float32).contiguous().numpy()
    return [hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() for image in host]


def _stacked(noises: Sequence[Tensor], images: Tensor) -> Tensor:
    """Noises of the images as a batch like them, also where there are none."""
    return torch.stack(list(noises)).to(images) if noises else torch.zeros_like(images)


def random_starts(
    threat: ThreatModel, images: Tensor, image_ids: Sequence[ImageId], *, seed: int, restart: int
) -> Tensor:
    """A random allowed image around each image, (B, C, H, W).

    linf: uniform in the box. l2: uniform in the ball (Gaussian direction, radius eps * U^(1/d)). l1: uniform in the
    ball (exponential numbers with random signs, over their sum and one more).
    """
    shape = images.shape[1:]
    noises = []
    for image_id in image_ids:
        generator = image_generator(seed, image_id, restart)
        if threat.norm == "linf":
            noises.append(torch.rand(shape, generator=generator) * 2 - 1)
        elif threat.norm == "l1":
            shares = torch.empty(math.prod(shape) + 1).exponential_(generator=generator)
            signs = torch.rand(shape, generator=generator) - 0.5
            noises.append((shares[1:] / shares.sum()).view(shape) * signs.sign())
        else:
            direction = torch.randn(shape, generator=generator)
            radius = torch.rand((), generator=generator) ** (1 / direction.numel())
            noises.append(direction / direction.norm().clamp_min(1e-12) * radius)
    return threat.project(images, images + threat.eps * _stacked(noises, images))


def gaussian_starts(
    threat: ThreatModel, images: Tensor, image_ids: Sequence[ImageId], *, seed: int, deviation: float
) -> Tensor:
    """Each image plus Gaussian noise of a standard deviation in [0, 1] pixel space, projected; (B, C, H, W)."""
    noises = [torch.randn(images.shape[1:], generator=image_generator(seed, one, 0)) for one in image_ids]
    return threat.project(images, images + deviation * _stacked(noises, images))


def boundary_starts(
    threat: ThreatModel, images: Tensor, image_ids: Sequence[ImageId], *, seed: int, restart: int
) -> Tensor:
    """A random image at distance eps (before pixels are clipped to [0, 1]) from each image, (B, C, H, W).

    linf: uniform noise over its largest entry, so that at least one entry is at eps. l2: a Gaussian direction. l1: the
    allowed image nearest to Gaussian noise. All as AutoAttack starts APGD (Croce & Hein 2020, 2021).
    """
    shape = images.shape[1:]
    noises = []
    for image_id in image_ids:
        generator = image_generator(seed, image_id, restart)
        if threat.norm == "linf":
            noise = torch.rand(shape, generator=generator) * 2 - 1
            noises.append(noise / noise.abs().max().clamp_min(1e-12))
        elif threat.norm == "l1":
            noises.append(torch.randn(shape, generator=generator))
        else:
            noise = torch.randn(shape, generator=generator)
            noises.append(noise / noise.norm().clamp_min(1e-12))
    if threat.norm == "l1":
        return threat.project(images, images + _stacked(noises, images))
    return (images + threat.eps * _stacked(noises, images)).clamp(0.0, 1.0)
