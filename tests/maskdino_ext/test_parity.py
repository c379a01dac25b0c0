"""The same numbers as the official code, wherever the reference runs are there; and a comparison that can fail."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from maskdino_ext.parity import Comparison, compare_keys, runs_of
from maskdino_ext.parity.comparison import largest_difference
from maskdino_ext.parity.edges import Edges, compare_across_edges

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("PARTBOX_SHARED", REPOSITORY.parent / "shared")) / "fixtures/maskdino"
RUNS = dict(runs_of(FOLDER)) if FOLDER.is_dir() else {}
NEEDED = {
    "eval": ("final/0/boxes", "final/1/scores", "out/1/pred_boxes", "decoder/references/3"),
    "dnoff": ("weighted_total", "loss/loss_giou", "match/final/0/src", "match/aux_1/1/tgt"),
    "dnon": ("weighted_total", "loss/loss_bbox_dn", "dn/attn_mask", "dn_out/1/pred_boxes"),
}


@pytest.mark.skipif(not RUNS, reason=f"needs the reference runs, which are not at {FOLDER} (set PARTBOX_SHARED)")
def test_all_kinds_of_runs_are_found():
    kinds = {name.rsplit("_", 1)[1] for name in RUNS}
    assert {"eval", "dnoff", "dnon", "dec256", "ref2", "ref4"} <= kinds


@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_the_official_code_is_reproduced(name):
    comparison = RUNS[name]()
    assert comparison.failures == [], comparison.by_quantity()
    kind = name.rsplit("_", 1)[1]
    wanted = [one for one in NEEDED.get(kind, ()) if one in comparison.stored]
    assert wanted or kind not in NEEDED
    assert set(wanted) <= set(comparison.differences)
    assert comparison.uncompared() == []
    # crossing an edge is for one value in a hundred thousand
    assert len(comparison.notes) <= 1


@pytest.mark.parametrize("file", ["maskdino_r50_state_dict.json", "dino_4scale_r50_state_dict.json"])
def test_official_names_and_shapes_are_ours(file):
    if not (FOLDER / file).exists():
        pytest.skip(f"needs {file}, which is not at {FOLDER} (set PARTBOX_SHARED)")
    document = json.loads((FOLDER / file).read_text())
    found = list(compare_keys(document))
    assert len(found) == (8 if "configs" in document else 1)
    for one in found:
        assert one.none, one
        assert one.count > 600
    entry = next(iter(document["configs"].values())) if "configs" in document else document
    some = next(iter(entry["shapes"]))
    entry["shapes"][some] = [1, 2, 3]
    entry["shapes"]["another.weight"] = [4]
    changed = next(iter(compare_keys(document)))
    assert (changed.shapes, changed.unexpected, changed.missing) == ([some], ["another.weight"], [])
    assert not changed.none


def script():
    """tools/check_parity.py as a module."""
    spec = importlib.util.spec_from_file_location("check_parity_script", REPOSITORY / "tools/check_parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not RUNS, reason="needs the reference runs (set PARTBOX_SHARED)")
def test_the_tool_fails_when_a_number_or_a_name_is_another(tmp_path, monkeypatch, capsys):
    for file in ("dino_A_twostage.json", "dino_A_inputs.pt", "dino_A_twostage_model.pt", "dino_A_twostage_eval.pt"):
        shutil.copyfile(FOLDER / file, tmp_path / file)
    monkeypatch.setattr(sys, "argv", ["check_parity.py", str(tmp_path)])
    assert script().main() == 0
    assert "Everything agrees." in capsys.readouterr().out
    stored = torch.load(tmp_path / "dino_A_twostage_eval.pt", weights_only=True)
    stored["out/1/pred_boxes"][0, 3, 2] += 2e-4
    torch.save(stored, tmp_path / "dino_A_twostage_eval.pt")
    assert script().main() == 1
    printed = capsys.readouterr().out
    assert "BEYOND" in printed
    assert "out/1/pred_boxes: 2.0" in printed
    stored["out/1/pred_boxes"][0, 3, 2] -= 2e-4
    stored["out/2/pred_masks"] = torch.zeros(2, 20, 4, 4)
    torch.save(stored, tmp_path / "dino_A_twostage_eval.pt")
    assert script().main() == 1
    assert "NOT COMPARED, 1 stored results: out/2/pred_masks" in capsys.readouterr().out
    del stored["out/2/pred_masks"]
    kept = stored.pop("final/0/scores")
    torch.save(stored, tmp_path / "dino_A_twostage_eval.pt")
    assert script().main() == 1
    assert "final/0: scores of the detections are not stored" in capsys.readouterr().out
    torch.save({**stored, "final/0/scores": kept}, tmp_path / "dino_A_twostage_eval.pt")
    assert script().main() == 0
    document = json.loads((tmp_path / "dino_A_twostage.json").read_text())
    document["cfg"]["dec_pred_bbox_embed_share"] = False
    (tmp_path / "dino_A_twostage.json").write_text(json.dumps(document))
    assert script().main() == 1
    assert "only True exists here" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["check_parity.py", str(tmp_path), "--only", "nothing"])
    assert script().main() == 1


@pytest.mark.skipif(not RUNS, reason="needs the reference runs (set PARTBOX_SHARED)")
def test_one_strange_run_does_not_hide_the_others(tmp_path, monkeypatch, capsys):
    """Weights of something unknown, a file that belongs to nothing, a run without results: each is named, and fails."""
    for file in ("dino_A_twostage.json", "dino_A_inputs.pt", "dino_A_twostage_model.pt", "dino_A_twostage_eval.pt"):
        shutil.copyfile(FOLDER / file, tmp_path / file)
    document = json.loads((tmp_path / "dino_A_twostage.json").read_text())
    del document["train"]  # evaluation only
    (tmp_path / "dino_A_twostage.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["check_parity.py", str(tmp_path)])
    assert script().main() == 0
    (tmp_path / "another.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    for name in ("another_model", "dino_A_twostage_train_dnstandard", "dino_A_empty_model"):
        torch.save({}, tmp_path / f"{name}.pt")
    shutil.copyfile(tmp_path / "dino_A_twostage.json", tmp_path / "dino_A_empty.json")
    capsys.readouterr()
    assert script().main() == 1
    printed = capsys.readouterr().out
    assert "another.json describes no run that is known here" in printed
    assert "broken.json cannot be read" in printed
    assert "dino_A_twostage_train_dnstandard.pt belongs to no run" in printed
    assert "dino_A_empty_eval: FileNotFoundError" in printed or "dino_A_empty_eval.pt" in printed
    assert "dino_A_twostage_eval: " in printed
    assert "BEYOND" not in printed


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no reference run"):
        list(runs_of(tmp_path))


def test_differences_of_shape_and_of_infinities_are_differences():
    inf = torch.tensor([torch.inf, 1.0])
    assert largest_difference(inf, inf) == 0
    assert largest_difference(inf, -inf) == float("inf")
    assert largest_difference(torch.tensor([torch.nan]), torch.tensor([1.0])) == float("inf")
    assert largest_difference(torch.zeros(2), torch.zeros(1, 2)) == float("inf")
    assert largest_difference(torch.tensor([10.0]), torch.tensor([8.0]), relative=True) == 0.25
    comparison = Comparison("x", {"loss/a": torch.tensor(1.0), "out/0/boxes": torch.tensor(1.0)})
    comparison.compare("loss/a", torch.tensor(1.0009))
    comparison.compare("out/0/boxes", torch.tensor(1.0009))
    comparison.compare("unknown", torch.tensor(1.0))
    assert comparison.failures == ["out/0/boxes"]


def test_a_gradient_at_an_edge_is_compared_on_both_sides():
    """Two units whose inputs are at 1e-8: the reference has rounded one of them below zero."""
    start = torch.tensor([1e-8, 1e-8, 1.0, -1.0])

    def gradient(shift: float) -> torch.Tensor:
        x = (start + torch.tensor([0.0, shift, 0.0, 0.0])).requires_grad_(True)
        (torch.relu(x) * torch.tensor([2.0, 3.0, 4.0, 5.0])).sum().backward()
        return x.grad

    reference = gradient(-2e-8)

    def run() -> Comparison:
        comparison = Comparison("x", {"grad/x": reference})
        comparison.compare("grad/x", gradient(0.0))
        return comparison

    assert run().failures == ["grad/x"]
    crossed = compare_across_edges(run)
    assert crossed.failures == []
    assert len(crossed.notes) == 1

    def wrong() -> Comparison:
        comparison = Comparison("x", {"grad/x": reference + torch.tensor([0.0, 0.0, 0.5, 0.0])})
        comparison.compare("grad/x", gradient(0.0))
        return comparison

    assert compare_across_edges(wrong).failures == ["grad/x"]  # a real difference stays one
    with Edges() as edges:
        gradient(0.0)
    assert [edge.place for edge in edges.found] == [0, 1]
