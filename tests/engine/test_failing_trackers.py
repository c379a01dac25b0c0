"""Whatever fails in tracking, a training and an evaluation go on, and the log says what failed."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from detectron2.utils.events import EventStorage, TensorboardXWriter
from small_models import MODELS, SMALL, small_config

from partbox.engine import run_folder
from partbox.engine.build import build_classifier, build_validation
from partbox.engine.checks import ConfigError
from partbox.engine.run_folder import writers
from partbox.engine.setup import load_config
from partbox.engine.tracking import adversarial_pictures, evaluation_tracking
from partbox.engine.tracking.guarded_writer import GuardedWriter
from partbox.evaluation.record_files import RecordsError

QUICK = [
    *[*SMALL, *MODELS["part_box"], "SOLVER.MAX_ITER", "4", "TEST.EVAL_PERIOD", "2", "ADVERSARY.VALIDATION_STEPS", "1"],
    *["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "1", "ADVERSARY.VALIDATION_IMAGES", "6"],
    *["ROBUST_EVAL.NUM_IMAGES", "6", "TRACKING.IMAGES", "2"],
    *["ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}, {'name': 'pgd', 'eps': '2/255', 'steps': 1}]"],
]


@pytest.fixture(autouse=True)
def heard(monkeypatch):
    """The loggers of the package speak to caplog; tools turn that off."""
    monkeypatch.setattr(logging.getLogger("partbox"), "propagate", True)


def errors(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_full_disk_of_tensorboard_ends_no_training_and_no_evaluation(run_tool, tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorboardXWriter, "write", refuse)
    run_tool("train_net", *QUICK, "OUTPUT_DIR", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3]
    assert json.loads((tmp_path / "results.json").read_text())["results"]["by_perturbation"]
    assert (tmp_path / "examples" / "index.json").exists()  # what follows the curves
    log = (tmp_path / "log.txt").read_text()
    assert log.count("TensorBoard does not go on (OSError: [Errno 28] No space left on device); the run does") == 1
    assert log.count("The curves of this evaluation are incomplete (OSError: [Errno 28] No space left") == 1


def test_a_writer_that_has_failed_is_not_asked_again_and_no_picture_stays(caplog):
    class Broken:
        calls = 0

        def write(self):
            self.calls += 1
            raise RuntimeError("gone")

    broken = Broken()
    guarded = GuardedWriter(broken, "TensorBoard")
    with EventStorage() as storage:
        for _ in range(2):
            storage.put_image("picture", torch.zeros(3, 2, 2, dtype=torch.uint8))
            guarded.write()
            assert storage._vis_data == []  # else a checkpoint would hold them all
    guarded.close()
    assert broken.calls == 1
    assert errors(caplog) == ["TensorBoard does not go on (RuntimeError: gone); the run does"]


@pytest.mark.parametrize("where", ["draw_parts", "sheet"])
def test_a_validation_whose_pictures_fail_is_a_validation(example_dataset, monkeypatch, caplog, where):
    cfg = small_config(example_dataset, *QUICK)
    model = build_classifier(cfg)
    expected = build_validation(cfg, model)()
    assert expected.picture is not None

    def refuse(*_, **__):
        raise MemoryError("too large")

    monkeypatch.setattr(adversarial_pictures, where, refuse)
    found = build_validation(cfg, model)()
    assert found == expected
    assert found.picture is None
    assert errors(caplog) == ["No pictures of this validation (MemoryError: too large); the run goes on"]


@pytest.mark.parametrize("error", [ConfigError("TRACKING.WANDB: wandb cannot begin"), RecordsError("no id")])
def test_wandb_may_fail_when_a_run_goes_on_and_not_when_it_begins(tmp_path, monkeypatch, caplog, error):
    def refuse(_):
        raise error

    monkeypatch.setattr(run_folder, "open_run", refuse)
    cfg = load_config(None, ["OUTPUT_DIR", str(tmp_path)])
    with pytest.raises(type(error)):
        writers(cfg, 0, resumed=False)
    assert len(writers(cfg, 0, resumed=True)) == 3  # log, metrics.json, TensorBoard
    assert errors(caplog) == [f"{error}. The training goes on, untracked by wandb"]


def test_a_killed_start_of_less_than_a_line_is_continued_without_wandb(run_tool, tmp_path, monkeypatch):
    """The first line that is written anew is then that of iteration 0, yet the run has begun."""
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_and_save", lambda *_, **__: None)
    run_tool("train_net", *QUICK, "SOLVER.CHECKPOINT_PERIOD", "2", "OUTPUT_DIR", tmp_path)
    for name in ("model_final.pth", "resume_final.pth"):
        (tmp_path / name).unlink()
    (tmp_path / "last_checkpoint").write_text("resume_0000001.pth")

    def refuse(_):
        raise ConfigError("no server")

    monkeypatch.setattr(run_folder, "open_run", refuse)
    run_tool("train_net", *QUICK, "--resume", "OUTPUT_DIR", tmp_path)
    assert (tmp_path / "model_final.pth").exists()
    assert "no server. The training goes on, untracked by wandb" in (tmp_path / "log.txt").read_text()


def test_an_evaluation_without_its_curves_says_so(run_tool, tmp_path, monkeypatch):
    def refuse(*_):
        raise ValueError("Image size of 99999x400 pixels is too large")

    monkeypatch.setattr(evaluation_tracking, "curves_picture", refuse)
    options = ["SOLVER.MAX_ITER", "1", "DATASETS.VALIDATION", "()"]
    run_tool("train_net", *QUICK, *options, "OUTPUT_DIR", tmp_path)
    assert (tmp_path / "results.json").exists()
    assert "The curves of this evaluation are incomplete (ValueError: Image size" in (tmp_path / "log.txt").read_text()
