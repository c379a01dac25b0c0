"""Provokes the errors of docs/troubleshooting.md: each function gives what is printed, word for word.

They run in an empty current folder, so that relative paths are those of the page.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import subprocess
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

import partbox
from partbox.attacks import APGD, PGD, AttackError, ThreatModel
from partbox.data import PartDatasetError, get_part_dataset, load_part_dataset
from partbox.data.preparation import PrepareOptions
from partbox.data.preparation.command_line import run_preparation
from partbox.data.worker_watch import WorkerWatch
from partbox.engine import launch
from partbox.engine.build import perturbations_of
from partbox.engine.checkpoint import CheckpointError, RunCheckpointer, read_checkpoint
from partbox.engine.checks import ConfigError
from partbox.engine.detectors import check_classes
from partbox.engine.hooks.catastrophic_overfitting import CatastrophicOverfitting
from partbox.engine.hooks.validation import ValidationUnderAttack
from partbox.engine.run_folder import evaluation_folder, training_folder
from partbox.engine.setup import fill_names, load_config
from partbox.engine.slurm.failures import reason_of
from partbox.engine.slurm.requeue import decide
from partbox.engine.user_errors import sentence_of
from partbox.evaluation.record_files import RecordsError, writing
from partbox.evaluation.self_checks import check_classifier
from partbox.evaluation.store import RecordStore
from partbox.evaluation.validate import ValidationResult

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = ["MODEL.DEVICE", "cpu"]
PROVOKED: dict[str, Callable[[], str]] = {}


def entry(title: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Under which heading of the page the message stands."""

    def add(function: Callable[[], str]) -> Callable[[], str]:
        assert title not in PROVOKED
        PROVOKED[title] = function
        return function

    return add


def said(kind: type[Exception] | tuple[type[Exception], ...], act: Callable[[], Any]) -> str:
    """The sentence that a tool ends with."""
    try:
        act()
    except kind as problem:
        return sentence_of(problem)
    raise AssertionError("nothing went wrong")


def logged(act: Callable[[], Any]) -> str:
    """The last warning that was logged meanwhile."""
    messages: list[str] = []

    class Kept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Kept(logging.WARNING)
    logger = logging.getLogger("partbox")
    logger.addHandler(handler)
    try:
        act()
    finally:
        logger.removeHandler(handler)
    return messages[-1]


def template(file: str, beginning: str, message: str) -> str:
    """For what cannot be provoked: the message, if the text in a source file gives it; else that text.

    What a shell or Python fills in (``$1``, ``${NAME}``, ``{name}``, ``%s``) may be anything.
    """
    source = (REPOSITORY / file).read_text(encoding="utf-8")
    place = source.index(beginning)
    text = source[place : source.index("\n", place)]
    text = re.split(r'(?<!\\)"(?=$| |,|\))', text)[0].rstrip()
    pattern = re.sub(r"\\\$\\\{[^}]*\\\}|\\\$\\\([^)]*\\\)|\\\$\w+|\\\{[^}]*\\\}|%[sd]", ".+", re.escape(text))
    return message if re.search(pattern, message) else text


# ---------------------------------------------------------------- installing


def fail_pip(message: str, what: str) -> Callable[[], str]:
    return lambda: template("scripts/setup_env.sh", what, message)


PROVOKED["The disk is full while packages are installed"] = fail_pip(
    "setup_env.sh: the disk is full while installing the packages of requirements/base.txt; free some space (about 10 "
    "GB under /home/me/partbox/.venv, of which 6 stay in use, and 3 for pip's cache) and run again. "
    "Log: /home/me/partbox/.venv.log",
    "the disk is full while",
)
PROVOKED["The package index cannot be reached"] = fail_pip(
    "setup_env.sh: the package index cannot be reached while installing setuptools; check the network, the proxy and "
    "'pip config list', and run again (what is there is kept). Log: /home/me/partbox/.venv.log",
    "the package index cannot be reached while",
)


