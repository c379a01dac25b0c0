"""Attacks on any callable that maps images to logits or losses; they never see a model of partbox."""

from .accelerated import AcceleratedAttack
from .apgd import APGD
from .autoattack import AutoAttack
from .base import Attack, AttackError, AttackResult, attack_mode
from .detector import DetectorAttackResult, DetectorPGD
from .fab import FAB
from .foolbox_attack import FoolboxAttack
from .parts import PartPGD, PartPrediction
from .pgd import PGD
from .rays import RayS
from .segmentation import SegmentationPGD
from .square import Square
from .threat import ThreatModel, parse_eps

__all__ = [
    "APGD",
    "FAB",
    "PGD",
    "AcceleratedAttack",
    "Attack",
    "AttackError",
    "AttackResult",
    "AutoAttack",
    "DetectorAttackResult",
    "DetectorPGD",
    "FoolboxAttack",
    "PartPGD",
    "PartPrediction",
    "RayS",
    "SegmentationPGD",
    "Square",
    "ThreatModel",
    "attack_mode",
    "parse_eps",
]
