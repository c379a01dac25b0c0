"""Attacks on any callable that maps images to logits; they never see a model of partbox."""

from .base import AttackError, AttackResult, attack_mode
from .pgd import PGD
from .threat import ThreatModel, parse_eps

__all__ = ["PGD", "AttackError", "AttackResult", "ThreatModel", "attack_mode", "parse_eps"]
