"""Variants of an attack on a detector or segmenter that the self-checks compare it with."""

from __future__ import annotations

from dataclasses import replace

from partbox.attacks import DetectorPGD, SegmentationPGD, ThreatModel

from .perturbations import Perturbation


def with_settings(attack: Perturbation, *, steps: int, eps_of_everything: bool = False) -> Perturbation:
    """The same attack with another number of steps, and, on request, with every change allowed."""
    apply, threat = attack.apply, attack.threat
    assert threat is not None
    if eps_of_everything:
        threat = ThreatModel(threat.norm, 1.0 if threat.norm == "linf" else 1000.0)
    changed: DetectorPGD | SegmentationPGD
    if isinstance(apply, DetectorPGD):
        changed = DetectorPGD(threat, apply.goal, steps)
    elif isinstance(apply, SegmentationPGD):
        changed = SegmentationPGD(threat, apply.loss, steps, ignore=apply.ignore)
    else:
        raise TypeError(f"{attack.name} is no gradient attack on a detector or segmenter")
    return replace(attack, threat=threat, apply=changed, passes=changed.passes + 1)
