"""Square: schedule and shapes of the reference, and squares that each image draws for itself."""

from __future__ import annotations

import pytest
import torch
from attack_networks import NORMS, arrays, labelled_images, small_network

from partbox.attacks import Square, ThreatModel
from partbox.attacks.objectives import margin
from partbox.attacks.square import _bump


@pytest.mark.parametrize("stretch", [False, True])
def test_schedule_equals_the_reference(shared, stretch):
    stored = arrays(shared / "fixtures" / "attacks" / "trace_square.npz")
    attack = Square(ThreatModel("linf", 0.1), stretch_schedule=stretch)
    shares = [attack.area_share(int(query)) for query in stored["p_iter"]]
    assert shares == stored[f"p_resc_{stretch}"].tolist()


@pytest.mark.parametrize("side", [3, 4, 5, 7, 11])
def test_bumps_equal_those_of_the_official_code(side):
    official = pytest.importorskip("pyautoattack.square").SquareAttack(lambda x: x, norm="L2", eps=0.5, device="cpu")
    torch.manual_seed(0)
    shapes = [official.eta(side) for _ in range(20)]  # turned or not, at random
    for ours in (_bump(side), _bump(side).T):
        assert any(torch.allclose(ours, shape, atol=1e-6) for shape in shapes)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_results_stay_in_the_ball_and_fool_the_model_without_gradients(norm):
    model = small_network()
    images, labels = labelled_images(model)
    threat = ThreatModel(norm, 0.05 if norm == "linf" else 0.5)
    with torch.no_grad():
        result = Square(threat, 200)(lambda batch: model(batch.round(decimals=2)), images, labels)
    assert 4 < int(result.fooled.sum()) < len(images)
    assert torch.equal(model(result.images.round(decimals=2)).argmax(1) != labels, result.fooled)
    assert float(threat.distance(images, result.images).max()) <= threat.eps * (1 + 1e-5)
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert set(result.queries[~result.fooled].tolist()) == {202}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_margin_of_robust_images_rises(norm):
    model = small_network()
    images, labels = labelled_images(model)
    threat = ThreatModel(norm, 0.01 if norm == "linf" else 0.1)
    short, long = (Square(threat, queries)(model, images, labels) for queries in (5, 300))
    robust = ~long.fooled
    assert bool((long.loss[robust] >= short.loss[robust] - 1e-6).all())
    assert float((long.loss - short.loss)[robust].mean()) > 0


def test_images_have_squares_of_their_own():
    """Two equal images under different ids see different squares; under one id the same."""
    model = small_network()
    images, labels = labelled_images(model, 1)
    pair, both = images.repeat(2, 1, 1, 1), labels.repeat(2)
    attack = Square(ThreatModel("linf", 0.01), 30)
    apart = attack(model, pair, both, image_ids=["a", "b"])
    same = attack(model, pair, both, image_ids=["a", "a"])
    assert not torch.equal(apart.images[0], apart.images[1])
    assert torch.equal(same.images[0], same.images[1])
    assert torch.equal(same.images[0], apart.images[0])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_search_climbs_as_the_official_code_does(norm):
    """Robust images' margins after 300 queries, three seeds: accepting the wrong squares leaves them far behind."""
    official = pytest.importorskip("pyautoattack.square")
    model = small_network()
    images, labels = labelled_images(model)
    eps = 0.005 if norm == "linf" else 0.05
    clean = margin(model(images), labels)
    gains: dict[str, list[float]] = {"ours": [], "official": []}
    for seed in range(3):
        found = Square(ThreatModel(norm, eps), 300)(model, images, labels, image_ids=range(len(images)), seed=seed)
        peer = official.SquareAttack(model, norm=NORMS[norm], eps=eps, device="cpu", n_queries=300, seed=seed)
        peer.rescale_schedule = False
        peer.init_hyperparam(images)
        torch.manual_seed(seed)
        _, reached = peer.attack_single_run(images, labels)
        gains["ours"].append(float((found.loss - clean)[~found.fooled].mean()))
        gains["official"].append(float((margin(model(reached), labels) - clean)[~found.fooled].mean()))
    ours, theirs = sum(gains["ours"]), sum(gains["official"])
    assert theirs > 0
    assert 0.93 * theirs < ours < 1.07 * theirs, gains


@pytest.mark.parametrize("options", [{"queries": 0}, {"restarts": 0}, {"first_share": 0.0}, {"first_share": 1.5}])
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="Square"):
        Square(ThreatModel("linf", 0.1), **options)
