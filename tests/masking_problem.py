"""A small problem with a network that can be robust or not, for the self-checks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from partbox.attacks import PGD, AttackError, ThreatModel
from partbox.evaluation.self_checks import check_classifier

THREAT = ThreatModel("linf", 0.04)
COUNT = 32


class Problem:
    """Images of four smooth patterns under noise, and a network that tells them apart."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(4, 3, 3, 3, generator=generator)
        self.patterns = functional.interpolate(patterns, size=(12, 12), mode="bilinear")
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        )
        optimizer = torch.optim.AdamW(self.model.parameters(), 3e-3)
        for step in range(150):
            images, labels = self.draw(64, step)
            optimizer.zero_grad()
            functional.cross_entropy(self.model(images), labels).backward()
            optimizer.step()
        self.model.requires_grad_(False).eval()
        self.images, self.labels = self.draw(COUNT, 10_000)

    def draw(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 4, (count,), generator=generator)
        noise = torch.randn(count, 3, 12, 12, generator=generator) * 0.1
        return (0.3 * self.patterns[labels] + 0.35 + noise).clamp(0, 1), labels

    def checks(self, predict, threat: ThreatModel = THREAT, steps: int = 20, **options) -> dict:
        """Checks by name, after an evaluation with PGD; an evaluation that stops calls every right image robust."""
        robust = predict(self.images).argmax(dim=1) == self.labels
        try:
            result = PGD(threat, steps)(predict, self.images, self.labels, image_ids=range(COUNT))
            robust = ~result.fooled
        except AttackError:
            pass
        found = check_classifier(
            predict,
            self.images,
            self.labels,
            robust,
            threat,
            image_ids=range(COUNT),
            steps=steps,
            **options,
        )
        return {one.name: one for one in found}