@entry("There is not enough disk to begin with")
def _() -> str:
    done = subprocess.run(
        ["bash", str(REPOSITORY / "scripts/setup_env.sh"), "venv"],
        capture_output=True,
        text=True,
        env={**os.environ, "PARTBOX_MIN_DISK_GB": "1000000", "PYTHON": ""},
    )
    text = done.stderr.strip().replace(str(Path.cwd()), "/home/me/partbox").replace("1000000 GB", "10 GB")
    return re.sub(r"has \d+;", "has 4;", text)


@entry("pkg_resources is missing")
def _() -> str:
    import detectron2.model_zoo.model_zoo as zoo

    pins = (REPOSITORY / "setup.py").read_text()
    assert "import pkg_resources" in Path(zoo.__file__).read_text()
    assert "setuptools<81" in pins.replace(" ", "")
    return sentence_of(ModuleNotFoundError("No module named 'pkg_resources'"))


@entry("detectron2 is not installed")
def _() -> str:
    def act() -> None:
        with partbox._explained_imports():
            raise ModuleNotFoundError("No module named 'detectron2'", name="detectron2")

    return said(ImportError, act)


@entry("detectron2's compiled part is not there")
def _() -> str:
    from detectron2.layers import DeformConv

    return said(ImportError, lambda: DeformConv(3, 3, 3))


@entry("libGL is missing")
def _() -> str:
    """Where opencv-python has overwritten the headless one; the pins keep it away."""
    names = {
        line.split("==")[0].strip().lower()
        for file in ("base.txt", "dev.txt", "no_dependencies.txt")
        for line in (REPOSITORY / "requirements" / file).read_text().splitlines()
    }
    assert "opencv-python-headless" in names
    assert "opencv-python" not in names
    return sentence_of(ImportError("libGL.so.1: cannot open shared object file: No such file or directory"))


# ---------------------------------------------------------------- data


def dataset(image: dict[str, Any] | None = None, **annotation: Any) -> Path:
    """A part dataset of one image, datasets_root/my_parts/train.json, with changes."""
    folder = Path("datasets_root/my_parts")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entry_of_image = {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30, "class_id": 1, **(image or {})}
    part = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [2, 2, 20, 20], **annotation}
    document = {
        "classes": [{"id": 1, "name": "dog"}],
        "categories": [{"id": 1, "name": "head", "supercategory": "dog"}],
        "images": [entry_of_image],
        "annotations": [part],
    }
    (folder / "train.json").write_text(json.dumps(document))
    picture = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "images" / "a.jpg")
    return folder / "train.json"


def load(file: Path, verify: str = "header") -> str:
    text = said(PartDatasetError, lambda: load_part_dataset(file, file.parent / "images", verify_images=verify))
    return text.replace(str(Path.cwd()), "/home/me/partbox")


@entry("An image is turned by its EXIF data")
def _() -> str:
    file = dataset()
    path = file.parent / "images/a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    return load(file)


@entry("An image file is cut off")
def _() -> str:
    file = dataset()
    path = file.parent / "images/a.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return load(file)


@entry("An RLE mask has another size than its image")
def _() -> str:
    return load(dataset(segmentation={"size": [40, 30], "counts": [0, 1200]}))


@entry("A polygon has four numbers")
def _() -> str:
    return load(dataset(segmentation=[[2, 2, 22, 22]]))


@entry("A box has no area")
def _() -> str:
    return load(dataset(bbox=[2, 2, 0, 5]))


@entry("A key is misspelt")
def _() -> str:
    return load(dataset(image={"part_lables": "box"}))


@entry("A dataset's name is unknown")
def _() -> str:
    partbox.register_all(Path("datasets_root").absolute())
    return said(PartDatasetError, lambda: get_part_dataset("pascal_part_animal_train"))


@entry("A dataset's files are not there")
def _() -> str:
    partbox.register_all(Path("datasets_root").absolute())
    text = said(PartDatasetError, lambda: get_part_dataset("pascal_part_animals_train"))
    return text.replace(str(Path.cwd()), "/home/me/partbox")


def prepare(reader: Callable[..., Any], output: str = "datasets_root/my_parts") -> str:
    """What the scripts datasets/prepare_*.py write to stderr."""
    arguments = argparse.Namespace(output=Path(output), workers=1, overwrite=False)
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        assert run_preparation(arguments, reader, PrepareOptions(), lambda text: None) == 1
    return stderr.getvalue().strip()


