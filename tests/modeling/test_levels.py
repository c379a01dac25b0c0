"""Part levels: which mask channel a part belongs to, and the groups of parts of one name."""

from __future__ import annotations

import pytest
import torch
from small_models import MODELS, small_config

from partbox.data.mapper import PartDatasetMapper
from partbox.engine.build import build_classifier
from partbox.engine.checkpoint import CheckpointError, check_names, save_weights
from partbox.engine.checks import ConfigError
from partbox.modeling.levels import LevelMap, channels_to_class, part_level, plain_name

CLASSES = ("cat", "dog", "bird")
PARTS = ("cat:head", "cat:leg", "dog:head", "dog:paw", "bird:wing")
OWNERS = (0, 0, 1, 1, 2)
LIMBS = [
    {"name": "limb", "parts": ["leg", "dog:paw", "wing"]},
    {"name": "top", "parts": ["head"]},
]


def level(name: str, groups=()):
    return part_level(name, CLASSES, PARTS, OWNERS, groups)


@pytest.mark.parametrize(
    ("name", "groups", "channels", "found"),
    [
        ("part", (), PARTS, [0, 1, 2, 3, 4, 5, -1]),
        ("object", (), CLASSES, [0, 1, 1, 2, 2, 3, -1]),
        ("fg", (), ("foreground",), [0, 1, 1, 1, 1, 1, -1]),
        ("group", (), ("head", "leg", "paw", "wing"), [0, 1, 2, 1, 3, 4, -1]),
        ("group", LIMBS, ("limb", "top"), [0, 2, 1, 2, 1, 1, -1]),
    ],
)
def test_levels_merge_parts(name, groups, channels, found):
    one = level(name, groups)
    assert one.channels == channels
    assert LevelMap(one)(torch.tensor([[0, 1, 2, 3, 4, 5, -1]])).tolist() == [found]


@pytest.mark.parametrize(
    ("part", "owner", "plain"),
    [
        ("cat:head", "cat", "head"),
        ("Bird:Bird Head", "Bird", "head"),  # PartImageNet
        ("Car:Car Side Mirror", "Car", "side mirror"),
        ("trash_can:trash_can:lid", "trash_can", "trash_can:lid"),
        ("car:carriage", "car", "carriage"),
        ("car:car", "car", "car"),
    ],
)
def test_the_class_is_taken_off_a_part_name(part, owner, plain):
    assert plain_name(part, owner) == plain


def test_the_votes_of_groups():
    assert channels_to_class(level("part"), OWNERS, 3).argmax(dim=1).tolist() == list(OWNERS)
    assert torch.equal(channels_to_class(level("object"), OWNERS, 3), torch.eye(3))
    with pytest.raises(ValueError, match=r"'head' \(1 of 4 groups\) has parts of several classes"):
        channels_to_class(level("group"), OWNERS, 3)
    shared = channels_to_class(level("group"), OWNERS, 3, shared=True)
    assert shared.tolist() == [[0.5, 0.5, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]
    # two parts of one class in a group: still one vote
    own = [{"name": "mammal", "parts": ["cat:head", "cat:leg"]}, {"name": "rest", "parts": ["dog:head", "paw", "wing"]}]
    assert channels_to_class(level("group", own), OWNERS, 3, shared=True).tolist() == [[1, 0, 0], [0, 0.5, 0.5]]
    with pytest.raises(ValueError, match="no mask belongs to a class"):
        channels_to_class(level("fg"), OWNERS, 3, shared=True)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (LIMBS[:1], "2 parts are in no group, the first is cat:head"),
        ([*LIMBS, {"name": "extra", "parts": ["cat:head"]}], "cat:head is in 'top' and in 'extra'"),
        ([*LIMBS, {"name": "limb", "parts": ["cat:tail"]}], "two groups are called 'limb'"),
        ([*LIMBS, {"name": "extra", "parts": ["tail"]}], "names 'tail', and no part is called so"),
        ([*LIMBS, {"name": "extra", "parts": []}], "has no parts"),
        ([*LIMBS, {"name": "extra"}], "a group is"),
        ([*LIMBS, {"name": "extra", "parts": "head"}], "a group is"),
        ([*LIMBS, ["head"]], "a group is"),
    ],
)
def test_groups_hold_every_part_once(groups, words):
    with pytest.raises(ValueError, match=words):
        level("group", groups)


def test_groups_of_the_example_data(example_dataset):
    """40 parts of 11 classes have 15 names, and evaluation and loss work in them."""
    cfg = small_config(example_dataset, *MODELS["part_box_group"], "MODEL.PART.EXTRACTOR.NAME", "oracle")
    model = build_classifier(cfg).eval()
    names = {part.split(":")[1].split(" ", 1)[1].lower() for part in model.part_names}
    assert set(model.channel_names) == names
    assert len(names) < len(model.part_names) / 2
    mapper = PartDatasetMapper.from_config(cfg, is_train=False)
    batch = [mapper(record) for record in example_dataset.records[:8]]
    for prediction, sample in zip(model(batch), batch, strict=True):
        found = prediction["part_probabilities"].argmax(dim=0)
        for part in sample["part_map"].unique().tolist():
            (channel,) = found[sample["part_map"] == part].unique().tolist()
            plain = "background" if part == 0 else model.part_names[part - 1].split(" ", 1)[1].lower()
            assert ("background", *model.channel_names)[channel] == plain


def test_learned_votes_of_groups_start_alike(example_dataset):
    options = [*MODELS["part_to_class_learned"], "MODEL.PART.EXTRACTOR.LEVEL", "group"]
    matrix = build_classifier(small_config(example_dataset, *options)).head.matrix
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(len(matrix)))
    assert float(matrix.max(dim=1).values.min()) < 0.5, "the head belongs to many classes"


def test_weights_of_another_grouping_are_refused(example_dataset):
    """As many groups of other names would load, and call a mask by another's name."""
    plain = build_classifier(small_config(example_dataset, *MODELS["part_box_group"]))
    names = list(plain.channel_names)
    own = [{"name": f"{name}s", "parts": [name]} for name in names]
    options = [*MODELS["part_box_group"], "MODEL.PART.EXTRACTOR.GROUPS", str(own)]
    other = build_classifier(small_config(example_dataset, *options))
    assert other.channel_names == tuple(f"{name}s" for name in names)
    check_names(other, {"channel_names": list(other.channel_names)}, "weights")
    with pytest.raises(CheckpointError, match="other channel names"):
        check_names(other, {"channel_names": names}, "weights")
    with pytest.raises(ConfigError, match="parts are in no group"):
        build_classifier(small_config(example_dataset, *options[:-1], str(own[1:])))


def test_weights_of_groups_with_other_members_are_refused(example_dataset, tmp_path):
    """Groups of the same names in the same order fit to the last tensor, and mean other parts."""
    plain = build_classifier(small_config(example_dataset, *MODELS["part_box_group"]))
    first, second, *rest = plain.channel_names

    def grouped(*members: list[str]) -> list[str]:
        groups = [{"name": f"group {i}", "parts": parts} for i, parts in enumerate(members)]
        return [*MODELS["part_box_group"], "MODEL.PART.EXTRACTOR.GROUPS", str(groups)]

    path = tmp_path / "weights.pth"
    save_weights(path, build_classifier(small_config(example_dataset, *grouped([first, second], rest))))
    build_classifier(small_config(example_dataset, *grouped([first, second], rest)), str(path))
    with pytest.raises(CheckpointError, match="other channel of part"):
        build_classifier(small_config(example_dataset, *grouped([first], [second, *rest])), str(path))
