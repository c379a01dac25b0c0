"""Steps onto hyperplanes inside the pixel box: against the reference and against optimality itself."""

from __future__ import annotations

import pytest
import torch
from attack_networks import NORMS, arrays
from scipy.optimize import linprog

from partbox.attacks.hyperplane import step_to_hyperplane


def planes(count: int, size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, size, generator=generator, dtype=torch.float64)
    normals = torch.randn(count, size, generator=generator, dtype=torch.float64)
    inside = torch.rand(count, size, generator=generator, dtype=torch.float64)
    return points, normals, (normals * inside).sum(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_equals_the_reference_also_out_of_reach_and_with_zero_weights(shared, norm):
    stored = arrays(shared / "fixtures" / "attacks" / "projections.npz")
    steps = step_to_hyperplane(stored["points"], stored["w"], stored["b"], norm)
    torch.testing.assert_close(steps, stored[f"delta_{NORMS[norm]}"], atol=1e-6, rtol=1e-5)


def test_linf_step_is_the_optimum_of_the_linear_program():
    points, normals, offsets = planes(12, 6)
    steps = step_to_hyperplane(points, normals, offsets, "linf")
    for x, w, b, step in zip(points, normals, offsets, steps, strict=True):
        size = len(x)
        # Variables: the step and its largest entry r, with |d_i| <= r.
        within = torch.eye(size).tolist()
        above = [[*row, -1.0] for row in within] + [[*[-v for v in row], -1.0] for row in within]
        bounds = [(-float(v), 1 - float(v)) for v in x] + [(0, None)]
        best = linprog(
            [0.0] * size + [1.0], above, [0.0] * (2 * size), [[*w.tolist(), 0.0]], [float(b - w @ x)], bounds
        )
        assert float(step.abs().max()) == pytest.approx(best.fun, abs=1e-7)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_steps_reach_the_plane_inside_the_box_and_nothing_nearer_does(norm):
    points, normals, offsets = planes(40, 30, seed=3)
    steps = step_to_hyperplane(points, normals, offsets, norm)
    reached = points + steps
    torch.testing.assert_close((normals * reached).sum(dim=1), offsets, atol=1e-9, rtol=1e-7)
    assert bool((reached >= -1e-12).all() & (reached <= 1 + 1e-12).all())
    order = torch.inf if norm == "linf" else 2
    ours = torch.linalg.vector_norm(steps, ord=order, dim=1)
    # Moving along the plane, inside the box, never shortens the step.
    generator = torch.Generator().manual_seed(4)
    for _ in range(50):
        other = torch.rand(reached.shape, generator=generator, dtype=torch.float64)
        gap = (normals * other).sum(dim=1) - offsets
        on_plane = other - gap[:, None] * normals / normals.square().sum(dim=1, keepdim=True)
        mixed = reached + 0.05 * (on_plane - reached)
        allowed = ((mixed >= 0) & (mixed <= 1)).all(dim=1)
        longer = torch.linalg.vector_norm(mixed - points, ord=order, dim=1) >= ours - 1e-9
        assert bool(longer[allowed].all())


def test_a_point_on_the_plane_stays():
    points, normals, _ = planes(5, 8)
    offsets = (normals * points).sum(dim=1)
    assert float(step_to_hyperplane(points, normals, offsets, "linf").abs().max()) < 1e-12
    flat = torch.zeros_like(normals)
    assert float(step_to_hyperplane(points, flat, torch.ones(5, dtype=torch.float64), "l2").abs().max()) == 0
