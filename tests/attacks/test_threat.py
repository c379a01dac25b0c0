"""Threat models: numbers, projections, random starts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from partbox.attacks import ThreatModel, parse_eps
from partbox.attacks.draws import content_ids, random_starts

NORMS = ["linf", "l2"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("0.5", 0.5), ("1e-3", 1e-3), (0.25, 0.25), (1, 1.0)],
)
def test_eps_may_be_a_fraction(text, value):
    assert parse_eps(text) == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize("bad", ["", "8/0", "eight", "-1/255", -0.1, math.nan, math.inf, "nan", None, True, "8//255"])
def test_other_eps_are_refused(bad):
    with pytest.raises(ValueError, match="eps"):
        parse_eps(bad)


def test_grey_levels_are_no_eps():
    for eps in (8, "8"):
        with pytest.raises(ValueError, match="8 grey levels are 8/255"):
            ThreatModel("linf", eps)
    with pytest.raises(ValueError, match=r"a linf eps of 1\.001 would allow everything"):
        ThreatModel("linf", 1.001)
    assert ThreatModel("linf", 1).eps == 1
    assert ThreatModel("l2", 8).eps == 8
    assert ThreatModel("linf", 0.5).scaled(3).eps == 1.5, "where APGD begins"


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="linf"):
        ThreatModel("l0", 0.1)


def test_text_names_the_fraction():
    assert str(ThreatModel("linf", "8/255")) == "linf 8/255"
    assert str(ThreatModel("l2", 0.5)) == "l2 0.5"
    assert str(ThreatModel("l2", 1.0)) == "l2 1"


@pytest.mark.parametrize("scale", [1e-30, 1e-14, 1.0, 1e20])
@pytest.mark.parametrize("norm", NORMS)
def test_ascent_direction_has_unit_size_whatever_the_gradients_scale(norm, scale):
    """Confident models have tiny gradients; the step must not shrink with them."""
    gradient = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    threat = ThreatModel(norm, 1.0)
    direction = threat.ascent_direction(gradient * scale)
    torch.testing.assert_close(direction, threat.ascent_direction(gradient))
    torch.testing.assert_close(threat.distance(torch.zeros_like(direction), direction), torch.ones(4))
    assert not bool(threat.ascent_direction(torch.zeros_like(gradient)).any())


@pytest.mark.parametrize("norm", NORMS)
@given(seed=st.integers(0, 10_000), eps=st.floats(1e-3, 2.0))
def test_projection_is_allowed_and_idempotent(norm, seed, eps):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(3, 3, 5, 4, generator=generator)
    wild = clean + torch.randn(3, 3, 5, 4, generator=generator)
    threat = ThreatModel(norm, eps / 2).scaled(2)
    once = threat.project(clean, wild)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 1
    assert float(threat.distance(clean, once).max()) <= eps * (1 + 1e-5) + 1e-6
    torch.testing.assert_close(threat.project(clean, once), once, atol=1e-6, rtol=0)


def test_l2_projection_leaves_interior_points_alone():
    """The original always rescaled to the sphere, so that the interior could not be reached."""
    clean = torch.full((1, 3, 2, 2), 0.5)
    inside = clean + 0.01
    torch.testing.assert_close(ThreatModel("l2", 1.0).project(clean, inside), inside)


@pytest.mark.parametrize("norm", NORMS)
def test_random_start_of_an_image_depends_on_seed_id_and_restart_only(norm):
    threat = ThreatModel(norm, 0.1)
    images = torch.rand(5, 3, 4, 4)
    ids = ["a", 1, "c", 7, "e"]
    together = random_starts(threat, images, ids, seed=3, restart=0)
    order = [4, 2, 0]
    apart = random_starts(threat, images[order], [ids[i] for i in order], seed=3, restart=0)
    assert torch.equal(together[order], apart)
    for other in ({"seed": 4, "restart": 0}, {"seed": 3, "restart": 1}):
        assert not torch.equal(together, random_starts(threat, images, ids, **other))


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_fill_the_ball(norm):
    """All of the ball is reached: no start on one side only, and radii up to the border."""
    threat = ThreatModel(norm, 0.1)
    images = torch.full((200, 1, 2, 2), 0.5)
    starts = random_starts(threat, images, range(200), seed=0, restart=0)
    delta = starts - images
    sizes = threat.distance(images, starts)
    assert float(sizes.max()) <= 0.1 * (1 + 1e-5)
    assert float(sizes.max()) > 0.09
    assert float(sizes.min()) < 0.08
    assert abs(float(delta.mean())) < 0.02


def test_content_ids_follow_the_pixels_not_the_position():
    images = torch.rand(4, 3, 4, 4)
    ids = content_ids(images)
    assert len(set(ids)) == 4
    assert content_ids(images[[2, 0]]) == [ids[2], ids[0]]
