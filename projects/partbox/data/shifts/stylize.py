"""The texture of another image on an image's shapes, without network weights: patches of the texture are quilted.

Texture transfer by image quilting (Efros and Freeman, SIGGRAPH 2001): the image is covered by overlapping patches of
the texture, each chosen for agreeing with the image in coarse brightness and with its neighbours where they overlap,
and cut along the line of least difference. The fine brightness and the colours of that quilt then replace those of the
image; its coarse brightness, smoothed inside regions and not across edges (bilateral filter, Tomasi and Manduchi, ICCV
1998), stays. The aim is that of Geirhos et al., ICLR 2019 (arXiv 1811.12231), who exchange textures by a network.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
"""(H, W, 3) RGB."""
Lab = NDArray[np.float32]
"""(H, W, 3) CIE L*a*b*, L* in [0, 100]."""

CANDIDATES = 800  # patches of the texture that are drawn
_CELLS = 4  # coarse brightness of a patch: means of 4 x 4 cells
_SHORT_LIST = 48  # of the candidates, those closest in coarse brightness
_TOLERANCE = 1.1  # any patch whose error is at most this times the least may be taken, as Efros and Freeman do
_RANGE = 12.0  # steps of L* that the bilateral filter takes for an edge
_MIN_TEXTURE = 2  # patches along the shorter side of a texture; smaller textures are enlarged


@dataclass(frozen=True)
class _Patches:
    """Patches of a texture: ``pixels`` (N, p, p, 3) L*a*b* and their coarse brightness ``coarse`` (N, 16)."""

    pixels: NDArray[np.float32]
    coarse: NDArray[np.float32]


def stylize(image: Image, texture: Image, generator: np.random.Generator, *, strength: float = 1.0) -> Image:
    """The image with another one's texture and colours; a new array of its shape.

    Args:
        image: whose shapes stay.
        texture: any size; patches are drawn from all of it.
        generator: of the draws.
        strength: 1 for the texture alone, towards 0 more and more of the image shines through.

    Raises:
        ValueError: a strength outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"the strength must lie in (0, 1], not {strength:g}")
    patch = patch_side(image.shape[0], image.shape[1])
    content = _to_lab(image)
    quilt = _quilt(content, _to_lab(_large_enough(texture, patch)), patch, generator)
    shape = cv2.bilateralFilter(content[..., 0], -1, _RANGE, patch / 4)
    coarse = cv2.GaussianBlur(quilt[..., 0], (0, 0), patch / 2)
    styled = np.dstack([shape + quilt[..., 0] - coarse, quilt[..., 1:]])
    return _to_rgb(content + np.float32(strength) * (styled - content))


def patch_side(height: int, width: int) -> int:
    """Side of the patches for an image, in pixels: a twelfth of its shorter side, a multiple of 4, from 8 to 32."""
    return int(np.clip(round(min(height, width) / 12 / _CELLS), 2, 8)) * _CELLS


def _large_enough(texture: Image, patch: int) -> Image:
    height, width = texture.shape[:2]
    scale = max(1.0, _MIN_TEXTURE * patch / min(height, width))
    if scale == 1.0:
        return texture
    size = (int(np.ceil(width * scale)), int(np.ceil(height * scale)))
    return np.asarray(cv2.resize(texture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _to_lab(image: Image) -> Lab:
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / np.float32(255), cv2.COLOR_RGB2LAB), np.float32)


def _to_rgb(lab: Lab) -> Image:
    rgb = cv2.cvtColor(np.ascontiguousarray(lab, dtype=np.float32), cv2.COLOR_LAB2RGB)
    return np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- quilting


