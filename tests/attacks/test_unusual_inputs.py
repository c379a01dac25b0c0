"""Every attack on what callers really pass: few classes, other precisions, ties, nothing to attack, training mode."""

from __future__ import annotations

import functools
import multiprocessing

import pytest
import torch
from attack_networks import labelled_images, small_network
from torch import Tensor, nn

from partbox.attacks import APGD, FAB, PGD, Attack, AttackError, AutoAttack, FoolboxAttack, RayS, Square, ThreatModel


def ensemble(threat: ThreatModel, version: str) -> AutoAttack:
    """A version of AutoAttack with a budget for tests."""
    attack = AutoAttack(threat, version)
    for one in attack.attacks:
        if isinstance(one, Square):
            one.queries = 10
        else:
            one.steps, one.restarts = 3, min(one.restarts, 2)
        if isinstance(one, APGD) and one.average > 1:
            one.average = 2
    return attack


MAKERS = {
    "pgd": lambda threat: PGD(threat, 5, restarts=2),
    "apgd-ce": lambda threat: APGD(threat, 6),
    "apgd-dlr": lambda threat: APGD(threat, 6, "dlr", restarts=2),
    "apgd-t": lambda threat: APGD(threat, 5, "dlr-targeted"),
    "fab": lambda threat: FAB(threat, 5, restarts=2),
    "fab-t": lambda threat: FAB(threat, 5, targeted=True),
    "square": lambda threat: Square(threat, 20, restarts=2),
    "standard": lambda threat: ensemble(threat, "standard"),
    "plus": lambda threat: ensemble(threat, "plus"),
    "rand": lambda threat: ensemble(threat, "rand"),
    "rays": lambda threat: RayS(threat, 50),
    "hop-skip-jump": lambda threat: FoolboxAttack(
        threat, "HopSkipJumpAttack", {"steps": 1, "initial_gradient_eval_steps": 8}
    ),
    "boundary": lambda threat: FoolboxAttack(threat, "BoundaryAttack", {"steps": 25}),
}
NORMS = {"linf": 0.02, "l2": 0.2, "l1": 2.0}
ONLY = {"rays": ["linf"], "boundary": ["l2"], "hop-skip-jump": ["linf"]}
ENSEMBLES = ("standard", "plus", "rand")
CASES = [
    *[(name, norm) for name in MAKERS if name not in ENSEMBLES for norm in ONLY.get(name, ["linf", "l2"])],
    ("apgd-ce", "l1"),
]
each_attack = pytest.mark.parametrize(("name", "norm"), CASES)
EVERY = [*CASES, *[(name, norm) for name in ENSEMBLES for norm in ("linf", "l2")], ("apgd-t", "l1"), ("apgd-dlr", "l1")]
# what is refused is refused in any norm
each_name = pytest.mark.parametrize(("name", "norm"), list({name: (name, norm) for name, norm in CASES}.values()))


def attack_of(name: str, norm: str, eps: float | None = None) -> Attack:
    eps = NORMS[norm] * (10 if name in ("rays", "hop-skip-jump", "boundary") else 1) if eps is None else eps
    return MAKERS[name](ThreatModel(norm, eps))


def assert_true(attack: Attack, model, images: Tensor, labels: Tensor, result) -> None:
    """What is claimed is so: a fresh pass gives the verdicts, and nothing lies outside of what is allowed."""
    with torch.no_grad():
        fresh = model(result.images).argmax(dim=1) != labels
    assert torch.equal(fresh, result.fooled)
    assert float(attack.threat.distance(images, result.images).max()) <= attack.threat.eps * (1 + 1e-5) + 1e-6
    assert 0 <= float(result.images.min()) <= float(result.images.max()) <= 1
    assert result.images.dtype == images.dtype
    assert len(result.fooled_by) == len(images)
    assert [bool(one) for one in result.fooled_by] == result.fooled.tolist()


@each_attack
@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(name, norm, classes):
    model = small_network(1, classes)
    images, labels = labelled_images(model, 8)
    labels[3] = (labels[3] + 1) % classes
    attack = attack_of(name, norm)
    result = attack(model, images, labels, image_ids=range(8))
    assert_true(attack, model, images, labels, result)
    assert int(result.queries[3]) == 1
    assert torch.equal(result.images[3], images[3])


@pytest.mark.parametrize(
    ("name", "norm"), [*CASES, *[pytest.param(*one, marks=pytest.mark.slow) for one in EVERY if one not in CASES]]
)
def test_the_same_verdict_in_any_batch(name, norm):
    model = small_network(2)
    images, labels = labelled_images(model, 16)
    attack = attack_of(name, norm)
    whole = attack(model, images, labels, image_ids=range(16), seed=7)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    for size, some in ((1, order[:3]), (7, order)):
        for rows in some.split(size):
            part = attack(model, images[rows], labels[rows], image_ids=rows.tolist(), seed=7)
            assert torch.equal(part.fooled, whole.fooled[rows])
            assert torch.equal(part.queries, whole.queries[rows])


