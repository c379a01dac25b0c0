"""Models that answer in half or double precision, labels of any integer type, images that no attack can work on."""

from __future__ import annotations

import pytest
import torch
from attack_networks import labelled_images, small_network
from torch import Tensor, nn

from partbox.attacks import APGD, FAB, PGD, AcceleratedAttack, AttackError, AutoAttack, RayS, Square, ThreatModel

LINF, L2 = ThreatModel("linf", 0.03), ThreatModel("l2", 0.2)
ATTACKS = {
    "pgd": lambda threat: PGD(threat, 5),
    "apgd": lambda threat: APGD(threat, 10),
    "apgd-dlr": lambda threat: APGD(threat, 10, loss="dlr"),
    "apgd-t": lambda threat: APGD(threat, 5, loss="dlr-targeted", targets=2),
    "fab": lambda threat: FAB(threat, 5),
    "fab-t": lambda threat: FAB(threat, 5, targeted=True, targets=2),
    "square": lambda threat: Square(threat, 30),
    "accelerated": lambda threat: AcceleratedAttack(PGD(threat, 5), precision="bfloat16"),
}


def small_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images and its own answers."""
    model = small_network()
    return model, *labelled_images(model, 24)


@pytest.mark.parametrize("threat", [LINF, L2], ids=str)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_model_may_answer_in_any_precision(name, threat):
    network, images, labels = small_problem()
    double = small_problem()[0].double()
    half = small_problem()[0].bfloat16()
    attack = ATTACKS[name](threat)
    plain = attack(network, images, labels, image_ids=range(len(images)))
    answers = {
        "double outside": lambda x: network(x).double(),
        "double inside": lambda x: double(x.double()),
        "half outside": lambda x: network(x).half(),
        "bfloat16 inside": lambda x: half(x.bfloat16()),
    }
    for how, predict in answers.items():
        found = attack(predict, images, labels, image_ids=range(len(images)))
        assert found.images.dtype == images.dtype, how
        assert float(threat.distance(images, found.images).max()) <= threat.eps * (1 + 1e-5)
        slack = 1 if how.startswith("double") else 4  # rounded logits are another model
        assert abs(int(found.fooled.sum()) - int(plain.fooled.sum())) <= slack, how


def test_the_ensemble_and_rays_as_well():
    network, images, labels = small_problem()
    few = images[:4], labels[:4]
    for attack in (RayS(LINF, 50), AutoAttack(ThreatModel("linf", 0.5), "standard")):
        plain = attack(network, *few, image_ids=range(4))
        found = attack(lambda x: network(x).double(), *few, image_ids=range(4))
        assert torch.equal(found.fooled, plain.fooled)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_of_any_integer_type(dtype):
    network, images, labels = small_problem()
    for attack in (PGD(LINF, 2), FAB(LINF, 2), Square(LINF, 5)):
        found = attack(network, images, labels.to(dtype), image_ids=range(len(images)))
        wanted = attack(network, images, labels, image_ids=range(len(images)))
        assert torch.equal(found.fooled, wanted.fooled)


def test_what_no_attack_can_work_on_is_refused():
    network, images, labels = small_problem()

    def predict(x: Tensor) -> Tensor:
        return network(x.float())

    with pytest.raises(AttackError, match="convert inside predict"):
        PGD(LINF, 2)(predict, images.half(), labels)
    with pytest.raises(AttackError, match="labels must be integers"):
        PGD(LINF, 2)(predict, images, labels > 0)
