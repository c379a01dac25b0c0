"""Every way to train adversarially goes on from a checkpoint in the middle to the same bits, averaged weights too."""

from __future__ import annotations

import shutil

import pytest
import torch
from nested_differences import differences
from small_models import MODELS, SMALL

WAYS = {
    "pgd": ["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "2"],
    "trades": ["ADVERSARY.OBJECTIVE", "trades", "ADVERSARY.STEPS", "2"],
    "mart with awp": ["ADVERSARY.OBJECTIVE", "mart", "ADVERSARY.STEPS", "2", "ADVERSARY.AWP_GAMMA", "0.01"],
    "mat on parts": ["ADVERSARY.OBJECTIVE", "mat", "ADVERSARY.BETA", "0.5", "ADVERSARY.STEPS", "2"],
    "n-fgsm": ["ADVERSARY.OBJECTIVE", "n-fgsm", "ADVERSARY.STEPS", "1"],
    # iteration 3 is in the middle of the replays of the second batch
    "free": ["ADVERSARY.OBJECTIVE", "free", "ADVERSARY.REPLAYS", "3", "ADVERSARY.EPS", "8/255"],
}


@pytest.mark.parametrize("way", WAYS)
def test_goes_on_in_the_middle_to_the_same_bits(run_tool, monkeypatch, tmp_path, way):
    monkeypatch.setattr("partbox.report.learning_curves.save_learning_curves", lambda _: None)
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_and_save", lambda *_, **__: None)
    model = MODELS["part_box" if way in ("pgd", "mat on parts", "free") else "normal"]
    options = [
        *[*SMALL, *model, "SOLVER.MAX_ITER", "7", "SOLVER.CHECKPOINT_PERIOD", "5", "DATASETS.VALIDATION", "()"],
        *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.002", "SOLVER.EMA.ENABLED", "True"],
        *["ADVERSARY.CLEAN_ITERS", "1", "ADVERSARY.EPS_WARMUP_ITERS", "3", *WAYS[way]],
        *(["ADVERSARY.GOAL", "both", "ADVERSARY.REGION", "object"] if way == "mat on parts" else []),
    ]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run_tool("train_net", *options, "OUTPUT_DIR", whole)
    shutil.copytree(whole, folder)
    for name in ("model_final.pth", "resume_final.pth", ".lock"):
        (folder / name).unlink(missing_ok=True)
    (folder / "last_checkpoint").write_text("resume_0000004.pth")
    run_tool("train_net", *options, "--resume", "OUTPUT_DIR", folder)
    for name in ("model_final.pth", "resume_final.pth"):
        found, expected = (torch.load(one / name, weights_only=True) for one in (folder, whole))
        assert differences(found, expected) == [], name
    assert len(differences(expected["model"], torch.load(whole / "model_final.pth", weights_only=True)["model"])) > 0