@each_name
def test_an_empty_batch_and_one_that_is_wrong_already(name, norm):
    model = small_network()
    images, labels = labelled_images(model, 5)
    attack = attack_of(name, norm)
    nothing = attack(model, images[:0], labels[:0], image_ids=[])
    assert [len(one) for one in (nothing.images, nothing.fooled, nothing.queries, nothing.fooled_by)] == [0] * 4
    wrong = attack(model, images, (labels + 1) % 4)
    assert bool(wrong.fooled.all())
    assert wrong.queries.tolist() == [1] * 5
    assert wrong.fooled_by == ("clean",) * 5
    assert torch.equal(wrong.images, images)


@each_attack
@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_no_budget_and_more_than_the_image_has(name, norm, eps):
    model = small_network()
    images, labels = labelled_images(model, 3)
    attack = attack_of(name, norm, eps)
    result = attack(model, images, labels)
    assert_true(attack, model, images, labels, result)
    if eps == 0:
        assert not bool(result.fooled.any())
    elif norm == "linf" and name not in ("rays", "square", "fab", "fab-t", "hop-skip-jump"):
        assert bool(result.fooled.all())


@each_attack
@pytest.mark.parametrize("form", ["double", "bfloat16", "strided", "double images", "int32 labels"])
def test_other_precisions_and_layouts(name, norm, form):
    model = small_network()
    images, _ = labelled_images(model, 4)

    def predict(batch: Tensor) -> Tensor:
        if form == "double":
            return model.double()(batch.double())
        if form == "bfloat16":
            return model(batch).bfloat16()
        if form == "strided":
            return torch.stack([model(batch)] * 2, dim=2).flatten(1)[:, ::2]
        return model(batch)

    if form == "double images":
        model, images = model.double(), images.double()
    right = predict(images).argmax(dim=1)
    attack = attack_of(name, norm, 3 * NORMS[norm])
    result = attack(predict, images, right.int() if form == "int32 labels" else right)
    assert_true(attack, predict, images, right, result)
    if name not in ("rays", "hop-skip-jump", "boundary", "square"):
        assert int(result.fooled.sum()) > 0


@each_name
def test_logits_that_only_double_precision_tells_apart(name, norm):
    """Rounded to single precision both logits are equal, and the first class would win."""
    model = small_network()
    images, labels = labelled_images(model, 2)
    right = torch.ones_like(labels)

    def sure(batch: Tensor) -> Tensor:
        value = 1e9 + batch.double().flatten(1).mean(dim=1)
        return torch.stack([value, value + 1], dim=1)

    result = attack_of(name, norm)(sure, images, right)
    assert not bool(result.fooled.any())
    assert torch.equal(sure(result.images).argmax(dim=1), right)


@each_name
def test_equal_logits_are_what_argmax_makes_of_them(name, norm):
    def torn(batch: Tensor) -> Tensor:
        value = batch.flatten(1).mean(dim=1)
        return torch.stack([value, value, value - 1], dim=1)

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    attack = attack_of(name, norm)
    for label in (0, 1):
        result = attack(torn, images, torch.full((2,), label))
        assert result.fooled.tolist() == [label == 1] * 2


@each_name
@pytest.mark.parametrize(
    ("predict", "labels", "words"),
    [
        (lambda x: x.flatten(1)[:, :1], 0, "one logit"),
        (lambda x: x.flatten(1)[:, :3] * float("nan"), 0, "not finite"),
        (lambda x: x.flatten(1)[:, :3] / 0, 0, "not finite"),
        (lambda x: x.flatten(1)[:, :3], 3, r"\[0, 3\)"),
        (lambda x: x.flatten(1)[:, :3], -1, r"\[0, 3\)"),
        (lambda x: (x.flatten(1)[:, :3],), 0, "must return logits"),
        (lambda x: x, 0, "must return logits"),
        (lambda x: x.sub_(0.1).flatten(1)[:, :3], 0, "in place"),
    ],
)
def test_answers_that_mean_nothing_are_refused(name, norm, predict, labels, words):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AttackError, match=words):
        attack_of(name, norm)(predict, images, torch.full((2,), labels))


class Regularised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop, self.rest = nn.BatchNorm2d(3), nn.Dropout(0.5), small_network()

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.drop(self.norm(images)))


@each_name
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: model.forward])
def test_a_model_in_training_mode_is_refused_before_it_changes(name, norm, wrap):
    model = Regularised().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.rand(2, 3, 8, 8)
    with pytest.raises(AttackError, match=r"training mode \(norm\).*eval\(\)"):
        attack_of(name, norm)(wrap(model), images, torch.zeros(2, dtype=torch.int64))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


