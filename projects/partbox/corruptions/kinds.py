"""Names of the 19 kinds of corruption and of their groups."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    "extra": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
"""Group -> its kinds of corruption; "extra" is no part of the benchmark."""

EXTRA = GROUPS["extra"]
"""The four kinds that the authors hold out for validation: not part of mCE, mPC."""

BENCHMARK: tuple[str, ...] = tuple(kind for group, kinds in GROUPS.items() if group != "extra" for kind in kinds)
"""The 15 kinds of mCE and mPC."""

KINDS = BENCHMARK + EXTRA
"""All 19 kinds."""

SEVERITIES = (1, 2, 3, 4, 5)
"""From weak to strong."""
