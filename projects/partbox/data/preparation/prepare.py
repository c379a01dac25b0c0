"""Makes a part dataset from a COCO file of part labels: read, cut, split by photograph, write, account for everything.

<output>/images/<split>/<photograph>_<object>.jpg
<output>/{train,val,test}.json      part-dataset files; their image root is <output>/images
<output>/preparation.json           what it was made from, and the account of what was kept and left out
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from partbox.data.part_json_types import PartDatasetError

from .coco_document import CocoDocument, read_coco
from .coco_objects import collect_objects
from .coco_relations import find_relations
from .object_crops import Crop, CropTask, cut_photos
from .options import PrepareOptions
from .output import account_for, check_output, describe_input, open_output, write_output
from .photo_files import PhotoError
from .photographs import FIX_IMAGE, plan_crops
from .report import PreparationReport, format_report


def prepare_parts(
    annotations: Path,
    image_root: Path,
    output: Path,
    options: PrepareOptions,
    *,
    workers: int = 1,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> PreparationReport:
    """Make a part dataset. A run that was interrupted goes on where it stopped when it is started again.

    Args:
        annotations: a COCO file of part labels.
        image_root: the folder that the file's image names start from.
        output: the folder to be made; one that holds anything but an earlier run with the same input is refused.
        options: what to make.
        workers: processes; the output is the same for any number.
        overwrite: remove what an earlier run with other input or options has left in ``output``.
        say: is told, in sentences, what the file was found to mean, and the account in the end.

    Raises:
        PartDatasetError: if the input cannot be used as it is.
        OSError: if the output cannot be written.
    """
    check_output(output)
    document = read_coco(annotations)
    relations = find_relations(document, options.relations)
    found = collect_objects(
        document,
        relations,
        labels=options.labels,
        whole_images=options.crop == "none",
        empty_means_absent=options.empty == "absent",
    )
    for note in (*relations.notes, *found.notes):
        say(note)
    plan = plan_crops(document, image_root, found, options, say)
    made_from = describe_input(document, relations, found, plan, image_root, options)
    open_output(output, made_from, overwrite=overwrite)
    crops = _cut(document, plan.tasks, image_root, output, options, workers)
    kept = sum(crop.was_there for some in crops for crop in some)
    if kept:
        say(f"{kept} of {sum(map(len, crops))} crops were there from an earlier run")
    report = account_for(plan, crops, found)
    write_output(output, made_from, plan, crops, found.part_names, report)
    say(format_report(report, plan.splits))
    return report


def _cut(
    document: CocoDocument,
    tasks: list[CropTask],
    image_root: Path,
    output: Path,
    options: PrepareOptions,
    workers: int,
) -> list[list[Crop]]:
    """The crops of each task."""
    crops: list[list[Crop]] = []
    with tqdm(total=sum(len(task.files) for task in tasks), desc="cutting", unit="crop", disable=None) as bar:
        try:
            for some in cut_photos(tasks, image_root, output / "images", options.crops, workers=workers):
                crops.append(some)
                bar.update(len(some))
        except PhotoError as error:
            raise PartDatasetError(document.file, f"image {error.args[1]}", error.args[0], FIX_IMAGE) from error
    return crops
