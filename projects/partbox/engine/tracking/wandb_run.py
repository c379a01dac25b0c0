"""A run of Weights & Biases, only where the configuration asks for one; its id stays with the run's folder."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from detectron2.config import CfgNode

from partbox.evaluation.record_files import read_object, writing
from partbox.files import write_text

from ..checks import ConfigError

logger = logging.getLogger(__name__)

RUN_FILE = "wandb_run.json"
FIX = "pip install wandb, or set TRACKING.WANDB.ENABLED False"
# Nothing but what is tracked: no terminal output, source code, state of git, host, packages, load of the machine.
PRIVATE: dict[str, Any] = {
    "console": "off",
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "x_disable_machine_info": True,
    "silent": True,
}
SECONDS_TO_FINISH = 300.0  # an online run waits no longer for what is not sent yet; wandb's own default is for ever
Mode = Literal["disabled", "offline", "online"]
MODES: tuple[Mode, ...] = get_args(Mode)  # from nothing to everything
QUIET_MODES: dict[str, Mode] = {"offline": "offline", "dryrun": "offline", "disabled": "disabled"}  # of WANDB_MODE


def mode_of(cfg: CfgNode) -> Mode:
    """``disabled``, ``offline`` or ``online``: what the configuration asks for, or less where the environment does.

    ``WANDB_MODE`` can keep a run from sending (``offline``, ``disabled``), and cannot make it send.
    """
    node = cfg.TRACKING.WANDB
    asked: Mode = node.MODE if node.ENABLED else "disabled"
    allowed = QUIET_MODES.get(os.environ.get("WANDB_MODE", "").strip().lower(), "online")
    return min(asked, allowed, key=MODES.index)


def is_tracked(cfg: CfgNode) -> bool:
    """Whether there is to be a run of wandb."""
    return mode_of(cfg) != "disabled"


def check_tracking(cfg: CfgNode) -> None:
    """Refuse tracking that could not begin, before any work.

    Raises:
        ConfigError: wandb is not installed, or a setting is missing.
    """
    if not is_tracked(cfg):
        return
    if not cfg.TRACKING.WANDB.PROJECT:
        raise ConfigError("TRACKING.WANDB.PROJECT is empty: name the project that the run belongs to")
    if importlib.util.find_spec("wandb") is None:
        raise ConfigError(f"TRACKING.WANDB.ENABLED is True, and the package wandb is not installed: {FIX}")


def run_id(folder: str | Path, cfg: CfgNode) -> str:
    """The id of the run in this folder: that of its first start, which continues in every later one.

    Raises:
        RecordsError: the file cannot be read or written.
    """
    path = Path(folder) / RUN_FILE
    if path.exists():
        stored = read_object(path, "delete that file to begin another run of wandb").get("id")
        if isinstance(stored, str) and stored:
            return stored
        raise ConfigError(f"{path} holds no id: delete that file to begin another run of wandb")
    new = secrets.token_hex(6)
    node = cfg.TRACKING.WANDB
    with writing(path, "the id of the run"):
        write_text(path, json.dumps({"id": new, "project": node.PROJECT, "entity": node.ENTITY}, indent=2) + "\n")
    return new


def open_run(cfg: CfgNode) -> Any:
    """Begin the run, or continue it where its folder has one. None where there is to be none.

    Raises:
        ConfigError: wandb cannot begin: not logged in, no connection, or a setting that it refuses.
        RecordsError: see :func:`run_id`.
    """
    node, folder, mode = cfg.TRACKING.WANDB, Path(cfg.OUTPUT_DIR), mode_of(cfg)
    if node.ENABLED and mode != node.MODE:
        said = os.environ["WANDB_MODE"]
        logger.warning("wandb is %s, not %s: the environment says WANDB_MODE=%s", mode, node.MODE, said)
    if mode == "disabled":
        return None
    check_tracking(cfg)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else wandb reports its own errors, offline too
    number = run_id(folder, cfg)
    try:
        import wandb

        # without an account wandb asks for one where it may speak and there is a terminal: no job may wait for that
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("nobody has logged in on this machine")
        run = wandb.init(
            id=number,
            project=node.PROJECT,
            entity=node.ENTITY or None,
            name=node.NAME or folder.resolve().name,
            mode=mode,
            # an offline run has no server to ask: each start is a folder of its own, which wandb sync joins by the id
            resume="allow" if mode == "online" else None,
            dir=str(folder),
            config=yaml.safe_load(cfg.dump()),
            allow_val_change=True,
            settings={**PRIVATE, "finish_timeout": SECONDS_TO_FINISH, "finish_timeout_raises": True},
        )
    except Exception as error:  # noqa: BLE001 wandb has errors of many classes, with no base in common
        raise ConfigError(
            f"TRACKING.WANDB: wandb cannot begin ({_without_key(str(error))}): log in with 'wandb login', see whether "
            "its server can be reached, or set TRACKING.WANDB.MODE offline"
        ) from None
    logger.info("wandb (%s): %s", mode, run.url or run.dir)
    return run


def _without_key(text: str) -> str:
    """A message as one line, without the key of the account, which stands in no log."""
    key, text = os.environ.get("WANDB_API_KEY"), " ".join(text.split())
    return text.replace(key, "***") if key else text
