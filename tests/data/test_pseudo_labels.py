"""What predicted labels count: in training, in budgets, in cost; and that no evaluation takes them for the truth."""

from __future__ import annotations

import pytest
from small_models import small_config

from partbox.data.label_budget import LabelBudget, label_cost
from partbox.data.pseudo_labels import is_predicted, weigh_predicted
from partbox.engine.checks import ConfigError, check_annotated
from partbox.engine.label_budget_sweep import check_dataset
from partbox.engine.setup import load_config
from partbox.engine.training_records import detector_training_records, training_records, within_budget


def predicted(record: dict, *scores: float) -> dict:
    """A record as if a model had made its labels; scores of its parts in turn."""
    parts = [{**part, "score": scores[i % len(scores)]} for i, part in enumerate(record["annotations"])]
    return {**record, "label_source": "predicted", "annotations": parts}


@pytest.fixture
def records(example_dataset) -> list[dict]:
    """40 annotated images, 20 predicted ones, 6 without part labels."""
    every = example_dataset.records
    bare = [{**record, "part_labels": "none", "annotations": []} for record in every[60:]]
    return [*every[:40], *[predicted(record, 0.25, 0.75) for record in every[40:60]], *bare]


def test_weight_and_scores_multiply(records):
    assert [record for record in weigh_predicted(records, 0.5) if not is_predicted(record)] == records[:40] + records[
        60:
    ]
    assert {record["part_weight"] for record in weigh_predicted(records, 0.5)[40:60]} == {0.5}
    one = predicted(records[0], 0.25, 0.75, 0.75)
    one["annotations"] = one["annotations"][:3]
    (weighed,) = weigh_predicted([one], 0.5, times_score=True)
    assert weighed["part_weight"] == pytest.approx(0.5 * 1.75 / 3)
    assert weighed["annotations"] == one["annotations"]
    nothing_seen = {**one, "annotations": []}
    assert weigh_predicted([nothing_seen], 0.5, times_score=True)[0]["part_weight"] == 0.5
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"in \[0, 1\]"):
            weigh_predicted(records, weight)


def test_what_counts_nothing_is_not_labelled(records):
    dropped = weigh_predicted(records, 0.0)
    assert [record["part_labels"] for record in dropped] == ["mask"] * 40 + ["none"] * 26
    assert all(not record["annotations"] and "part_weight" not in record for record in dropped[40:])
    assert [record["label"] for record in dropped] == [record["label"] for record in records]
    (never,) = weigh_predicted([predicted(records[0], 0.0)], 1.0, times_score=True)
    assert never["part_labels"] == "none"
    assert records[40]["annotations"], "the dataset stays as it was"


def test_a_budget_is_about_annotated_labels_and_predictions_cost_nothing(records):
    found = LabelBudget(0.0, 0.5).apply(records, "here")
    kinds = [(record["part_labels"], is_predicted(record)) for record in found]
    assert kinds.count(("box", False)) == 20
    assert found[40:60] == records[40:60]
    alone = LabelBudget(0.0, 0.5).apply(records[:40], "here")
    assert found[:40] == alone, "the choice does not depend on predictions"
    assert label_cost(records) == label_cost(records[:40])
    assert label_cost(records[40:]).hours == 0


def test_a_budget_is_not_applied_a_second_time(example_dataset, records, monkeypatch):
    cfg = small_config(example_dataset, "DATASETS.LABEL_BUDGET.BOX_SHARE", "0.5")
    with pytest.raises(ConfigError, match=r"here has 40 images with annotated part labels.*20 with labels predicted"):
        within_budget(cfg, records, "here")
    assert len(within_budget(cfg, records[:40], "here")) == 40
    whole = small_config(example_dataset)
    assert within_budget(whole, records, "here") == records
    stand_in = type("Dataset", (), {"records": records})
    monkeypatch.setattr("partbox.engine.label_budget_sweep.load_dataset", lambda cfg, names, what: stand_in)
    with pytest.raises(ConfigError, match="set MASK_SHARE and BOX_SHARE to -1"):
        check_dataset(whole)


def test_the_weight_of_the_configuration(example_dataset, records):
    options = ["DATASETS.PSEUDO_LABELS.WEIGHT", "0.5", "DATASETS.PSEUDO_LABELS.TIMES_SCORE", "True"]
    found = training_records(small_config(example_dataset, *options), records, "here")
    assert found == weigh_predicted(records, 0.5, times_score=True)
    assert found != weigh_predicted(records, 0.5)
    assert training_records(small_config(example_dataset), records, "here") == weigh_predicted(records, 1.0)
    for wasted in (options[:2], options[2:]):
        with pytest.raises(ConfigError, match="no part label of here is predicted"):
            training_records(small_config(example_dataset, *wasted), records[:40], "here")
    for weight in ("1.5", "-0.1"):
        with pytest.raises(ConfigError, match=r"PSEUDO_LABELS\.WEIGHT must lie in"):
            load_config(None, ["DATASETS.PSEUDO_LABELS.WEIGHT", weight])


def test_detectors_of_detectron2_take_them_or_leave_them(records, monkeypatch):
    monkeypatch.setattr("partbox.engine.training_records.records_of", lambda names, key: records)
    detector = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN", "DATASETS.PSEUDO_LABELS.WEIGHT"]
    assert len(detector_training_records(load_config(None, [*detector, "1"]))) == 60
    assert len(detector_training_records(load_config(None, [*detector, "0"]))) == 40
    for more in (["0.5"], ["1", "DATASETS.PSEUDO_LABELS.TIMES_SCORE", "True"]):
        with pytest.raises(ConfigError, match="know no weights of images"):
            detector_training_records(load_config(None, [*detector, *more]))


def test_no_evaluation_takes_predictions_for_the_truth(records):
    check_annotated(records[:40] + records[60:], "DATASETS.TEST", "here")
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST: the part labels of 20 images of here are predicted"):
        check_annotated(records, "DATASETS.TEST", "here")
