"""What attacks maximise: values and gradients against the reference, invariances, few classes."""

from __future__ import annotations

import pytest
import torch
from attack_networks import arrays

from partbox.attacks.objectives import dlr, get_objective, margin, replaced_dlr, targeted_dlr, targeted_margin


@pytest.mark.parametrize("classes", [3, 4, 5, 10])
def test_dlr_equals_the_reference_in_value_and_gradient(shared, classes):
    stored = arrays(shared / "fixtures" / "attacks" / "dlr.npz")
    logits = stored[f"{classes}|logits"].requires_grad_(True)
    labels = stored[f"{classes}|labels"]
    values = dlr(logits, labels)
    torch.testing.assert_close(values, stored[f"{classes}|dlr"], rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    torch.testing.assert_close(gradient, stored[f"{classes}|dlr_grad"], rtol=1e-4, atol=1e-6)
    if classes >= 4:
        values = targeted_dlr(logits, labels, stored[f"{classes}|target"])
        torch.testing.assert_close(values, stored[f"{classes}|dlr_t"], rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(values.sum(), logits)
        torch.testing.assert_close(gradient, stored[f"{classes}|dlr_t_grad"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("classes", [4, 7])
def test_dlr_ignores_shift_and_scale_of_the_logits(classes):
    logits = torch.randn(20, classes, dtype=torch.float64)
    labels = torch.randint(classes, (20,))
    targets = (labels + 1) % classes
    torch.testing.assert_close(dlr(logits * 1000 + 5, labels), dlr(logits, labels))
    torch.testing.assert_close(targeted_dlr(logits * 1000 + 5, labels, targets), targeted_dlr(logits, labels, targets))


def test_sign_tells_who_is_fooled():
    logits = torch.randn(100, 5)
    labels = torch.randint(5, (100,))
    wrong = logits.argmax(dim=1) != labels
    for objective in (margin, dlr):
        assert torch.equal(objective(logits, labels) > 0, wrong)


def test_targets_always_have_a_gradient():
    for classes in (2, 3, 4, 5):
        logits = torch.randn(50, classes, requires_grad=True)
        labels = logits.argmax(dim=1)
        for rank in range(1, classes):
            targets = logits.argsort(dim=1, descending=True)[:, rank]
            (gradient,) = torch.autograd.grad(targeted_dlr(logits, labels, targets).sum(), logits)
            assert bool((gradient.abs().amax(dim=1) > 1e-3).all()), (classes, rank)


def test_two_classes_leave_the_margin_and_say_so():
    logits, labels = torch.randn(10, 2), torch.randint(2, (10,))
    torch.testing.assert_close(dlr(logits, labels), margin(logits, labels))
    torch.testing.assert_close(targeted_dlr(logits, labels, 1 - labels), targeted_margin(logits, labels, 1 - labels))
    assert "margin" in replaced_dlr(2, targeted=False)
    assert "targeted margin" in replaced_dlr(2, targeted=True)


def test_only_what_is_replaced_is_noted():
    assert replaced_dlr(3, targeted=False) == replaced_dlr(4, targeted=True) == replaced_dlr(10, targeted=True) == ""
    assert "targeted margin" in replaced_dlr(3, targeted=True)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="unknown attack loss 'cw'"):
        get_objective("cw")
