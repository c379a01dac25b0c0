"""Errors of attacks and evaluations."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import torch
from torch import nn

from partbox.attacks import APGD, PGD, AttackError, ThreatModel
from partbox.engine.build import perturbations_of
from partbox.engine.checks import ConfigError
from partbox.engine.run_folder import evaluation_folder
from partbox.engine.setup import load_config
from partbox.evaluation.record_files import RecordsError, writing
from partbox.evaluation.self_checks import check_classifier
from partbox.evaluation.store import RecordStore

from .provoking import CPU, entry, said
from .training import IMAGES, LABELS, Flat


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
