"""A folded network answers as the network does, with fewer layers, and never with weights of yesterday."""

from __future__ import annotations

import pytest
import timm
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn

from partbox.attacks import PGD, AcceleratedAttack, ThreatModel
from partbox.attacks.folding import FoldedNetwork

THREAT = ThreatModel("linf", 0.03)
IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def shaken(model: nn.Module) -> nn.Module:
    """A network in evaluation mode whose BatchNorms are no identity."""
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if hasattr(module, "running_var"):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3), ("running_mean", -0.2, 0.2)):
                tensor = getattr(module, name)
                if tensor is not None:
                    tensor.data = low + (high - low) * torch.rand(tensor.shape, generator=generator)
            module.running_var.data = 0.3 + torch.rand(module.running_var.shape, generator=generator)
    return model.eval().requires_grad_(False)


def plain() -> nn.Module:
    torch.manual_seed(0)
    return shaken(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
            nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(128, 4),
        )
    )  # fmt: skip


def detectron2_style() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        Conv2d(3, 8, 3, bias=False, norm=FrozenBatchNorm2d(8), activation=nn.functional.relu),
        Conv2d(8, 4, 3, norm=nn.BatchNorm2d(4)),
    ]
    return shaken(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def of_timm() -> nn.Module:
    torch.manual_seed(0)
    return shaken(timm.create_model("efficientnet_lite0", num_classes=4))


@pytest.mark.parametrize(("make", "norms"), [(plain, 2), (detectron2_style, 2), (of_timm, 49)])
def test_the_folded_network_answers_as_the_network(make, norms):
    model = make().double()  # in float32 the two differ by rounding
    images = IMAGES.double() if make is not of_timm else torch.rand(2, 3, 64, 64).double()
    folded = FoldedNetwork(model, images)
    assert len(folded.pairs) == norms, "all that directly follow a convolution"
    expected, found = model(images), folded.predict(images)
    assert torch.allclose(expected, found, rtol=1e-10, atol=1e-10)
    left = [m for m in folded.predict.modules() if hasattr(m, "running_var")]
    assert len(left) == len([m for m in model.modules() if hasattr(m, "running_var")]) - norms


def test_changed_weights_are_taken_over():
    model = plain()
    attack = AcceleratedAttack(PGD(THREAT, 5), fold_batch_norm=True)
    labels = model(IMAGES).argmax(1)
    attack(model, IMAGES, labels, image_ids=range(32), seed=0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data.mul_(1.7).add_(0.01)  # as averaging of weights does: no version counter notices
    seen = attack._faster(model, IMAGES)(IMAGES)
    assert torch.allclose(seen, model(IMAGES), atol=1e-4)


def test_the_search_finds_what_the_plain_attack_finds():
    model = plain()
    model[-1].bias.data -= model(IMAGES).mean(dim=0)  # no class for everything
    labels = model(IMAGES).argmax(1)
    attack = AcceleratedAttack(PGD(THREAT, 10), fold_batch_norm=True)
    found = attack(model, IMAGES, labels, image_ids=range(32), seed=1)
    expected = PGD(THREAT, 10)(model, IMAGES, labels, image_ids=range(32), seed=1)
    assert torch.equal(found.fooled, expected.fooled)
    assert 0 < int(found.fooled.sum()) < 32
    assert torch.equal(model(found.images).argmax(1) != labels, found.fooled)


def test_a_method_of_a_network():
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain()

        def logits(self, images: Tensor) -> Tensor:
            return self.network(2 * images - 1)

    model = Classifier().eval()
    folded = FoldedNetwork(model.logits, IMAGES)
    assert torch.allclose(folded.predict(IMAGES), model.logits(IMAGES), atol=1e-5)
    assert folded.predict.__self__ is not model


def test_what_cannot_be_folded_is_refused():
    model = plain()
    with pytest.raises(ValueError, match="not a function"):
        FoldedNetwork(lambda images: model(images), IMAGES)
    with pytest.raises(ValueError, match="no BatchNorm with fixed statistics"):
        FoldedNetwork(plain().train(), IMAGES)

    class Elsewhere(nn.Module):
        """Uses the convolution's output beside its BatchNorm, too."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            features = self.convolution(images)
            return (features + self.norm(features)).mean((2, 3))

    with pytest.raises(ValueError, match="logits differ by"):
        FoldedNetwork(shaken(Elsewhere()), IMAGES)


def test_a_convolution_that_is_used_twice_stays_as_it_is():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm, self.last = nn.Conv2d(3, 3, 3, 1, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)
            self.last_norm = nn.BatchNorm2d(4)

        def forward(self, images: Tensor) -> Tensor:
            features = self.convolution(self.norm(self.convolution(images)))
            return self.last_norm(self.last(features)).mean((2, 3))

    model = shaken(Twice())
    folded = FoldedNetwork(model, IMAGES)
    assert [pair.convolution for pair in folded.pairs] == ["last"]
    assert torch.allclose(folded.predict(IMAGES), model(IMAGES), atol=1e-5)
