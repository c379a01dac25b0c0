"""Makes a part dataset of labelled photographs: read, split by photograph, cut, write, account for everything.

<output>/images/<split>/<photograph>_<object>.jpg
<output>/{train,val,test}.json      part-dataset files; their image root is <output>/images
<output>/preparation.json           what it was made from, and the account of what was kept and left out
<output>/README.txt                 what of this is there, and the command
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from partbox.data.part_json_types import PartDatasetError
from partbox.files import write_text
from partbox.folder_readme import README
from partbox.progress import Progress

from .crop_plan import FIX_IMAGE, collect_photos, plan_splits
from .guide import preparation_guide
from .object_crops import cut_photos
from .options import PrepareOptions
from .output import account_for, check_output, describe_input, open_output, write_output
from .photo_files import PhotoError
from .photo_reader import PhotoReader
from .photo_store import PhotoStore
from .report import PreparationReport, format_report


def prepare_photos(
    reader: PhotoReader,
    output: Path,
    options: PrepareOptions,
    *,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
    command: Sequence[str] = (),
) -> PreparationReport:
    """Make a part dataset. A run that was interrupted keeps its crops when it is started again.

    Args:
        reader: gives the labelled photographs.
        output: the folder to be made; one that holds anything but an earlier run with the same input is refused.
        options: what to make.
        workers: processes; the output is the same for any number.
        overwrite: remove what an earlier run with other input or options has left in ``output``.
        say: is told, in sentences, what was found, and the account in the end.
        command: the command line that does this, for the folder's ``README.txt``; empty where no tool does.

    Raises:
        PartDatasetError: if the input cannot be used as it is.
        OSError: if the output cannot be written.
    """
    options.refuse_seeds_of_nothing()
    check_output(output)
    with closing(PhotoStore(numbered=reader.numbered, labels=str(reader.image_root))) as store:
        collect_photos(reader, store, options, workers=workers)
        splits = plan_splits(store, reader, options, workers=workers, say=say)
        made_from = describe_input(reader, store, options)
        open_output(output, made_from, overwrite=overwrite)
        guide = preparation_guide(output, splits, with_images=not options.labels_only, command=command)
        write_text(output / README, guide)
        kept = _cut(store, reader.image_root, output, options, workers)
        if kept:
            say(f"{kept} of {store.count_objects()} crops were there from an earlier run")
        report = account_for(store, splits)
        write_output(output, made_from, store, splits, reader, report)
    say(format_report(report, splits))
    return report


def _cut(store: PhotoStore, image_root: Path, output: Path, options: PrepareOptions, workers: int) -> int:
    """Cut everything; the number of crops that were there already."""
    kept, root = 0, None if options.labels_only else output / "images"
    with Progress(store.count_objects(), "cutting", "crop") as bar:
        try:
            tasks = store.tasks(options.crops.image_format)
            for crops in cut_photos(tasks, image_root, root, options.crops, workers=workers):
                store.add_crops(crops)
                kept += sum(crop.was_there for crop in crops)
                bar.step(len(crops))
        except PhotoError as error:
            raise PartDatasetError(str(image_root), f"image {error.args[1]}", error.args[0], FIX_IMAGE) from error
    return kept
