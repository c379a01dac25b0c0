"""Single-step training that blinds its own attack is noticed; honest training is not accused."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from small_models import MODELS, small_config

from partbox.engine.build import build_classifier, build_objective, build_overfitting_probe
from partbox.engine.hooks.catastrophic_overfitting import CatastrophicOverfitting


def run(history: list[tuple[float, float]], caplog, period: int = 10) -> CatastrophicOverfitting:
    answers = iter(history)
    hook = CatastrophicOverfitting(lambda: next(answers), period=period)
    with caplog.at_level(logging.WARNING):
        for iteration in range(period * len(history)):
            hook.trainer = SimpleNamespace(iter=iteration, storage=SimpleNamespace(put_scalars=lambda **_: None))
            hook.after_step()
    return hook


@pytest.mark.parametrize(
    ("history", "warned"),
    [
        ([(0.3, 0.25), (0.5, 0.4), (0.8, 0.1)], True),
        ([(0.3, 0.25), (0.5, 0.4), (0.6, 0.35)], False),  # noise
        ([(0.8, 0.4), (0.79, 0.02)], True),  # one image below its best
        ([(0.8, 0.4), (0.6, 0.12)], False),  # the larger part of the fall is common to both
        ([(0.5, 0.4), (0.2, 0.1)], False),  # both fall: training got worse, not blind
        ([(0.9, 0.0), (0.9, 0.0)], False),  # never was robust: validation says that
    ],
)
def test_only_the_scissors_are_an_alarm(history, warned, caplog):
    run(history, caplog)
    assert ("CATASTROPHIC OVERFITTING" in caplog.text) == warned


def test_what_was_best_survives_a_resume(caplog):
    hook = run([(0.3, 0.25), (0.5, 0.4)], caplog)
    again = CatastrophicOverfitting(lambda: (0.9, 0.0), period=1)
    again.load_state_dict(hook.state_dict())
    again.trainer = SimpleNamespace(iter=0, storage=SimpleNamespace(put_scalars=lambda **_: None))
    with caplog.at_level(logging.WARNING):
        again.after_step()
    assert "fell from 0.40 to 0.00" in caplog.text
    with pytest.raises(ValueError, match="PROBE_PERIOD"):
        CatastrophicOverfitting(lambda: (0.0, 0.0), period=0)


@pytest.mark.parametrize(
    ("options", "probed"),
    [
        (["ADVERSARY.OBJECTIVE", "fgsm-rs", "ADVERSARY.STEPS", "1"], True),
        (["ADVERSARY.OBJECTIVE", "n-fgsm", "ADVERSARY.STEPS", "1"], True),
        (["ADVERSARY.OBJECTIVE", "n-fgsm", "ADVERSARY.STEPS", "1", "ADVERSARY.PROBE_PERIOD", "0"], False),
        (["ADVERSARY.OBJECTIVE", "pgd", "ADVERSARY.STEPS", "2"], False),
        (["ADVERSARY.OBJECTIVE", "clean"], False),
    ],
)
def test_single_steps_are_probed_and_the_model_is_left_alone(example_dataset, options, probed):
    cfg = small_config(example_dataset, *MODELS["part_box"], *options)
    model = build_classifier(cfg).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    probe = build_overfitting_probe(cfg, model, build_objective(cfg), example_dataset.records)
    assert (probe is not None) == probed
    if probe is not None:
        trained, pgd = probe()
        assert 0 <= pgd <= trained <= 1
        assert probe() == (trained, pgd)
    assert model.training
    assert all(bool((value == before[name]).all()) for name, value in model.state_dict().items())