@entry("The output folder holds something else")
def _() -> str:
    Path("datasets_root/my_parts").mkdir(parents=True)
    Path("datasets_root/my_parts/notes.txt").touch()
    return prepare(lambda say: types.SimpleNamespace(numbered=False, image_root="x"))


@entry("The temporary folder is full")
def _() -> str:
    def full(say: Callable[[str], None]) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    return prepare(full)


# ---------------------------------------------------------------- training


@entry("A configuration key is misspelt or at the wrong place")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["LOSS_WEIGHT", "0.3"]))


@entry("A key is written with an equals sign")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["SOLVER.MAX_ITER=20"]))


@entry("There is no GPU")
def _() -> str:
    return said(ConfigError, lambda: load_config(None, ["MODEL.DEVICE", "xpu"])).replace("xpu", "cuda")


@entry("The folder holds a training already")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box"])
    Path("output/part_box").mkdir(parents=True)
    Path("output/part_box/last_checkpoint").write_text("resume_0000099.pth")
    return said(ConfigError, lambda: training_folder(cfg, resume=False).__enter__())


@entry("The folder holds a run with another configuration")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box", "SOLVER.BASE_LR", "0.1"])
    Path("output/part_box").mkdir(parents=True)
    Path("output/part_box/config.yaml").write_text(cfg.dump())
    Path("output/part_box/last_checkpoint").write_text("resume_0000099.pth")
    cfg.SOLVER.BASE_LR = 0.05
    return said(ConfigError, lambda: training_folder(cfg, resume=True).__enter__())


@entry("Another process writes to the folder")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/part_box"])
    with evaluation_folder(cfg, part=(0, 1), after_training=True):
        return said(ConfigError, lambda: evaluation_folder(cfg, part=(0, 1), after_training=True).__enter__())


def checkpointer() -> RunCheckpointer:
    Path("output/part_box").mkdir(parents=True, exist_ok=True)
    return RunCheckpointer(nn.Linear(2, 2), "output/part_box")


@entry("A checkpoint is damaged and an earlier one is taken")
def _() -> str:
    run = checkpointer()
    for name in ("resume_0000099", "resume_0000199"):
        run.save(name)
    path = Path("output/part_box/resume_0000199.pth")
    path.write_bytes(path.read_bytes()[:100])
    return logged(run.resume)


