"""Going on from a checkpoint: the newest whole one, all of it or nothing, and to the same end."""

from __future__ import annotations

import io
import json
import logging
import pickle
import random
import shutil
import zipfile
from functools import partial
from pathlib import Path

import pytest
import torch
from nested_differences import differences
from small_models import MODELS, SMALL, small_config

from partbox.engine.build import build_classifier, build_optimizer
from partbox.engine.checkpoint import CheckpointError, RunCheckpointer, read_checkpoint, resumable_files, save_weights
from partbox.engine.checks import ConfigError
from partbox.engine.hooks.ema import WeightAveraging
from partbox.engine.hooks.resume_checkpoints import ResumeCheckpoints
from partbox.engine.objectives import CleanObjective
from partbox.engine.trainer import PartTrainer

TINY = [
    *[*SMALL, *MODELS["normal"], "SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "2", "DATASETS.VALIDATION", "()"],
    *["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.BASE_LR", "0.001", "SOLVER.EMA.ENABLED", "True"],
    *["ROBUST_EVAL.NUM_IMAGES", "1", "ROBUST_EVAL.PERTURBATIONS", "[{'name': 'clean'}]"],
]
END = ("model_final.pth", "resume_final.pth")


def load(path: Path) -> dict:
    return torch.load(path, weights_only=True)


def assert_same_end(folder: Path, whole: Path, names: tuple[str, ...] = END) -> None:
    for name in names:
        assert differences(load(folder / name), load(whole / name)) == [], name


def metrics(folder: Path) -> dict[int, dict]:
    """What was logged, by iteration, without times."""
    entries = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    iterations = [entry.pop("iteration") for entry in entries]
    assert len(set(iterations)) == len(iterations), "an iteration was logged twice"
    times = {"time", "data_time", "eta_seconds"}
    logged = [{name: value for name, value in entry.items() if name not in times} for entry in entries]
    return dict(zip(iterations, logged, strict=True))


def killed_before_the_end(whole: Path, folder: Path) -> Path:
    """A copy of a finished run as if it had been killed after its last numbered checkpoint, which is returned."""
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    for name in (*END, "results.json", "records.jsonl", "last_checkpoint", ".lock"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "records", ignore_errors=True)
    newest = resumable_files(folder)[0]
    (folder / "last_checkpoint").write_text(newest.name)
    return newest


@pytest.fixture
def run_training(run_tool, monkeypatch):
    """``tools/train_net.py`` without what comes after the training."""
    monkeypatch.setattr("partbox.report.learning_curves.save_learning_curves", lambda _: None)
    monkeypatch.setattr("partbox.engine.evaluate.evaluate_and_save", lambda *_, **__: None)
    return lambda *arguments: run_tool("train_net", *arguments)


@pytest.fixture
def warned():
    """What the checkpointer warns of; a tool's log does not reach pytest's."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler, log = Collect(logging.WARNING), logging.getLogger("partbox.engine.checkpoint")
    log.addHandler(handler)
    yield messages
    log.removeHandler(handler)


@pytest.mark.parametrize("places", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_truncated_anywhere_the_newest_checkpoint_gives_way_to_the_one_before(places, run_training, tmp_path, warned):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run_training(*TINY, "OUTPUT_DIR", whole)
    draw = random.Random(0)
    size = (whole / "resume_0000005.pth").stat().st_size
    for length in (0, size - 1, *(draw.randrange(1, size - 1) for _ in range(places - 2))):
        newest = killed_before_the_end(whole, folder)
        assert newest.name == "resume_0000005.pth"
        newest.write_bytes(newest.read_bytes()[:length])
        warned.clear()
        run_training(*TINY, "--resume", "OUTPUT_DIR", folder)
        (warning,) = warned
        assert "resume_0000005.pth cannot be read" in warning
        assert "going on from resume_0000003.pth" in warning
        assert (folder / "resume_0000005.pth.damaged").stat().st_size == length
        assert_same_end(folder, whole)
        assert metrics(folder) == metrics(whole)
        shutil.rmtree(folder)


def test_one_checkpoint_back_ends_in_the_same_bits_and_the_same_log(run_training, tmp_path):
    """Under attack, with averaged weights and validations before, between and after the checkpoints."""
    options = [
        *[*SMALL, "SOLVER.MAX_ITER", "28", "SOLVER.CHECKPOINT_PERIOD", "6", "TEST.EVAL_PERIOD", "9"],
        *["DATASETS.VALIDATION", "('example_val',)", "ADVERSARY.OBJECTIVE", "fgsm-rs", "ADVERSARY.STEPS", "1"],
        *["ADVERSARY.CLEAN_ITERS", "2", "ADVERSARY.EPS_WARMUP_ITERS", "20", "ADVERSARY.VALIDATION_STEPS", "1"],
        *[
            "ADVERSARY.PROBE_PERIOD",
            "16",
            "ADVERSARY.VALIDATION_IMAGES",
            "8",
            "SOLVER.EMA.ENABLED",
            "True",
            "SOLVER.BASE_LR",
            "0.02",
        ],
        *[
            "SOLVER.WARMUP_ITERS",
            "10",
            "ROBUST_EVAL.NUM_IMAGES",
            "1",
            "ROBUST_EVAL.PERTURBATIONS",
            "[{'name': 'clean'}]",
        ],
    ]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run_training(*options, "OUTPUT_DIR", whole)
    assert [path.name for path in resumable_files(whole)] == ["resume_final.pth"] + [
        f"resume_00000{n}.pth" for n in (23, 17)
    ]
    assert {8, 17} & set(metrics(whole)), "no validation between two lines"
    newest = killed_before_the_end(whole, folder)
    newest.write_bytes(b"")
    run_training(*options, "--resume", "OUTPUT_DIR", folder)
    assert_same_end(folder, whole, (*END, "model_best.pth"))
    assert metrics(folder) == metrics(whole)
    # killed when the log had no line yet, and when it had one that tells of iterations 8, 15, 17 and 19
    for checkpoint, has_lines in (("resume_0000017.pth", False), ("resume_0000023.pth", True)):
        shutil.rmtree(folder)
        killed_before_the_end(whole, folder)
        (folder / "last_checkpoint").write_text(checkpoint)
        if not has_lines:
            (folder / "metrics.json").write_text("")
        run_training(*options, "--resume", "OUTPUT_DIR", folder)
        assert_same_end(folder, whole, (*END, "model_best.pth"))
        assert metrics(folder) == metrics(whole)
        assert len(resumable_files(folder)) == 3


class Code:
    """What would run when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def foreign(kind: str, folder: Path) -> bytes:
    buffer = io.BytesIO()
    if kind == "a pickle with code":
        return pickle.dumps({"model": {}, "trainer": Code(folder / "ran")})
    if kind == "a checkpoint with code":
        torch.save({"model": {}, "trainer": Code(folder / "ran")}, buffer)
    elif kind == "a text":
        return b"the checkpoint is on the other disk\n"
    elif kind == "a zip of something else":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("photo.txt", "no weights")
    elif kind == "a list":
        torch.save([1, 2], buffer)
    else:
        assert kind == "weights alone"
        torch.save({"model": load(folder / "resume_0000003.pth")["model"]}, buffer)
    return buffer.getvalue()


FOREIGN = [
    "a pickle with code",
    "a checkpoint with code",
    "a text",
    "a zip of something else",
    "a list",
    "weights alone",
]


@pytest.fixture
def tracked(example_dataset, tmp_path):
    """A trainer and the checkpointer of a folder that holds checkpoints of iterations 1 and 3."""

    def make(*, step: bool = False, averaged: bool = True) -> tuple[PartTrainer, RunCheckpointer]:
        cfg = small_config(example_dataset, *MODELS["normal"], "SOLVER.OPTIMIZER", "ADAMW")
        model = build_classifier(cfg)
        trainer = PartTrainer(model, build_optimizer(cfg, model), CleanObjective(), seed=0)
        trainer.register_hooks([WeightAveraging(model, decay=0.9)] if averaged else [])
        if step:
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            trainer.optimizer.step()
        return trainer, RunCheckpointer(model, str(tmp_path), trainer=trainer)

    trainer, checkpointer = make(step=True)
    for trainer.iter in (1, 3):
        checkpointer.save(f"resume_{trainer.iter:07d}")
    return make


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_foreign_checkpoint_gives_way_and_runs_no_code(tracked, tmp_path, kind, warned):
    newest = tmp_path / "resume_0000005.pth"
    newest.write_bytes(foreign(kind, tmp_path))
    (tmp_path / "last_checkpoint").write_text(newest.name)
    trainer, checkpointer = tracked()
    assert checkpointer.resume() is True
    assert trainer.iter == 3
    (warning,) = warned
    assert str(newest) in warning
    assert "going on from resume_0000003.pth" in warning
    assert not newest.exists()
    assert (tmp_path / "resume_0000005.pth.damaged").exists()
    assert not (tmp_path / "ran").exists()
    assert (tmp_path / "last_checkpoint").read_text() == "resume_0000003.pth"


def test_a_changed_byte_is_noticed(tracked, tmp_path):
    """torch loads it as other weights without a word."""
    newest = tmp_path / "resume_0000003.pth"
    content = bytearray(newest.read_bytes())
    largest = max(zipfile.ZipFile(newest).infolist(), key=lambda entry: entry.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    newest.write_bytes(content)
    assert differences(load(newest), load(tmp_path / "resume_0000001.pth")) != []
    with pytest.raises(CheckpointError, match=r"resume_0000003\.pth .*checksum"):
        read_checkpoint(newest)
    trainer, checkpointer = tracked()
    checkpointer.resume()
    assert trainer.iter == 1


@pytest.mark.parametrize("tag", [None, "resume_0000009.pth", "", "resume_0000003", "../resume_0000003.pth", "\x00\xff"])
def test_a_lost_pointer_to_the_last_checkpoint_is_no_lost_run(tracked, tmp_path, tag):
    (tmp_path / "last_checkpoint").unlink()
    if tag is not None:
        (tmp_path / "last_checkpoint").write_bytes(tag.encode("latin-1"))
    trainer, checkpointer = tracked()
    assert checkpointer.resume() is True
    assert trainer.iter == 3
    assert (tmp_path / "last_checkpoint").read_text() == "resume_0000003.pth"
    assert len(resumable_files(tmp_path)) == 2


def test_the_newest_is_that_of_the_highest_iteration(tracked, tmp_path):
    _, checkpointer = tracked()
    assert [path.name for path in resumable_files(tmp_path)] == ["resume_0000003.pth", "resume_0000001.pth"]
    for name in ("resume_final.pth", "resume_12345678.pth", "resume_x.pth", "resume_0000007.pth.damaged"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in resumable_files(tmp_path)][:2] == ["resume_final.pth", "resume_12345678.pth"]
    assert len(resumable_files(tmp_path)) == 4
    assert checkpointer.resume() is True
    (tmp_path / "last_checkpoint").write_text("resume_0000001.pth")  # what the run calls its last comes first
    trainer, checkpointer = tracked()
    checkpointer.resume()
    assert trainer.iter == 1


def test_where_no_checkpoint_can_be_read_each_is_named_and_stays(tracked, tmp_path):
    for path in resumable_files(tmp_path):
        path.write_bytes(path.read_bytes()[:1000])
    trainer, checkpointer = tracked()
    save_weights(tmp_path / "model_best.pth", trainer.model)
    before = trainer.model.state_dict()
    with pytest.raises(CheckpointError, match=r"resume_0000003\.pth .*resume_0000001\.pth .*model_best\.pth"):
        checkpointer.resume()
    assert len(resumable_files(tmp_path)) == 2
    assert differences(before, trainer.model.state_dict()) == []


def test_a_folder_without_checkpoints_starts_at_the_beginning(tracked, tmp_path):
    for path in (*resumable_files(tmp_path), tmp_path / "last_checkpoint"):
        path.unlink()
    assert tracked()[1].resume() is False


def test_a_second_damaged_file_of_the_same_name_does_not_replace_the_first(tracked, tmp_path):
    for content in (b"one", b"two"):
        (tmp_path / "resume_0000005.pth").write_bytes(content)
        (tmp_path / "last_checkpoint").write_text("resume_0000005.pth")
        tracked()[1].resume()
    assert (tmp_path / "resume_0000005.pth.damaged").read_bytes() == b"one"
    assert (tmp_path / "resume_0000005.pth.damaged-2").read_bytes() == b"two"


def test_a_checkpoint_that_may_not_be_opened_is_not_called_damaged(tracked, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    _, checkpointer = tracked()
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CheckpointError, match=r"resume_0000003\.pth cannot be opened"):
        checkpointer.resume()
    monkeypatch.undo()
    assert len(resumable_files(tmp_path)) == 2


def change_average(state: dict) -> None:
    average = state["hooks"]["WeightAveraging"]
    average[list(average)[-1]] = torch.zeros(7, 7)


def change_optimizer(state: dict) -> None:
    state["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def other_groups(state: dict) -> None:
    state["optimizer"]["param_groups"].pop()


def no_average(state: dict) -> None:
    del state["hooks"]["WeightAveraging"]


def no_scaler(state: dict) -> None:
    del state["scaler"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_average, "size mismatch"),
        (change_optimizer, "exp_avg of parameter 0 has shape"),
        (other_groups, "groups of parameters"),
        (no_average, "WeightAveraging"),
        (no_scaler, "scaler"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_loaded(tracked, tmp_path, change, words):
    path = tmp_path / "resume_0000003.pth"
    contents = load(path)
    change(contents["trainer"])
    torch.save(contents, path)
    trainer, checkpointer = tracked()
    before = {"model": trainer.model.state_dict(), "trainer": trainer.state_dict()}
    before = pickle.loads(pickle.dumps(before))
    with pytest.raises(CheckpointError, match=rf"resume_0000003\.pth does not fit .*{words}"):
        checkpointer.resume()
    after = {"model": trainer.model.state_dict(), "trainer": trainer.state_dict()}
    assert differences(before, after) == []
    assert path.exists(), "it is whole, so it is not set aside"


def test_another_model_is_refused_and_not_gone_back_from(tracked, example_dataset, tmp_path):
    cfg = small_config(example_dataset, *MODELS["part_box"])
    model = build_classifier(cfg)
    trainer = PartTrainer(model, build_optimizer(cfg, model), CleanObjective(), seed=0)
    with pytest.raises(CheckpointError, match=r"resume_0000003\.pth does not fit the model"):
        RunCheckpointer(model, str(tmp_path), trainer=trainer).resume()
    assert len(resumable_files(tmp_path)) == 2


def test_optimizer_averages_and_loss_scale_come_back(tracked):
    trainer, checkpointer = tracked(step=True)
    trainer._scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.passes, trainer.iter = 77, 5
    checkpointer.save("resume_0000005")
    other, again = tracked()
    other._scaler = torch.amp.GradScaler("cpu")
    assert again.resume() is True
    assert (other.passes, other.iter, other._scaler.get_scale()) == (77, 5, 1024.0)
    assert differences(other.state_dict(), trainer.state_dict()) == []
    assert other.optimizer.state_dict()["state"] != {}


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_goes_on_in_the_same_bits_with_its_loss_scale(run_training, tmp_path, monkeypatch, precision):
    """float16, which GPUs without bfloat16 need, scales its losses; here the scale doubles every third iteration."""
    monkeypatch.setattr("partbox.engine.trainer.mixed_precision_type", lambda _: precision)
    scaler = partial(torch.amp.GradScaler, init_scale=1024.0, growth_interval=3)
    monkeypatch.setattr("torch.amp.GradScaler", scaler)
    options = [*TINY, "SOLVER.AMP.ENABLED", "True"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    run_training(*options, "OUTPUT_DIR", whole)
    run_training(*TINY, "OUTPUT_DIR", tmp_path / "single")
    weights = [load(path / "model_final.pth") for path in (whole, tmp_path / "single")]
    assert differences(*weights) != [], "the precision is another one"
    newest = killed_before_the_end(whole, folder)
    newest.write_bytes(b"")
    scale = load(folder / "resume_0000003.pth")["trainer"]["scaler"]
    if precision == torch.float16:
        assert (scale["scale"], scale["_growth_tracker"]) == (2048.0, 1)
    else:
        assert scale == {}
    run_training(*options, "--resume", "OUTPUT_DIR", folder)
    assert_same_end(folder, whole)
    with pytest.raises(ConfigError, match=r"SOLVER\.AMP\.ENABLED"):
        run_training(*TINY, "--resume", "OUTPUT_DIR", folder)


def test_checkpoints_of_earlier_starts_do_not_pile_up(tracked, tmp_path):
    """And none is deleted before the next one is complete."""
    for start in (4, 8):
        trainer, checkpointer = tracked()
        hook = ResumeCheckpoints(checkpointer, 2)
        trainer.register_hooks([hook])
        trainer.max_iter = hook.max_iter = 100
        assert checkpointer.resume() is True
        assert trainer.iter + 1 == start
        for trainer.iter in range(start, start + 4):
            hook.after_step()
        assert [path.name for path in resumable_files(tmp_path)] == [
            f"resume_{n:07d}.pth" for n in (start + 3, start + 1)
        ]


def test_a_later_checkpoint_that_is_left_over_costs_none_of_those_on_the_way_to_it(tracked, tmp_path):
    """Such as that of a run that was told to go on from an earlier one."""
    trainer, checkpointer = tracked()
    for name in ("resume_0000099.pth", "resume_final.pth"):
        shutil.copy(tmp_path / "resume_0000003.pth", tmp_path / name)
    hook = ResumeCheckpoints(checkpointer, 2)
    trainer.register_hooks([hook])
    hook.max_iter, trainer.iter = 100, 5
    hook.after_step()
    left = ["resume_final.pth", "resume_0000099.pth", "resume_0000005.pth", "resume_0000003.pth"]
    assert [path.name for path in resumable_files(tmp_path)] == left


def test_a_checkpoint_that_cannot_be_written_costs_none_of_the_old(tracked, tmp_path, monkeypatch):
    trainer, checkpointer = tracked()
    hook = ResumeCheckpoints(checkpointer, 2)
    trainer.register_hooks([hook])
    hook.max_iter, trainer.iter = 100, 5

    def full(contents, file):
        file.write(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/3")

    monkeypatch.setattr("torch.save", full)
    with pytest.raises(CheckpointError, match=r"resume_0000005\.pth cannot be written: .*failed writing"):
        hook.after_step()
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {
        "last_checkpoint",
        "resume_0000001.pth",
        "resume_0000003.pth",
    }


def test_every_process_gathers_its_state_and_the_main_one_writes(tracked, tmp_path):
    """A state dict that talks to the other processes would wait for them for ever."""
    trainer, checkpointer = tracked()
    checkpointer.save_to_disk = False
    called = []
    state_dict = trainer.state_dict
    trainer.state_dict = lambda: called.append(1) or state_dict()
    checkpointer.save("resume_0000005")
    checkpointer.drop_older(99, keep=1)
    assert called == [1]
    assert len(resumable_files(tmp_path)) == 2


def test_weights_that_cannot_be_read_are_refused_with_those_that_can(example_dataset, tmp_path):
    cfg = small_config(example_dataset, *MODELS["normal"])
    model = build_classifier(cfg)
    for name in ("model_best", "model_final", "resume_0000003", "resume_0000011", "other"):
        save_weights(tmp_path / f"{name}.pth", model)
    for broken in ("model_best.pth", "resume_0000003.pth"):
        (tmp_path / broken).write_bytes((tmp_path / broken).read_bytes()[:5000])
    for bad in ("model_best.pth", "missing.pth"):
        with pytest.raises(CheckpointError) as caught:
            build_classifier(cfg, str(tmp_path / bad))
        assert bad in str(caught.value)
        assert str(caught.value).endswith("whole files beside it: model_final.pth, resume_0000011.pth")
        assert "\n" not in str(caught.value)
    (tmp_path / "alone").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.pth does not exist$"):
        read_checkpoint(tmp_path / "alone" / "model.pth")


def test_a_folder_that_lost_its_pointer_is_still_a_run(run_tool, tmp_path):
    run_tool("train_net", *TINY, "OUTPUT_DIR", tmp_path / "run")
    (tmp_path / "run" / "last_checkpoint").unlink()
    with pytest.raises(ConfigError, match="add --resume"):
        run_tool("train_net", *TINY, "OUTPUT_DIR", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR"):
        run_tool("train_net", *TINY, "--resume", "SOLVER.BASE_LR", "0.1", "OUTPUT_DIR", tmp_path / "run")