def _quilt(content: Lab, texture: Lab, patch: int, generator: np.random.Generator) -> Lab:
    """The content's coarse brightness, covered by patches of the texture: (H, W, 3)."""
    height, width = content.shape[:2]
    overlap = patch // 4
    step = patch - overlap
    rows, columns = -(-max(height - overlap, 1) // step), -(-max(width - overlap, 1) // step)
    guide = _like_distribution(_blurred(content[..., 0], patch), _blurred(texture[..., 0], patch))
    bottom, right = rows * step + overlap - height, columns * step + overlap - width
    guide = np.pad(guide, ((0, max(bottom, 0)), (0, max(right, 0))), mode="edge")
    patches = _draw_patches(texture, patch, generator)
    quilt = np.zeros((rows * step + overlap, columns * step + overlap, 3), np.float32)
    for row in range(rows):
        for column in range(columns):
            place = (slice(row * step, row * step + patch), slice(column * step, column * step + patch))
            above, left = overlap * (row > 0), overlap * (column > 0)
            chosen = _choose(patches, _coarse(guide[place]), quilt[place], above, left, generator)
            quilt[place] = _sew(quilt[place], chosen, above, left)
    return quilt[:height, :width]


def _blurred(brightness: NDArray[np.float32], patch: int) -> NDArray[np.float32]:
    return np.asarray(cv2.GaussianBlur(brightness, (0, 0), patch / 4), np.float32)


def _like_distribution(values: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """The values in their order, with the distribution of other values."""
    order = np.argsort(values, axis=None, kind="stable")
    places = (np.arange(values.size) + 0.5) / values.size * wanted.size - 0.5
    matched = np.empty(values.size, np.float32)
    matched[order] = np.interp(places, np.arange(wanted.size), np.sort(wanted, axis=None))
    return matched.reshape(values.shape)


def _coarse(brightness: NDArray[np.float32]) -> NDArray[np.float32]:
    cells = cv2.resize(np.ascontiguousarray(brightness), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.float32).ravel()


def _draw_patches(texture: Lab, patch: int, generator: np.random.Generator) -> _Patches:
    rows, columns = texture.shape[0] - patch + 1, texture.shape[1] - patch + 1
    drawn = generator.choice(rows * columns, size=min(CANDIDATES, rows * columns), replace=False)
    pixels, coarse, brightness = [], [], _blurred(texture[..., 0], patch)
    for place, mirrored in zip(drawn.tolist(), generator.integers(2, size=len(drawn)).tolist(), strict=True):
        y, x = divmod(place, columns)
        across = slice(None, None, -1 if mirrored else 1)  # more variety where the texture is small
        pixels.append(texture[y : y + patch, x : x + patch][:, across])
        coarse.append(_coarse(brightness[y : y + patch, x : x + patch][:, across]))
    return _Patches(np.stack(pixels), np.stack(coarse))


def _choose(
    patches: _Patches,
    wanted: NDArray[np.float32],
    there: NDArray[np.float32],
    above: int,
    left: int,
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """A patch that agrees with the coarse brightness and with what is there already in its first rows and columns."""
    errors = ((patches.coarse - wanted) ** 2).mean(axis=1, dtype=np.float64)
    short_list = np.argsort(errors, kind="stable")[:_SHORT_LIST]
    errors, pixels = errors[short_list], patches.pixels[short_list]
    if above:
        errors = errors + ((pixels[:, :above] - there[:above]) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
    if left:
        errors = errors + ((pixels[:, :, :left] - there[:, :left]) ** 2).mean(axis=(1, 2, 3), dtype=np.float64)
    good = np.flatnonzero(errors <= _TOLERANCE * errors.min())
    return pixels[good[generator.integers(len(good))]]


def _sew(there: NDArray[np.float32], chosen: NDArray[np.float32], above: int, left: int) -> NDArray[np.float32]:
    """A patch over what is there, each pixel of the overlap on one side of the line of least difference."""
    keep = np.zeros(chosen.shape[:2], bool)
    if left:
        keep[:, :left] |= _before_seam(((there[:, :left] - chosen[:, :left]) ** 2).sum(axis=2))
    if above:
        keep[:above] |= _before_seam(((there[:above] - chosen[:above]) ** 2).sum(axis=2).T).T
    return np.where(keep[..., None], there, chosen)


def _before_seam(cost: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pixels of a vertical strip (n, w) lie left of the cheapest path from its top to its bottom."""
    total = cost.astype(np.float64)
    for row in range(1, len(total)):
        padded = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    seam = np.empty(len(total), np.int64)
    seam[-1] = total[-1].argmin()
    for row in range(len(total) - 2, -1, -1):
        first = max(seam[row + 1] - 1, 0)
        seam[row] = first + total[row, first : seam[row + 1] + 2].argmin()
    return np.arange(cost.shape[1]) < seam[:, None]