@entry("No checkpoint can be read")
def _() -> str:
    run = checkpointer()
    run.save("resume_0000099")
    path = Path("output/part_box/resume_0000099.pth")
    with zipfile.ZipFile(path) as archive:
        place = max(archive.infolist(), key=lambda one: one.file_size).header_offset + 200
    data = bytearray(path.read_bytes())
    data[place] ^= 255
    path.write_bytes(data[: len(data) // 2])
    return said(CheckpointError, run.resume)


@entry("The weights' file does not exist")
def _() -> str:
    checkpointer().save("model_best")
    return said(CheckpointError, lambda: read_checkpoint("output/part_box/model_bset.pth"))


@entry("The data has other classes or parts than the model")
def _() -> str:
    cfg = load_config(None, CPU)
    cfg.MODEL.PART.CLASS_NAMES = ["cat", "dog"]
    data = load_part_dataset(dataset(), "datasets_root/my_parts/images", verify_images="none")
    return said(ConfigError, lambda: fill_names(cfg, data))


@entry("A segmenter has one class too few")
def _() -> str:
    from detectron2.data import MetadataCatalog

    MetadataCatalog.get("trouble_parts").thing_classes = [f"part {i}" for i in range(18)]
    options = [*CPU, "MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "18"]
    text = said(ConfigError, lambda: check_classes(load_config(None, options), "trouble_parts"))
    MetadataCatalog.remove("trouble_parts")
    return text.replace("trouble_parts", "car_parts_train")


def hooked(hook: Any, iteration: int) -> str:
    """What a hook warns of after an iteration."""
    with EventStorage(iteration) as storage:
        hook.trainer = types.SimpleNamespace(iter=iteration, max_iter=iteration + 1, storage=storage)
        return logged(hook.after_step)


@entry("Catastrophic overfitting")
def _() -> str:
    hook = CatastrophicOverfitting(lambda: (0.97, 0.02), period=100)
    hook.best = (0.61, 0.48)
    return hooked(hook, 1_199)


@entry("The run looks broken")
def _() -> str:
    result = ValidationResult(0.31, 0.05, 0.18, 500, True)
    return hooked(ValidationUnderAttack(lambda: result, period=500), 999)


@entry("The loss is not finite")
def _() -> str:
    from partbox.engine.trainer import PartTrainer, TrainingDiverged

    class Diverged:
        passes = 1

        def __call__(self, model: Any, batch: Any, iteration: int) -> dict[str, torch.Tensor]:
            return {"loss_class": next(model.parameters()).sum() * torch.tensor(float("nan"))}

    model = nn.Linear(1, 1)
    model.device = torch.device("cpu")
    trainer = PartTrainer(model, torch.optim.SGD(model.parameters(), 0.1), Diverged(), seed=0)
    trainer.read_from([[]])
    trainer.iter = 812
    with EventStorage(812) as trainer.storage:
        return said(TrainingDiverged, trainer.run_step)


@entry("A data worker was killed")
def _() -> str:
    watch = WorkerWatch(1, [{"file_name": "datasets_root/my_parts/images/train/a.jpg", "image_id": 17}])
    watch.table[0] = torch.tensor([4242, 0, 1])
    from partbox.data.worker_watch import named_death

    error = named_death(RuntimeError("DataLoader worker (pid 4242) is killed by signal: Killed. "))
    assert error is not None
    return sentence_of(error)


class Flat(nn.Module):
    """A network without a gradient."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.mean(dim=(1, 2, 3), keepdim=False)[:, None] * 4).round() * torch.tensor([1.0, -1.0])


IMAGES = torch.full((4, 3, 8, 8), 0.5)
LABELS = torch.zeros(4, dtype=torch.int64)


@entry("The attack in training is blind")
def _() -> str:
    attack = PGD(ThreatModel("linf", "8/255"), 2)
    return said(AttackError, lambda: attack.perturb(Flat(), IMAGES, LABELS, image_ids=range(4), seed=0))


# ---------------------------------------------------------------- evaluation


@entry("The configuration changed under the records of an evaluation")
def _() -> str:
    RecordStore("output/strong/records", {"config ROBUST_EVAL.BATCH_SIZE": 64}).close()
    return said(RecordsError, lambda: RecordStore("output/strong/records", {"config ROBUST_EVAL.BATCH_SIZE": 32}))


@entry("A line of the records is damaged")
def _() -> str:
    with RecordStore("output/strong/records", {}) as store:
        Path("output/strong/records/process-0-of-1.jsonl").write_text("{}\n\x00\n")
        return said(RecordsError, store.finished)


@entry("The disk is full during an evaluation")
def _() -> str:
    def act() -> None:
        with writing(Path("output/strong/records/process-0-of-1.jsonl")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return said(RecordsError, act)


@entry("The folder holds the results of another evaluation")
def _() -> str:
    cfg = load_config(None, [*CPU, "OUTPUT_DIR", "output/strong"])
    Path("output/strong").mkdir(parents=True)
    Path("output/strong/results.json").write_text('{"config_hash": "another"}')
    return said(ConfigError, lambda: evaluation_folder(cfg, part=(0, 1), after_training=False).__enter__())


@entry("A perturbation is misspelt")
def _() -> str:
    specs = "[{'name': 'pgd', 'eps': '8/255', 'step': 50}]"
    return said(ConfigError, lambda: perturbations_of(load_config(None, [*CPU, "ROBUST_EVAL.PERTURBATIONS", specs])))


@entry("The result is marked unreliable")
def _() -> str:
    robust = torch.ones(4, dtype=torch.bool)
    checks = check_classifier(
        lambda x: (x.mean(dim=(1, 2, 3))[:, None].round() + 1) * torch.tensor([1.0, -1.0]) + 0 * x.sum(),
        IMAGES + 0.25,
        LABELS,
        robust,
        ThreatModel("linf", "8/255"),
        image_ids=range(4),
        steps=2,
    )
    (reason,) = [one.reason for one in checks if one.name == "gradients"]
    return f"unreliable, linf 8/255: {reason}"


@entry("The logits do not depend on the image")
def _() -> str:
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    return said(
        AttackError,
        lambda: PGD(ThreatModel("linf", "8/255"), 2)(lambda x: model(x).detach(), IMAGES, labels, image_ids=range(4)),
    )


@entry("Pixels are not in [0, 1]")
def _() -> str:
    return said(AttackError, lambda: PGD(ThreatModel("linf", "8/255"))(Flat(), IMAGES * 510, LABELS))


@entry("The DLR loss with few classes")
def _() -> str:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        labels = model(IMAGES).argmax(1)
    attack = APGD(ThreatModel("linf", 1e-6), steps=2, loss="dlr-targeted")
    (note,) = attack(model, IMAGES, labels, image_ids=range(4)).notes
    return note


# ---------------------------------------------------------------- several processes and Slurm


def launched(*given: str, batch: int = 64, environment: dict[str, str] | None = None) -> str:
    parser = argparse.ArgumentParser()
    launch.add_launch_arguments(parser)
    arguments = parser.parse_args(given)
    arguments.part, arguments.eval_only = (0, 1), False
    before = dict(os.environ)
    os.environ.update(environment or {})
    try:
        return said(ConfigError, lambda: launch.check_launch(arguments, batch, "cpu" if batch % 4 else "auto"))
    finally:
        for name in environment or {}:
            del os.environ[name]
        os.environ.update(before)


@entry("The batch cannot be shared")
def _() -> str:
    return launched("--num-gpus", "4", batch=30)


@entry("There are fewer GPUs than processes")
def _() -> str:
    count, torch.cuda.device_count = torch.cuda.device_count, lambda: 1
    try:
        return launched("--num-gpus", "4")
    finally:
        torch.cuda.device_count = count


@entry("Started twice")
def _() -> str:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    return launched("--num-gpus", "2", environment=place)


@entry("The port is taken")
def _() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        place = launch.Place(rank=0, processes=2, local_rank=0, address="127.0.0.1", port=port)
        text = said(ConfigError, lambda: launch._process_group(place, "cpu").__enter__())
    return text.replace(str(port), "29500")


PROVOKED["A process was killed"] = lambda: template(
    "projects/partbox/engine/launch.py",
    "Process %d of %d %s; what it finished is kept",
    "Process 1 of 2 was killed by signal 9; what it finished is kept",
)


@entry("A job ran out of memory")
def _() -> str:
    return reason_of({"JobState": "OUT_OF_MEMORY", "MinMemoryNode": "4G"}, 137, "")


@entry("A job ran out of time")
def _() -> str:
    return reason_of({"JobState": "TIMEOUT", "TimeLimit": "08:00:00"}, 1, "")


@entry("A job was requeued and got nowhere")
def _() -> str:
    decision = decide({"JobState": "RUNNING", "Restarts": "3", "Requeue": "1"}, advanced=False)
    assert not decision.requeue
    return f"Not requeued: {decision.reason}"


@entry("A job was cancelled and not requeued")
def _() -> str:
    decision = decide({"JobState": "CANCELLED", "Restarts": "0", "Requeue": "1"}, advanced=True)
    assert not decision.requeue
    return f"Not requeued: {decision.reason}"


@entry("A signal stopped the run")
def _() -> str:
    from partbox.engine.interruption import interruptible

    def act() -> None:
        with contextlib.suppress(SystemExit), interruptible("output/part_box") as signals, signals.at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            signal.pause()

    return logged(act)


PROVOKED["The Python of the environment is not on the node"] = lambda: template(
    "scripts/slurm/batch.sh",
    "FAILED: there is no $PYTHON",
    "FAILED: there is no /home/me/partbox/.venv/bin/python on node7: set PARTBOX_PYTHON in "
    "/home/me/partbox/scripts/slurm/site.env, or run scripts/setup_env.sh",
)


@entry("A submission's folder holds another one")
def _() -> str:
    from partbox.engine.slurm.plan import Cell, save_plan

    cells = [Cell(name, "train", ("tools/train_net.py",), name, "c", 0) for name in ("a", "b")]
    save_plan(Path("output/sweep"), cells[:1])
    return said(ConfigError, lambda: save_plan(Path("output/sweep"), cells))
