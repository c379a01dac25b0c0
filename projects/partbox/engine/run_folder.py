"""The folder of a run: what it holds, its lock, its log, its metrics."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shlex
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.events import CommonMetricPrinter, EventWriter, JSONWriter, TensorboardXWriter, get_event_storage
from detectron2.utils.logger import setup_logger

from partbox.evaluation.record_files import RecordsError, read_object, writing
from partbox.files import write_lines, write_text
from partbox.folder_readme import README, shell_line
from partbox.locks import lock
from partbox.processes import is_main, on_main, rank, world_size

from .checkpoint import resumable_files
from .checks import ConfigError
from .folder_guide import evaluation_guide, training_guide
from .setup import default_config
from .slurm.job import own_job
from .tracking.guarded_writer import GuardedWriter
from .tracking.wandb_run import open_run
from .tracking.wandb_writer import WandbWriter

logger = logging.getLogger(__name__)

METRICS = "metrics.json"
WINDOW = 20  # iterations of the median of a smoothed scalar
SECONDS_BETWEEN_LOG_LINES = 5.0  # of a training; metrics.json has them all

# What may change between the starts of one training run without changing what is trained.
MAY_CHANGE = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATASETS.TEST",
    "DATALOADER.NUM_WORKERS",
    "INPUT.VERIFY_IMAGES",
    "SOLVER.CHECKPOINT_PERIOD",
    "ROBUST_EVAL",
    "TRACKING",
)
# What does not decide the numbers of an evaluation.
NO_EFFECT = (
    "OUTPUT_DIR",
    "MODEL.DEVICE",
    "DATASETS.ROOT",
    "DATALOADER.NUM_WORKERS",
    "INPUT.VERIFY_IMAGES",
    "ROBUST_EVAL.EXAMPLES",
    "ROBUST_EVAL.EXAMPLE_SCORE",
    "TRACKING",
)


def _flat(node: dict, without: tuple[str, ...], prefix: str = "") -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        if name in without:
            continue
        values.update(_flat(value, without, f"{name}.") if isinstance(value, dict) else {name: value})
    return values


def settings_of(text: str, without: tuple[str, ...]) -> dict[str, object]:
    """A configuration of a file (YAML) by dotted key, less some; nothing where it holds no mapping."""
    values = yaml.safe_load(text)
    return _flat(values, without) if isinstance(values, dict) else {}


def _plain(cfg: CfgNode) -> dict:
    """The configuration as it comes back from its file."""
    return yaml.safe_load(cfg.dump())


def effective_config(cfg: CfgNode) -> dict[str, object]:
    """The configuration by dotted key, without what does not decide an evaluation's numbers."""
    return _flat(_plain(cfg), NO_EFFECT)


def config_changes(cfg: CfgNode) -> dict[str, dict[str, object]]:
    """What differs from the defaults, by dotted key: ``value`` and ``default``."""
    now, before = _flat(_plain(cfg), ()), _flat(_plain(default_config()), ())
    return {key: {"value": now[key], "default": before.get(key)} for key in sorted(now) if now[key] != before.get(key)}


