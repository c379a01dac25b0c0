"""Part datasets in detectron2's catalogs: register by name, load when first asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from .example import generate_example_dataset
from .image_files import VERIFY_LEVELS, VerifyLevel
from .part_json import load_part_dataset
from .part_json_entry import near_matches
from .part_json_types import PartDataset, PartDatasetError
from .shifts.kinds import IMAGES_NAME, JSON_NAME, SHIFTS, shifted_folder

EXAMPLE = "example"
"""The generated data set, made when it is first asked for."""

BUILTIN_DATASETS = {
    EXAMPLE: "tools/make_example_data.py",
    "partimagenet": "datasets/prepare_partimagenet.py",
    "partimagenet_pp": "datasets/prepare_partimagenet_pp.py",
    "paco_lvis": "datasets/prepare_paco_lvis.py",
    "paco_ego4d": "datasets/prepare_paco_ego4d.py",
    "pascal_part": "datasets/prepare_pascal_part.py",
    "cityscapes_part": "datasets/prepare_cityscapes_part.py",
    "pascal_part_animals": "datasets/prepare_pascal_part_animals.py",
    "car_parts": "datasets/prepare_coco_parts.py",
}
"""Data set -> the script that makes its files."""

SPLITS = ("train", "val", "test")

SHIFTED_NAMES = tuple(f"{name}_{split}_{shift}" for name in BUILTIN_DATASETS for split in SPLITS for shift in SHIFTS)
"""Names of the shifted copies of built-in data sets."""


@dataclass
class _Source:
    """What stands in DatasetCatalog under the name of a part dataset: a callable that gives its records.

    Attributes:
        made_by: the script that makes the file of a built-in data set.
        of_path: whether the name is the path of the file, which means another one in another working directory.
        state: of the file when it was read, see :func:`_state_of`.
    """

    name: str
    json_file: str
    image_root: str
    made_by: str = field(default="", compare=False)
    make: Callable[[], object] | None = field(default=None, compare=False, repr=False)
    loaded: PartDataset | None = field(default=None, compare=False, repr=False)
    verified: VerifyLevel = field(default="none", compare=False)
    of_path: bool = field(default=False, compare=False, repr=False)
    state: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def __call__(self) -> list[dict[str, Any]]:
        return self.load("header").records

    def load(self, verify_images: VerifyLevel) -> PartDataset:
        """The data set, read once; again if it changed, or its images are to be verified more thoroughly."""
        seen_enough = VERIFY_LEVELS.index(self.verified) <= VERIFY_LEVELS.index(verify_images)
        if self.loaded is not None and seen_enough and self.state == _state_of(self.json_file):
            return self.loaded
        if self.make is not None and not os.path.exists(self.json_file):
            self.make()
        if not os.path.exists(self.json_file):
            fix = f"make it with {self.made_by}, or set DETECTRON2_DATASETS" if self.made_by else ""
            raise PartDatasetError(self.json_file, "file", f"does not exist (data set {self.name!r})", fix)
        state = _state_of(self.json_file)
        dataset = load_part_dataset(self.json_file, self.image_root, verify_images=verify_images)
        _set_metadata(self, dataset)
        self.loaded, self.verified, self.state = dataset, verify_images, state
        return dataset


def _state_of(json_file: str) -> tuple[int, ...]:
    """What changes when a file is written: time in nanoseconds and size in bytes; empty where there is none."""
    try:
        found = os.stat(json_file)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size


def register_part_dataset(name: str, json_file: str | Path, image_root: str | Path) -> None:
    """Register a part dataset with detectron2. Nothing is read before it is asked for.

    ``DatasetCatalog.get(name)`` then gives the records of :class:`PartDataset`, with image headers verified; call
    :func:`get_part_dataset` first for more or less. ``MetadataCatalog.get(name)`` has ``json_file``, ``image_root`` and
    ``evaluator_type`` "part" at once and, when loaded, ``thing_classes`` (the P parts as "Class:part"),
    ``class_names`` (the K classes), ``part_to_class`` (P indices of classes) and
    ``thing_dataset_id_to_contiguous_id``, which detectron2's COCO evaluator asks for.

    In detectron2's loader set ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` to False, or images without a part are left out.

    Args:
        name: e.g. "my_birds_train".
        json_file, image_root: as for :func:`load_part_dataset`.

    Raises:
        PartDatasetError: if the name is taken by other files. The same registration again is fine.
    """
    _register(_Source(name, os.path.abspath(json_file), os.path.abspath(image_root)))


def _register(source: _Source) -> None:
    if source.name in DatasetCatalog:
        known = DatasetCatalog[source.name]
        if known != source:
            fix = f"choose another name, or call partbox.data.unregister_part_dataset({source.name!r}) first"
            raise PartDatasetError(source.json_file, source.name, f"this name is already registered for {known}", fix)
        return
    MetadataCatalog.get(source.name).set(
        json_file=source.json_file, image_root=source.image_root, evaluator_type="part"
    )
    DatasetCatalog.register(source.name, source)


def unregister_part_dataset(name: str) -> None:
    """Forget a part dataset, its loaded records and its metadata. An unknown name is fine."""
    if isinstance(DatasetCatalog.data.get(name), _Source):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def register_dataset_file(name: str) -> None:
    """Register a name that is the path of a part-dataset file, ``.../train.json``; do nothing for any other name.

    Its images are those of ``images`` beside it, the layout of every prepared dataset. A relative path is
    that of the working directory as it is now.
    """
    if not name.endswith(".json"):
        return
    source = _Source(name, os.path.abspath(name), os.path.abspath(Path(name).parent / "images"), of_path=True)
    known = DatasetCatalog.data.get(name)
    if isinstance(known, _Source) and known.of_path and known != source:
        unregister_part_dataset(name)
    if name not in DatasetCatalog:
        _register(source)


def get_part_dataset(name: str, verify_images: VerifyLevel = "header") -> PartDataset:
    """A registered part dataset; read at the first call and kept.

    Args:
        name: as registered, or the path of a file, see :func:`register_dataset_file`.
        verify_images: as for :func:`load_part_dataset`. "header" finds missing, truncated and wrongly sized images;
            "decode" takes minutes for 100,000 photographs and is meant for the first look at new data.

    Raises:
        PartDatasetError: for an unknown name, a missing file (saying which script makes it), a wrong file.
    """
    register_dataset_file(name)
    source = DatasetCatalog.data.get(name)
    if not isinstance(source, _Source):
        names = [known for known in DatasetCatalog.list() if isinstance(DatasetCatalog[known], _Source)]
        listed = ", ".join(sorted(set(names) - set(SHIFTED_NAMES)))
        shifted = f"; of built-in ones also NAME_SHIFT with a shift of {', '.join(SHIFTS)}"
        known = (listed or "none") + shifted * bool(set(names) & set(SHIFTED_NAMES))
        fix = near_matches(name, names) or f"registered are: {known}"
        raise PartDatasetError("dataset catalog", repr(name), "no part dataset has this name", fix)
    return source.load(verify_images)


def register_builtin_datasets(root: str | Path | None = None) -> None:
    """Register ``<dataset>_<split>`` for all of BUILTIN_DATASETS and train, val, test; the files need not exist.

    Layout: ``<root>/<dataset>/{train,val,test}.json`` and ``<root>/<dataset>/images``. Each also as
    ``<dataset>_<split>_<shift>`` for each of SHIFTS, in ``<root>/<dataset>/shifted/<split>/<shift>``.

    Args:
        root: the folder of data sets; None takes ``$DETECTRON2_DATASETS`` as it is now, else "datasets_root".

    Raises:
        PartDatasetError: if one of the names is registered for another root.
    """
    for source in _builtin_sources(root):
        _register(source)


def look_again(name: str, root: str | Path | None = None) -> None:
    """Register a built-in data set at another root where its file is not where it was looked for; else do nothing.

    For programs that go on after ``DETECTRON2_DATASETS`` was set too late.

    Args:
        name: of a data set, registered or not.
        root: see :func:`register_builtin_datasets`.
    """
    known = DatasetCatalog.data.get(name)
    if not isinstance(known, _Source) or not known.made_by or os.path.exists(known.json_file):
        return
    for source in _builtin_sources(root):
        if source.name == name and source != known:
            unregister_part_dataset(name)
            _register(source)


def refuse_another_root(name: str, root: str | Path) -> None:
    """Refuse a built-in data set that is registered at another root than a model asks for, where both have it.

    Raises:
        PartDatasetError: the name stands for other files; with a path in place of the name there is no doubt.
    """
    known = DatasetCatalog.data.get(name)
    for source in _builtin_sources(root):
        if source.name == name and isinstance(known, _Source) and source != known and os.path.exists(source.json_file):
            fix = f"name the file that is meant, {source.json_file} or {known.json_file}"
            at = f"is registered for {known.json_file}, and the model's DATASETS.ROOT is {root}"
            raise PartDatasetError(source.json_file, name, at, fix)


def _builtin_sources(root: str | Path | None) -> Iterator[_Source]:
    given = root if root is not None else os.environ.get("DETECTRON2_DATASETS", "datasets_root")
    folder = Path(os.path.abspath(Path(given).expanduser()))
    for dataset, made_by in BUILTIN_DATASETS.items():
        for split in SPLITS:
            json_file, image_root = folder / dataset / f"{split}.json", folder / dataset / "images"
            make = partial(generate_example_dataset, folder / dataset) if dataset == EXAMPLE else None
            yield _Source(f"{dataset}_{split}", str(json_file), str(image_root), made_by, make)
            for shift in SHIFTS:
                shifted = shifted_folder(json_file) / shift
                made_by_shift = f"datasets/make_shifted.py --dataset {dataset}_{split} --shift {shift}"
                files = str(shifted / JSON_NAME), str(shifted / IMAGES_NAME)
                yield _Source(f"{dataset}_{split}_{shift}", *files, made_by_shift)


def _set_metadata(source: _Source, dataset: PartDataset) -> None:
    metadata = MetadataCatalog.get(source.name)
    names = [f"{dataset.class_names[part.class_index]}:{part.name}" for part in dataset.categories]
    values = {
        "thing_classes": names,
        "part_to_class": dataset.part_to_class.tolist(),
        "thing_dataset_id_to_contiguous_id": {part.id: index for index, part in enumerate(dataset.categories)},
        "class_names": list(dataset.class_names),
    }
    # past Metadata's own attributes, which take "class_names" for an old spelling of "thing_classes"
    if any(vars(metadata).get(key, value) != value for key, value in values.items()):
        raise PartDatasetError(
            source.json_file,
            source.name,
            "classes or parts have changed since the file was first loaded",
            f"call partbox.data.unregister_part_dataset({source.name!r}) and register it again, or start Python anew",
        )
    vars(metadata).update(values)
