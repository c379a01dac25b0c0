"""Example data: a seeded generator of images of articulated objects with part masks and boxes.

The 11 classes and 40 parts of PartImageNet as schematic jointed shapes, in random pose, place, colour and texture, amid
clutter. A class can be told by its parts only, not by colour, texture or area.
"""

from partbox.data.example.anatomy import CLASSES, ObjectClass
from partbox.data.example.contact_sheet import contact_sheet
from partbox.data.example.generate import example_image, generate_example_dataset
from partbox.data.example.render import ExampleImage, render_example
from partbox.data.example.style import ExampleStyle

__all__ = [
    "CLASSES",
    "ExampleImage",
    "ExampleStyle",
    "ObjectClass",
    "contact_sheet",
    "example_image",
    "generate_example_dataset",
    "render_example",
]
