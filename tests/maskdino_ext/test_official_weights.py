"""Published checkpoints: read safely, renamed and reordered without changing what the network computes."""

from __future__ import annotations

import argparse
import importlib.util
import sys

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling.backbone import build_resnet_backbone
from small_detectors import REPOSITORY
from torch import nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from maskdino_ext.official_weights import (
    COCO_IDS,
    OfficialWeightsError,
    kind_of,
    read_official,
    resnet_backbone,
    with_coco_classes,
)
from maskdino_ext.torchvision_backbone import build_torchvision_resnet_backbone


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A ResNet-50 whose normalisation does something."""
    torch.manual_seed(0)
    model = resnet50(weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    return model.eval()


@pytest.mark.parametrize("names", ["detectron2", "dino"])
def test_a_resnet_computes_the_same_under_other_names(network, names):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res5"]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    build = build_resnet_backbone if names == "detectron2" else build_torchvision_resnet_backbone
    from detectron2.layers import ShapeSpec

    backbone = build(cfg, ShapeSpec(channels=3)).eval()
    state = resnet_backbone(network.state_dict(), names)
    backbone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in state.items()}, strict=True)
    images = torch.randn(1, 3, 64, 64)
    wanted = IntermediateLayerGetter(network, {"layer2": "res3", "layer4": "res5"})(images)
    found = backbone(images)
    for name, feature in wanted.items():
        assert (found[name] - feature).abs().max() < 1e-4 * feature.abs().max()


def official_dino() -> dict[str, torch.Tensor]:
    """Tensors of the kind that depend on the classes, with their category id in each entry, and two others."""
    ids = torch.arange(91.0)
    return {
        "backbone.0.body.conv1.weight": torch.randn(4, 3, 7, 7),
        "transformer.enc_out_class_embed.weight": ids[:, None].repeat(1, 8),
        "transformer.enc_out_class_embed.bias": ids.clone(),
        "class_embed.5.bias": ids.clone(),
        "label_enc.weight": torch.arange(92.0)[:, None].repeat(1, 8),
        "transformer.level_embed": torch.randn(4, 8),
    }


def test_category_ids_become_classes():
    assert len(COCO_IDS) == 80
    assert (COCO_IDS[0], COCO_IDS[11], COCO_IDS[79]) == (1, 13, 90)  # person, stop sign (12 is not used), toothbrush
    state = official_dino()
    changed = with_coco_classes(state)
    assert changed["class_embed.5.bias"].tolist() == COCO_IDS
    assert changed["transformer.enc_out_class_embed.weight"].shape == (80, 8)
    assert changed["label_enc.weight"][:, 0].tolist() == [*COCO_IDS, 91]
    for name in ("backbone.0.body.conv1.weight", "transformer.level_embed"):
        assert changed[name] is state[name]
    with pytest.raises(OfficialWeightsError, match="80 rows"):
        with_coco_classes(changed)


def run_tool(monkeypatch, *arguments):
    spec = importlib.util.spec_from_file_location("convert_weights_script", REPOSITORY / "tools/convert_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["convert_weights.py", *map(str, arguments)])
    module.main()


def test_a_checkpoint_with_settings_beside_the_weights(monkeypatch, tmp_path, capsys):
    source = tmp_path / "checkpoint.pth"
    torch.save(
        {"model": official_dino(), "epoch": 11, "args": argparse.Namespace(lr=1e-4, backbone="resnet50")}, source
    )
    run_tool(monkeypatch, source, tmp_path / "converted.pth")
    assert "6 tensors of a dino" in capsys.readouterr().out
    stored = torch.load(tmp_path / "converted.pth", weights_only=True)["model"]
    assert stored["class_embed.5.bias"].tolist() == COCO_IDS
    run_tool(monkeypatch, source, tmp_path / "kept.pth", "--keep-category-ids")
    assert len(torch.load(tmp_path / "kept.pth", weights_only=True)["model"]["class_embed.5.bias"]) == 91


class Foreign:
    """Something that must not be unpickled."""


def test_what_is_no_published_checkpoint_is_refused(monkeypatch, tmp_path, network):
    with pytest.raises(OfficialWeightsError, match="does not exist"):
        read_official(tmp_path / "nothing.pth")
    torch.save({"model": official_dino(), "code": Foreign()}, tmp_path / "foreign.pth")
    with pytest.raises(OfficialWeightsError, match="cannot be read"):
        read_official(tmp_path / "foreign.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(OfficialWeightsError, match="holds no weights"):
        read_official(tmp_path / "empty.pth")
    with pytest.raises(OfficialWeightsError, match="unknown model"):
        kind_of({"features.0.weight": torch.zeros(1)})
    with pytest.raises(OfficialWeightsError, match="detectron2 or dino"):
        resnet_backbone({}, "timm")
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    target = tmp_path / "out.pth"
    with pytest.raises(OfficialWeightsError, match="needed there"):
        run_tool(monkeypatch, tmp_path / "resnet.pth", target)
    with pytest.raises(OfficialWeightsError, match="is for DINO"):
        run_tool(monkeypatch, tmp_path / "resnet.pth", target, "--backbone-names", "dino", "--keep-category-ids")
    assert not target.exists()
