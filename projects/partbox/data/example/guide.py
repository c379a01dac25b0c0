"""What the folder of example data holds and how to make it again: the text of its ``README.txt``."""

from __future__ import annotations

from collections.abc import Mapping

from partbox.folder_readme import SELF, Entry, text_of

SPLITS = ("train", "val", "test")


def example_guide(
    record: str, num_images: Mapping[str, int], *, seed: int, size: tuple[int, int], usual_style: bool
) -> str:
    """The text; the same for the same parameters, wherever the folder is.

    Args:
        record: name of the file that holds the parameters.
        num_images: of each split.
        seed: of the data.
        size: (height, width) in pixels.
        usual_style: whether the tool draws images of this style.
    """
    entries = [
        SELF,
        Entry(record, "the parameters: seed, numbers and size of the images, how hard they are"),
        *(Entry(f"{split}.json", f"part-dataset file of {count:,} images") for split, count in num_images.items()),
        Entry("images/", "the images, by split; file_name in the part-dataset files starts from here"),
        Entry("shifted/", "copies by datasets/make_shifted.py, each with a README.txt", always=False),
    ]
    steps = []
    if usual_style and set(num_images) <= set(SPLITS):
        counts = " ".join(f"--{split} {num_images.get(split, 0)}" for split in SPLITS)
        options = f"--seed {seed} --size {size[0]} {size[1]} {counts}"
        steps.append(("make it again, the same bytes", f"python tools/make_example_data.py --output FOLDER {options}"))
    steps.append(("look at labels", "python tools/visualize_parts.py labels --dataset FILE --output FOLDER"))
    title = "Example data made by partbox: schematic objects with the classes and parts of PartImageNet."
    return text_of(title, entries, steps, datasets="")
