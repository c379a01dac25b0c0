"""How hard the example images are: every knob of the generator, with its unit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExampleStyle:
    """Difficulty of the example images. The defaults can be learnt by a small network in a few minutes.

    Lengths are shares of the image's shorter side, areas are shares of its square, colours are RGB in [0, 1].
    """

    object_area: tuple[float, float] = (0.16, 0.23)
    """Range of the object's area before occlusion. The same for all classes: area must not tell the class."""
    max_extent: float = 0.94
    """Longest side of the object's bounding box."""
    rotation: float = 12.0
    """In-plane rotation is uniform in plus or minus this, in degrees."""
    joint_freedom: float = 1.0
    """Scales the spread of all joint angles and body proportions; 0 draws every object in its standard pose."""
    distortion: float = 0.10
    """Spread of shear, stretch and perspective."""
    flip_probability: float = 0.5
    """Chance that an object looks to the left."""
    bright_object: float = 1.0
    """Chance that the parts are brighter than the background and clutter darker; otherwise it is the other way round.
    At 1 brightness tells parts from clutter; at 0.5 it does not, and adversarial training of small networks suffers."""
    contrast: float = 0.3
    """Least RGB distance between any two surfaces of one image (background, parts and clutter)."""
    texture_strength: float = 0.09
    """Mean amplitude of stripes, dots, noise and gradients around a surface's colour."""
    min_clutter: int = 2
    """Least number of distractor shapes behind the object."""
    outline_length: tuple[float, float] = (8.5, 10.0)
    """Range of the total length of all colour borders. Clutter is added until it is reached, so that objects
    with few parts come with more clutter and the amount of edges does not tell the class."""
    clutter_area: tuple[float, float] = (0.08, 0.12)
    """Range of the area that clutter should cover, whatever its number of shapes."""
    occlusion_probability: float = 0.35
    """Chance of a blob in front of the object."""
    occluder_size: tuple[float, float] = (0.10, 0.22)
    """Range of that blob's diameter."""
    max_occluded: float = 0.3
    """Largest share of the object's area that the blob may hide; a larger one is left out."""
    noise: float = 0.015
    """Standard deviation of the pixel noise."""

    def __post_init__(self) -> None:
        for name in ("object_area", "outline_length", "clutter_area", "occluder_size"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(
                    f"ExampleStyle.{name} must be an increasing pair of positive numbers, not {(low, high)}"
                )
        for name in ("flip_probability", "bright_object", "occlusion_probability", "max_occluded"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ExampleStyle.{name} must lie in [0, 1], not {getattr(self, name)}")
        for name in ("rotation", "joint_freedom", "distortion", "contrast", "texture_strength", "min_clutter", "noise"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"ExampleStyle.{name} must not be negative, but is {getattr(self, name)}")
        if not 0.2 <= self.max_extent <= 1:
            raise ValueError(f"ExampleStyle.max_extent must lie in [0.2, 1], not {self.max_extent}")
        if self.distortion > 0.3:
            raise ValueError(f"ExampleStyle.distortion above 0.3 turns shapes inside out, but is {self.distortion}")