def config_hash(cfg: CfgNode) -> str:
    """Digest of the configuration without what does not decide an evaluation's numbers."""
    text = json.dumps(effective_config(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_same_run(folder: Path, cfg: CfgNode) -> None:
    """Refuse to continue a run with another configuration, or one that cannot be read."""
    path = folder / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RecordsError(f"{path} is damaged or cannot be read ({error}): choose another OUTPUT_DIR") from error
    if not isinstance(values, dict):
        raise RecordsError(f"{path} holds no configuration: choose another OUTPUT_DIR")
    stored = _flat(values, MAY_CHANGE)
    now = _flat(_plain(cfg), MAY_CHANGE)
    changed = [key for key in sorted(stored.keys() | now.keys()) if stored.get(key) != now.get(key)]
    if changed:
        shown = "; ".join(f"{key} was {stored.get(key)!r}, is {now.get(key)!r}" for key in changed[:3])
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"{folder} holds a run with another configuration ({shown}{more}): continue with the same one, choose "
            "another OUTPUT_DIR, or delete the folder to start anew"
        )


def _check_folder(folder: Path, cfg: CfgNode, *, resume: bool, eval_only: bool) -> None:
    """Refuse to mix runs in one folder."""
    results = folder / "results.json"
    if eval_only:
        advice = "delete that file to compute it again from the records"
        if results.exists() and read_object(results, advice).get("config_hash") != config_hash(cfg):
            raise ConfigError(
                f"{folder} holds the results of another evaluation or training run: choose another OUTPUT_DIR"
            )
        return
    if (folder / "last_checkpoint").exists() or resumable_files(folder):
        if not resume:
            raise ConfigError(
                f"{folder} holds a training run already: add --resume to continue it, or choose another OUTPUT_DIR"
            )
        _check_same_run(folder, cfg)


def start_line(command: Sequence[str], environment: Mapping[str, str], part: tuple[int, int] = (0, 1)) -> str:
    """The line of one start in ``command.txt``: facts, two blanks, what a shell in that folder runs again.

    Args:
        command: the command line.
        environment: of the process, which tells the job of Slurm and the folder of datasets.
        part: (i, n) of an evaluation.
    """
    facts = [datetime.now().astimezone().isoformat(timespec="seconds"), f"host={socket.gethostname()}"]
    facts.append(f"folder={shlex.quote(os.getcwd())}")
    facts.append(f"processes={world_size()}")
    if part[1] > 1:
        facts.append(f"part={part[0]}/{part[1]}")
    job = own_job(environment)
    if job is not None:
        facts += [f"job={job}", f"requeued={environment.get('SLURM_RESTART_COUNT', '0')}"]
        facts += [f"nodes={environment.get('SLURM_STEP_NODELIST') or environment.get('SLURM_JOB_NODELIST', '?')}"]
    datasets = environment.get("DETECTRON2_DATASETS", "")
    line = f"DETECTRON2_DATASETS={shlex.quote(datasets)} " if datasets else ""
    return f"{' '.join(facts)}  {line}{shell_line(command)}\n"


def _drop_unfinished(folder: Path) -> None:
    """Delete the temporary files and folders that a kill left; for the only process that writes to the folder."""
    for pattern in (".*.tmp", "records/.*.tmp"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextmanager
def training_folder(cfg: CfgNode, *, resume: bool) -> Iterator[Path]:
    """The folder of a training run, held by its main process; every process gets a log.

    Raises:
        ConfigError: another process writes to the folder, or it holds another run.
        RecordsError: a file of the folder is damaged or cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    with ExitStack() as stack:

        def begin() -> None:
            _check_folder(folder, cfg, resume=resume, eval_only=False)
            stack.enter_context(_held(folder, fcntl.LOCK_EX))
            start_log(folder, 0)
            _drop_unfinished(folder)
            describe(folder, cfg, training_guide(folder, cfg))

        on_main(begin)
        if not is_main():
            start_log(folder, rank())
        yield folder


@contextmanager
def evaluation_folder(cfg: CfgNode, *, part: tuple[int, int], after_training: bool) -> Iterator[Path]:
    """The folder of an evaluation; its parts (i, n) share it with each other, and with nobody else.

    Args:
        cfg: complete configuration.
        part: which part this process does.
        after_training: the evaluation of a run that was trained by the same command, which has described it.

    Raises:
        ConfigError: another process writes to the folder, or it holds another run.
        RecordsError: a file of the folder is damaged or cannot be written.
    """
    folder = Path(cfg.OUTPUT_DIR)
    _check_folder(folder, cfg, resume=after_training, eval_only=not after_training)
    with _held(folder, fcntl.LOCK_EX if part[1] == 1 else fcntl.LOCK_SH):
        start_log(folder, part[0])
        if not after_training:
            if part[1] == 1:
                _drop_unfinished(folder)
            describe(folder, cfg, _guide(folder, cfg), "config_evaluation.yaml", part)
        yield folder


def _guide(folder: Path, cfg: CfgNode, *, embedded: bool = False) -> str:
    """What README.txt says of a folder with an evaluation: where its model was trained, too, that stays the run's."""
    trained_here = (folder / METRICS).exists()
    return training_guide(folder, cfg) if trained_here else evaluation_guide(folder, cfg, embedded=embedded)


@contextmanager
def embedded_evaluation_folder(cfg: CfgNode) -> Iterator[Path]:
    """The same for an evaluation inside another program, whose terminal and loggers stay its own.

    What partbox logs meanwhile goes to ``log.txt``, too.

    Raises:
        ConfigError, RecordsError: as :func:`evaluation_folder`.
    """
    folder = Path(cfg.OUTPUT_DIR)
    _check_folder(folder, cfg, resume=False, eval_only=True)
    with _held(folder, fcntl.LOCK_EX):
        _drop_unfinished(folder)
        describe(folder, cfg, _guide(folder, cfg, embedded=True), "config_evaluation.yaml")
        with _logged_to(folder / "log.txt"):
            yield folder


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """What partbox logs inside is appended to a file."""
    log = logging.getLogger("partbox")
    with writing(path, "the log"):
        handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("[%(asctime)s %(name)s]: %(levelname)s: %(message)s"))
    level = log.level
    log.addHandler(handler)
    if log.getEffectiveLevel() > logging.INFO:
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()


@contextmanager
def _held(folder: Path, kind: int) -> Iterator[None]:
    """The folder made and locked, as ``fcntl`` names the kinds of locks."""
    with writing(folder, "a run"):
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 closed below, with what is locked
    with file:
        if not lock(file, kind | fcntl.LOCK_NB):
            raise ConfigError(f"another process is writing to {folder}: wait for it, or choose another OUTPUT_DIR")
        try:
            yield
        finally:
            lock(file, fcntl.LOCK_UN)  # data workers that are about to end hold the file, too


def start_log(folder: Path, number: int = 0) -> None:
    """Log to ``log.txt`` and the terminal; processes other than the first to ``log.txt.rank<number>`` alone."""
    for name in ("detectron2", "fvcore", "partbox"):
        setup_logger(str(folder), distributed_rank=number, name=name)


def describe(
    folder: Path, cfg: CfgNode, guide: str, config_name: str = "config.yaml", part: tuple[int, int] = (0, 1)
) -> None:
    """Write what the folder holds, and one more line about this start.

    Args:
        folder: is made where it is missing.
        cfg: complete configuration.
        guide: text of ``README.txt``, see :mod:`partbox.engine.folder_guide`.
        config_name: file of the configuration.
        part: (i, n) of an evaluation.

    Raises:
        RecordsError: a file cannot be written.
    """
    with writing(folder, "a run"):
        write_text(folder / README, guide)
        write_text(folder / config_name, cfg.dump())
        write_text(folder / "environment.txt", collect_env_info() + "\n")
        append_start(folder, part)


def append_start(folder: Path, part: tuple[int, int] = (0, 1)) -> None:
    """One more line of ``command.txt``."""
    with open(folder / "command.txt", "a", encoding="utf-8") as file:
        file.write(start_line(sys.argv, os.environ, part))


def _drop_metrics_from(path: Path, iteration: int) -> None:
    """Forget what an interrupted run logged from this iteration on: it will be logged again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line that was being written when the run was killed
            continue
        if entry["iteration"] < iteration:
            kept.append(line)
    write_lines(path, kept)


class LogLines(CommonMetricPrinter):
    """Log lines with the time left, at most one in ``SECONDS_BETWEEN_LOG_LINES``; the last one always."""

    def __init__(self, iterations: int) -> None:
        super().__init__(iterations)
        self._iterations, self._last = iterations, -SECONDS_BETWEEN_LOG_LINES

    def write(self) -> None:
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LOG_LINES or get_event_storage().iter >= self._iterations - 1:
            self._last = now
            super().write()


def writers(cfg: CfgNode, start: int, *, resumed: bool) -> list[EventWriter]:
    """Log lines with the time left, ``metrics.json``, wandb where it is asked for, TensorBoard.

    What the files tell of ``start`` and later is dropped. The last two may fail while the run goes on.

    Raises:
        ConfigError: wandb cannot begin. Of a run that is ``resumed`` that is an ERROR in the log: it goes on without.
    """
    metrics = Path(cfg.OUTPUT_DIR) / METRICS
    _drop_metrics_from(metrics, start)
    try:
        tracked = open_run(cfg)
    except (ConfigError, RecordsError) as error:
        if not resumed:
            raise
        logger.error("%s. The training goes on, untracked by wandb", error)
        tracked = None
    return [
        LogLines(cfg.SOLVER.MAX_ITER),
        JSONWriter(str(metrics), window_size=WINDOW),
        # before TensorBoard's, which takes the pictures out of the storage
        *([] if tracked is None else [WandbWriter(tracked, window=WINDOW)]),
        GuardedWriter(TensorboardXWriter(cfg.OUTPUT_DIR, window_size=WINDOW, purge_step=start), "TensorBoard"),
    ]