def test_active_dropout_is_noted():
    model = Regularised().eval()
    images = torch.rand(2, 3, 8, 8)
    labels = model(images).argmax(dim=1)
    attack = PGD(ThreatModel("linf", 0.001), 1)
    assert attack(model, images, labels).notes == ()
    model.drop.train()
    assert "at random" in attack(model, images, labels).notes[0]


def test_inference_mode_is_refused_and_its_tensors_are_not():
    model = small_network()
    with torch.inference_mode():
        images, labels = labelled_images(model, 4)
        with pytest.raises(AttackError, match="inference_mode"):
            PGD(ThreatModel("linf", 0.1))(model, images, labels)
    labels = labels.clone()
    assert bool(PGD(ThreatModel("linf", 0.3))(model, images, labels).fooled.all())
    with torch.no_grad():
        assert bool(PGD(ThreatModel("linf", 0.3))(model, images, labels).fooled.all())


@each_name
def test_ids_may_be_numbers_or_words_and_repeat_and_seeds_may_be_large(name, norm):
    model = small_network()
    images, labels = labelled_images(model, 4)
    attack = attack_of(name, norm)
    run = functools.partial(attack, model, images, labels)
    first = run(image_ids=[1, 2, 3, 3], seed=2**80)
    assert torch.equal(run(image_ids=["1", "2", "3", "3"], seed=2**80).images, first.images)
    assert torch.equal(run(image_ids=torch.tensor([1, 2, 3, 3]), seed=2**80).images, first.images)
    pair = attack(model, images[[0, 0]], labels[[0, 0]], image_ids=["a", "a"], seed=-5)
    assert torch.equal(pair.images[0], pair.images[1])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", [PGD, APGD])
def test_a_saturated_mean_is_climbed_by_its_margin(attack, norm):
    """The gradient of a mean is one number for all pixels, in shared memory, and zero where the loss underflows."""

    def sure(batch: Tensor) -> Tensor:
        value = (batch.flatten(1).mean(dim=1) - 0.5) * 1e6
        return torch.stack([value, torch.zeros_like(value)], dim=1)

    images = torch.full((3, 3, 4, 4), 0.52)
    result = attack(ThreatModel(norm, 0.05 if norm == "linf" else 0.5), 10)(sure, images, torch.zeros(3).long())
    assert bool(result.fooled.all())


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_between_classes_that_never_differ(norm, targeted):
    """Two classes with the same logits have no boundary between them, and no gradient of their difference."""
    model = small_network(classes=3)
    images, labels = labelled_images(model, 8)
    twin = lambda batch: torch.cat([model(batch), model(batch)], dim=1)  # noqa: E731
    result = FAB(ThreatModel(norm, NORMS[norm] * 2), 10, targeted=targeted)(twin, images, labels)
    assert bool(torch.isfinite(result.images).all())
    assert torch.equal(twin(result.images).argmax(dim=1) != labels, result.fooled)
    nothing = FAB(ThreatModel(norm, 1.0), 3, targeted=targeted).nearest(model, images[:0], labels[:0])
    assert [len(one) for one in nothing] == [0, 0]
    wrong = FAB(ThreatModel(norm, 1.0), 3, targeted=targeted).nearest(model, images, (labels + 1) % 3)
    assert bool((wrong[1] == 0).all())


@pytest.mark.parametrize("attack", [PGD, FAB, Square, AutoAttack, RayS, FoolboxAttack])
def test_l1_is_for_apgd(attack):
    with pytest.raises(ValueError, match="l1"):
        attack(ThreatModel("l1", 1.0))


def verdicts(rows: list[int]) -> dict[tuple[str, str, int], tuple[bool, int]]:
    """Verdict and queries of some of the same 16 images under every attack, in batches of 8."""
    torch.set_num_threads(1)
    model = small_network(2)
    images, labels = labelled_images(model, 16)
    found = {}
    for name, norm in EVERY:
        for part in torch.tensor(rows).split(8):
            result = attack_of(name, norm)(model, images[part], labels[part], image_ids=part.tolist(), seed=7)
            for row, fooled, queries in zip(part.tolist(), result.fooled, result.queries, strict=True):
                found[name, norm, row] = bool(fooled), int(queries)
    return found


@pytest.mark.slow
def test_two_processes_give_the_verdicts_of_one_under_every_attack():
    rows = list(range(0, 16, 2)), list(range(1, 16, 2))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = [pool.apply_async(verdicts, (half,)) for half in rows]
        together = parts[0].get(300) | parts[1].get(300)
    assert together == verdicts(list(range(16)))
    assert len({case[:2] for case, (fooled, _) in together.items() if fooled}) > 20
