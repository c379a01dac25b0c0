"""The tools of the project run in this process, which has imported everything already."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets

REPOSITORY = Path(__file__).resolve().parents[1]


def run_here(root: Path, tool: str, *arguments: object) -> None:
    """Run ``tools/<tool>.py`` with command line arguments, on the data sets below ``root``."""
    forget_builtin_datasets()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(root))
        patch.setattr(sys, "argv", [f"{tool}.py", *map(str, arguments)])
        spec = importlib.util.spec_from_file_location(f"{tool}_script", REPOSITORY / f"tools/{tool}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main()
