"""Searching with a faster form of the network changes the cost, and no verdict is taken from that form."""

from __future__ import annotations

import pytest
import torch
from attack_networks import labelled_images, small_network
from torch import Tensor

from partbox.attacks import PGD, AcceleratedAttack, ThreatModel

THREAT = ThreatModel("linf", 0.02)
HALVES = (slice(0, 32), slice(32, 64))


def test_bfloat16_is_what_the_search_sees_and_float32_what_decides():
    model = small_network()
    images, labels = labelled_images(model)
    seen: list[bool] = []

    def predict(batch: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return model(batch)

    attack = AcceleratedAttack(PGD(THREAT, 5), precision="bfloat16")
    result = attack(predict, images, labels, seed=3)
    assert seen[:8] == [False] + [True] * 6 + [False]  # clean, five steps and the last look, the verdict
    assert not any(seen[8:])  # whoever was fooled in bfloat16 only
    exact = model(result.images)
    assert torch.equal(exact.argmax(1) != labels, result.fooled)
    plain = PGD(THREAT, 5)(model, images, labels, seed=3)
    assert 0 < int(plain.fooled.sum()) < 64
    assert int((plain.fooled != result.fooled).sum()) <= 3


def test_what_only_the_faster_form_took_for_fooled_is_attacked_again():
    model = small_network()
    images, labels = labelled_images(model)

    def lying(batch: Tensor) -> Tensor:
        """A network that, in lower precision, always answers the wrong class."""
        return -model(batch) if torch.is_autocast_enabled("cpu") else model(batch)

    attack = AcceleratedAttack(PGD(THREAT, 5), precision="bfloat16")
    result = attack(lying, images, labels, image_ids=range(64), seed=3)
    plain = PGD(THREAT, 5)(model, images, labels, image_ids=range(64), seed=3)
    assert torch.equal(result.fooled, plain.fooled)
    assert 0 < int(result.fooled.sum()) < 64
    assert (result.queries > plain.queries).all()
    assert "attacked again" in result.notes[0]
    assert {name for name, fooled in zip(result.fooled_by, result.fooled.tolist(), strict=True) if not fooled} == {""}


def test_a_compiled_network_gives_the_verdicts_of_the_network(monkeypatch):
    model = small_network()
    images, labels = labelled_images(model)
    compiled: list[object] = []

    def stand_in(predict: object, **options: object) -> object:
        compiled.append((predict, options))
        return torch._dynamo.optimize("eager", dynamic=True)(predict)

    monkeypatch.setattr(torch, "compile", stand_in)
    attack = AcceleratedAttack(PGD(THREAT, 5), compiled=True)
    halves = [attack(model, images[part], labels[part], image_ids=range(64)[part], seed=3) for part in HALVES]
    assert compiled == [(model, {"dynamic": True})]  # once, not for each batch
    plain = PGD(THREAT, 5)(model, images, labels, image_ids=range(64), seed=3)
    assert torch.equal(torch.cat([half.fooled for half in halves]), plain.fooled)


@pytest.mark.slow
def test_a_network_compiled_in_earnest():
    model = small_network()
    images, labels = labelled_images(model)
    result = AcceleratedAttack(PGD(THREAT, 5), compiled=True)(model, images, labels, seed=3)
    assert torch.equal(result.fooled, PGD(THREAT, 5)(model, images, labels, seed=3).fooled)


def test_settings_and_names_tell_how_it_searched():
    attack = AcceleratedAttack(PGD(THREAT, 5), precision="bfloat16", compiled=True, fold_batch_norm=True)
    assert attack.name == "pgd-5 (bfloat16, compiled, folded)"
    forms = {"precision": "bfloat16", "compiled": True, "fold_batch_norm": True}
    assert attack.settings == {**PGD(THREAT, 5).settings, **forms}
    assert attack.passes == 2 * PGD(THREAT, 5).passes
    with pytest.raises(ValueError, match="unknown precision 'float16'"):
        AcceleratedAttack(PGD(THREAT), precision="float16")
    with pytest.raises(ValueError, match="nothing to accelerate"):
        AcceleratedAttack(PGD(THREAT))
