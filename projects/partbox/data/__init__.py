"""Part datasets: the file format, detectron2's catalogs, splits."""

from .catalog import get_part_dataset, register_builtin_datasets, register_part_dataset, unregister_part_dataset
from .part_json import load_part_dataset
from .part_json_types import PartCategory, PartDataset, PartDatasetError
from .part_json_write import write_part_dataset
from .splits import split_by_source

__all__ = [
    "PartCategory",
    "PartDataset",
    "PartDatasetError",
    "get_part_dataset",
    "load_part_dataset",
    "register_builtin_datasets",
    "register_part_dataset",
    "split_by_source",
    "unregister_part_dataset",
    "write_part_dataset",
]
