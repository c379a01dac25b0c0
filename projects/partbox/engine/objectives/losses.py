"""Classification losses of adversarial training, as functions of the logits on clean and on adversarial images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def divergence(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(clean || adversarial) of the predicted classes, (B, K), (B, K) -> (B,)."""
    return functional.kl_div(
        adversarial_logits.log_softmax(dim=1), clean_logits.log_softmax(dim=1), reduction="none", log_target=True
    ).sum(dim=1)


def trades_robust_loss(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """The term that TRADES adds to the clean cross-entropy, without its weight beta; a number.

    Zhang et al. 2019 (arXiv 1901.08573), equation 5: mean KL divergence, with gradients through both sides.
    """
    return divergence(clean_logits, adversarial_logits).mean()


def boosted_cross_entropy(adversarial_logits: Tensor, labels: Tensor) -> Tensor:
    """MART's first term: cross-entropy plus -log(1 - p) of the likeliest wrong class; a number.

    Wang et al. 2020 (ICLR, "Improving adversarial robustness requires revisiting misclassified examples"), equation 6;
    the small constants are those of the official implementation.
    """
    probabilities = adversarial_logits.softmax(dim=1)
    wrong = probabilities.scatter(1, labels[:, None], -1.0).argmax(dim=1, keepdim=True)
    others = (1.0001 - probabilities.gather(1, wrong) + 1e-12).log().squeeze(1)
    return functional.cross_entropy(adversarial_logits, labels) - others.mean()


def mart_robust_loss(clean_logits: Tensor, adversarial_logits: Tensor, labels: Tensor) -> Tensor:
    """MART's second term without its weight: KL divergence, heavier where the clean image is uncertain; a number.

    Wang et al. 2020, equation 8; gradients flow through both sides, as in the official implementation.
    """
    certainty = clean_logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
    return (divergence(clean_logits, adversarial_logits) * (1.0000001 - certainty)).mean()
