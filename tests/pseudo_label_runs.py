"""What the tests of tools/pseudo_label.py have in common."""

from __future__ import annotations

import json
from pathlib import Path

from small_models import MODELS, SMALL

from partbox.data import PartDataset, load_part_dataset

SHORT = [
    *[*SMALL, *MODELS["part_box"], "SOLVER.MAX_ITER", "3", "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "0"],
    *["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]", "ROBUST_EVAL.NUM_IMAGES", "4"],
]
QUARTER = ["DATASETS.LABEL_BUDGET.BOX_SHARE", "0.25"]
MOST = ["DATASETS.LABEL_BUDGET.BOX_SHARE", "0.95", "DATASETS.VALIDATION", "()"]  # three images are to be labelled


def read(folder: Path) -> tuple[dict, PartDataset]:
    """The file that the tool wrote, as JSON and as a data set."""
    return json.loads((folder / "train.json").read_text()), load_part_dataset(folder / "train.json", folder / "images")
