"""Whoever misspells a name is told the right one: keys, values, options, data sets, files; through the real tools."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from part_dataset_files import forget_builtin_datasets, valid_document
from small_models import MODELS, SMALL, small_config
from tool_examples import REPOSITORY, TOOLS, commands_of, parser_of

from partbox.data import PartDatasetError
from partbox.engine.build import build_classifier
from partbox.engine.checks import CHOICES, ConfigError
from partbox.engine.detectors import build_detector, records_of
from partbox.engine.setup import load_config
from partbox.engine.slurm.plan import parse_perturbation, sweep_of_configurations
from partbox.engine.slurm.site import load_site
from partbox.evaluation.perturbations import ATTACKS, build_perturbation, build_perturbations, settings_of
from partbox.experiments import ExperimentError, experiment_config
from partbox.modeling.levels import part_level
from partbox.suggestions import did_you_mean, nearest, nearest_keys

PGD = {"name": "pgd", "eps": "8/255"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["SOLVER.BASE_RL", "1"], "SOLVER.BASE_LR"),
        (["LOSS_WEIGHT", "1"], "MODEL.PART.LOSS_WEIGHT"),  # the right key at the wrong place
        (["MODEL.LOSS_WEIGHT", "1"], "MODEL.PART.LOSS_WEIGHT"),
        (["PART.LOSS_WEIGHT", "1"], "MODEL.PART.LOSS_WEIGHT"),
        (["MODEL.PART.LOS_WEIGHT", "1"], "MODEL.PART.LOSS_WEIGHT"),
        (["model.part.loss_weight", "1"], "MODEL.PART.LOSS_WEIGHT"),
        (["EPS", "1"], "ADVERSARY.EPS"),
        (["ADVERSARY.HEAD.POOL_SIZE", "1"], "MODEL.PART.HEAD.POOL_SIZE"),
        (["POOL_SIZ", "1"], "MODEL.PART.HEAD.POOL_SIZE"),
        (["ROBUST_EVAL.PERTURBATION", "[]"], "ROBUST_EVAL.PERTURBATIONS"),
        (["DATASETS.LABEL_BUDGET.BOXSHARE", "1"], "DATASETS.LABEL_BUDGET.BOX_SHARE"),
        # keys that detectron2 alone has
        (["MODEL.RPN.POST_NMS_TOPK_TSET", "1"], "MODEL.RPN.POST_NMS_TOPK_TEST"),
        (["SOLVER.CLIP_GRADIENTS.ENABLE", "True"], "SOLVER.CLIP_GRADIENTS.ENABLED"),
        (["dataloader.num_workers", "1"], "DATALOADER.NUM_WORKERS"),
        (["MODEL.MASKDINO.DN_NUM", "1"], "MODEL.MaskDINO.DN_NUM"),
        (["TRACKING.WANDB.ENABLE", "True"], "TRACKING.WANDB.ENABLED"),
    ],
)
def test_a_wrong_key_gets_the_right_one(given, meant, tmp_path):
    with pytest.raises(ConfigError, match="unknown configuration key") as found:
        load_config(None, given)
    assert str(found.value).split("did you mean ")[1].rstrip("?").split(" or ")[0] == meant or (
        given[0] == "MODEL.LOSS_WEIGHT" and meant in str(found.value)
    )
    file = tmp_path / "nested.yaml"
    lines = [f"{'  ' * level}{word}:" for level, word in enumerate(given[0].split("."))]
    file.write_text("\n".join(lines) + f" {given[1]}\n")
    with pytest.raises(ConfigError, match=f"{file}: unknown configuration key .*{meant}"):
        load_config(file)


@pytest.mark.parametrize(
    ("wrong", "meant"), [("SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"), ("MODEL.PART.HEDA", "MODEL.PART.HEAD")]
)
def test_a_key_that_is_far_less_alike_is_not_named_beside_the_right_one(wrong, meant):
    with pytest.raises(ConfigError, match=rf"did you mean {re.escape(meant)}\?$"):
        load_config(None, [wrong, "5"])


def test_a_key_like_no_other_gets_none():
    with pytest.raises(ConfigError, match=r"unknown configuration key QQQ\.ZZZZZ$"):
        load_config(None, ["QQQ.ZZZZZ", "1"])
    assert nearest_keys("x", ["SOLVER.BASE_LR"]) == []
    assert nearest_keys("N", ["FAR.BELOW.MANY.OTHER.NODES.N", "M"]) == ["FAR.BELOW.MANY.OTHER.NODES.N"]
    assert did_you_mean("x", ["abc"]) == ""


@pytest.mark.parametrize("name", ["_BASE", "BASE", "_base_", "base_"])
def test_the_key_of_the_file_below_is_no_key_of_the_configuration(name, tmp_path):
    (tmp_path / "a.yaml").write_text(f"{name}: base.yaml\n")
    with pytest.raises(ConfigError, match=rf"unknown configuration key {name}; did you mean _BASE_\?"):
        load_config(tmp_path / "a.yaml")


def test_a_file_below_that_does_not_exist_gets_the_nearest_one(tmp_path):
    (tmp_path / "base.yaml").write_text("SEED: 3\n")
    (tmp_path / "above.yaml").write_text("_BASE_: bsae.yaml\n")
    (tmp_path / "top.yaml").write_text("_BASE_: above.yaml\n")
    meant = r"_BASE_ of .*above\.yaml: configuration file .*bsae\.yaml does not exist; did you mean .*/base\.yaml"
    with pytest.raises(ConfigError, match=meant):
        load_config(tmp_path / "top.yaml")
    (tmp_path / "above.yaml").write_text("_BASE_: [base.yaml]\n")
    assert load_config(tmp_path / "top.yaml").SEED == 3
    (tmp_path / "base.yaml").write_text("_BASE_: top.yaml\n")
    with pytest.raises(ConfigError, match=r"_BASE_ of .*base\.yaml: .*top\.yaml is based on itself"):
        load_config(tmp_path / "top.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "must be a mapping of configuration keys"),
        (b"- a\n", "must be a mapping of configuration keys"),
        (b"7\n", "must be a mapping of configuration keys"),
        (b"a: [\n", "is not valid YAML"),
        (b"PK\x03\x04\xff\xfe weights", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(content, words, tmp_path):
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"c\.yaml {words}"):
        load_config(tmp_path / "c.yaml")
    (tmp_path / "above.yaml").write_text("_BASE_: c.yaml\n")
    with pytest.raises(ConfigError, match=rf"_BASE_ of .*above\.yaml: .*c\.yaml {words}"):
        load_config(tmp_path / "above.yaml")


def test_a_group_of_keys_is_no_key(tmp_path):
    with pytest.raises(
        ConfigError, match=r"command line: ADVERSARY is a group of keys; .* such as ADVERSARY\.OBJECTIVE"
    ):
        load_config(None, ["ADVERSARY", "pgd"])
    (tmp_path / "a.yaml").write_text("SOLVER:\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: SOLVER is a group of keys"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("SOLVER.MAX_ITER", "many", "a whole number, such as 40000"),
        ("SOLVER.MAX_ITER", "1.5", "a whole number"),
        ("SOLVER.BASE_LR", "small", "a number"),
        ("SOLVER.EMA.ENABLED", "true", "True or False"),
        ("SOLVER.EMA.ENABLED", "1", "True or False"),
    ],
)
def test_a_value_of_another_type_is_told_in_words(key, value, kind, tmp_path):
    with pytest.raises(ConfigError, match=rf"command line: {key} is {kind}.*, not '{value}'"):
        load_config(None, [key, value])
    (tmp_path / "a.yaml").write_text("INPUT: {SIZE: 96}\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: INPUT\.SIZE is a list, such as \(224, 224\), not 96"):
        load_config(tmp_path / "a.yaml")


def test_a_list_may_be_written_as_in_the_files(tmp_path):
    text = "[{name: pgd, eps: 4/255, steps: 20}, {name: clean}]"
    cfg = load_config(None, ["ROBUST_EVAL.PERTURBATIONS", text, "DATASETS.TRAIN", "[car_parts_train]"])
    assert [dict(one) for one in cfg.ROBUST_EVAL.PERTURBATIONS] == [
        {"name": "pgd", "eps": "4/255", "steps": 20},
        {"name": "clean"},
    ]
    assert cfg.DATASETS.TRAIN == ("car_parts_train",)
    assert load_config(None, ["INPUT.SIZE", "(64, 32)"]).INPUT.SIZE == (64, 32)
    for value in ("car_parts_train", "{'name': 'pgd'}", "3", "a: [", ""):
        with pytest.raises(
            ConfigError, match=r"command line: DATASETS\.TRAIN is a list, such as \('example_train',\), not"
        ):
            load_config(None, ["DATASETS.TRAIN", value])


def test_a_key_written_with_an_equals_sign_is_explained():
    with pytest.raises(ConfigError, match=r"write SOLVER.MAX_ITER 20, not SOLVER.MAX_ITER=20"):
        load_config(None, ["OUTPUT_DIR", "x", "SOLVER.MAX_ITER=20"])
    with pytest.raises(ConfigError, match="'x' stands alone"):
        load_config(None, ["OUTPUT_DIR", "a", "x"])


@pytest.mark.parametrize("key", CHOICES)
def test_a_wrong_choice_gets_the_right_one(key):
    right = CHOICES[key][-1]
    with pytest.raises(ConfigError, match=rf"{key} must be one of .*; did you mean .*\b{right}\b"):
        load_config(None, [key, f"{right}x"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({**PGD, "name": "pdg"}, "unknown perturbation 'pdg'.*did you mean pgd"),
        ({**PGD, "name": "AutoAttack"}, "did you mean autoattack"),
        ({"name": "corruption", "kind": "gaussian-noise", "severity": 1}, "did you mean gaussian_noise"),
        ({"name": "corruption", "kind": "fgo", "severity": 1}, "did you mean fog"),
        ({"name": "corruption", "kin": "fog", "severity": 1}, "no setting 'kin'.*did you mean kind"),
        ({"name": "corruptions", "kinds": "benchmarks"}, "did you mean benchmark"),
        ({"name": "corruptions", "severity": [1]}, "did you mean severities"),
        ({**PGD, "step": 20}, "no setting 'step'.*did you mean steps"),
        ({"name": "pgd", "ep": "8/255"}, "no setting 'ep'.*did you mean eps"),
        ({**PGD, "norm": "Linf2"}, "did you mean linf"),
        ({**PGD, "loss": "margins"}, "did you mean margin"),
        ({**PGD, "name": "apgd", "loss": "dlr_targeted"}, "did you mean dlr-targeted"),
        ({**PGD, "name": "autoattack", "version": "standart"}, "did you mean standard"),
        ({**PGD, "name": "autoattack", "order": "cheap"}, "did you mean cheapest"),
        ({**PGD, "name": "parts", "goal": "clas"}, "unknown goal of PartPGD"),
        ({**PGD, "name": "detector-pgd", "goal": "al"}, "unknown goal of DetectorPGD"),
        ({**PGD, "name": "segmentation-pgd", "loss": "segpdg"}, "did you mean segpgd"),
        ({**PGD, "precision": "bfloat"}, "did you mean bfloat16"),
        ({**PGD, "name": "foolbox", "attack": "HopSkipJump"}, "did you mean HopSkipJumpAttack"),
        ({**PGD, "name": "foolbox", "options": {"step": 3}}, "has no option step.*did you mean steps"),
        ({"nam": "pgd"}, "write name instead of nam"),
        ({"Name": "pgd"}, "write name instead of Name"),
        ({**PGD, "EPS": 1}, "no setting 'EPS'.*did you mean eps"),
        ({"name": ["pgd"]}, "unknown perturbation \\['pgd'\\]"),
        ({"name": None}, "unknown perturbation None"),
    ],
)
def test_a_wrong_perturbation_gets_the_right_one(spec, words):
    with pytest.raises(ValueError, match=words):
        build_perturbations([spec])


def problem_of(spec: dict) -> str:
    """What is wrong with a perturbation."""
    try:
        build_perturbation(spec)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ATTACKS)
def test_every_setting_of_an_attack_is_known_and_no_other(name):
    """What is said to exist does: nothing that a suggestion names is refused as unknown."""
    assert {"norm", "eps"} < set(settings_of(name))
    for setting in settings_of(name):
        assert "has no setting" not in problem_of({**PGD, "name": name, setting: object()})
    assert "has no setting 'qqqq'" in problem_of({**PGD, "name": name, "qqqq": 1})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("part-wbox", "did you mean 'wbbox'"),
        ("prat-wbbox", "did you mean 'part'"),
        ("part-wbbox-smi", "'semi'"),
        ("Part-WBBOX-SEMI", "did you mean 'part'"),
        ("part-wbbox-Norm_Img", "did you mean 'norm_img'"),
        ("part", "'part' names no model: add -wbbox"),
    ],
)
def test_a_wrong_experiment_token_gets_the_right_one(name, words):
    with pytest.raises(ExperimentError, match=words):
        experiment_config(name)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.PART.EXTRACTOR.NAME", "segmentor", "did you mean segmenter"),
        ("MODEL.PART.HEAD.NAME", "partbox", "did you mean part_box"),
        ("MODEL.PART.HEAD.NAME", "pool", "unknown MODEL.PART.HEAD.NAME"),
        ("MODEL.PART.EXTRACTOR.LEVEL", "objects", "did you mean object"),
        ("MODEL.PART.BATCH_NORM", "freeze", "did you mean frozen"),
        ("MODEL.PART.LOSS_RESOLUTION", "images", "did you mean image"),
        ("MODEL.META_ARCHITECTURE", "PartClasifier", "did you mean PartClassifier"),
        ("MODEL.BACKBONE.NAME", "build_tim_backbone", "did you mean build_timm_backbone"),
        ("MODEL.PART.BACKBONE.TIMM_NAME", "resnet_18", "did you mean .*resnet18"),
        ("MODEL.PART.BACKBONE.WEIGHTS", "{folder}/weigths.pth", "did you mean .*weights.pth"),
    ],
)
def test_a_wrong_part_of_a_model_gets_the_right_one(example_dataset, tmp_path, key, value, words):
    (tmp_path / "weights.pth").write_bytes(b"")
    cfg = small_config(example_dataset, *MODELS["part_box"], key, value.format(folder=tmp_path))
    with pytest.raises(ConfigError, match=words):
        build_classifier(cfg)


def test_a_wrong_head_setting_gets_the_right_one(example_dataset):
    options = [*MODELS["part_to_class"], "MODEL.PART.HEAD.PIXEL_WEIGHT", "forground"]
    with pytest.raises(ConfigError, match="did you mean foreground"):
        build_classifier(small_config(example_dataset, *options))
    with pytest.raises(ValueError, match="did you mean group"):
        part_level("groups", ["a"], ["a:b"], [0])
    with pytest.raises(ValueError, match="names 'haed', and no part is called so; did you mean head"):
        part_level("group", ["a"], ["a:head"], [0], [{"name": "x", "parts": ["haed"]}])


def test_a_wrong_key_of_a_group_of_parts_gets_the_right_one():
    with pytest.raises(ValueError, match=r"a group is .*did you mean parts\?"):
        part_level("group", ["a"], ["a:head"], [0], [{"name": "x", "part": ["head"]}])


def test_a_wrong_perturbation_of_a_sweep_gets_the_right_one():
    with pytest.raises(ConfigError, match=r"write name instead of nam$"):
        parse_perturbation("{nam: pgd, eps: 4/255}")
    config = REPOSITORY / "configs/example/part_box.yaml"
    for text, words in (("pdg", "did you mean pgd"), ("{name: pgd, eps: 1, step: 3}", "did you mean steps")):
        with pytest.raises(ConfigError, match=words):
            sweep_of_configurations([config], [0], [parse_perturbation(text)], Path("x"), [])
    with pytest.raises(ConfigError, match=r"did you mean SOLVER\.MAX_ITER"):
        sweep_of_configurations([config], [0], [{"name": "clean"}], Path("x"), ["SOLVER.MAXITER", "3"])


def test_a_wrong_folder_of_results_gets_the_right_one(tmp_path, monkeypatch):
    (tmp_path / "part_box").mkdir()
    monkeypatch.chdir(tmp_path)
    for tool in ("make_report", "compare_runs"):
        with pytest.raises(SystemExit) as end:
            run(f"tools/{tool}.py", "part_bx", monkeypatch=monkeypatch)
        assert str(end.value.code).endswith("part_bx does not exist; did you mean part_box?")


def test_a_wrong_dataset_gets_the_right_one(example_root, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    forget_builtin_datasets()
    import partbox

    partbox.register_all()
    from partbox.data import get_part_dataset

    with pytest.raises(PartDatasetError, match='did you mean "car_parts_train"'):
        get_part_dataset("car_part_train")
    with pytest.raises(ConfigError, match=r"did you mean .*car_parts_train"):
        records_of(("car_part_train",), "DATASETS.TRAIN")
    cfg = load_config(None, ["MODEL.META_ARCHITECTURE", "RetinaNett", "MODEL.DEVICE", "cpu"])
    with pytest.raises(ConfigError, match=r"MODEL.META_ARCHITECTURE: nothing is registered.*did you mean RetinaNet"):
        build_detector(cfg)
    forget_builtin_datasets()


def test_a_wrong_key_of_a_part_dataset_gets_the_right_one(tmp_path):
    document = valid_document()
    for image in document["images"]:
        image["part_lables"] = "none"
    (tmp_path / "train.json").write_text(json.dumps(document))
    from partbox.data import load_part_dataset

    with pytest.raises(PartDatasetError, match='write "part_labels"'):
        load_part_dataset(tmp_path / "train.json", tmp_path)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("configs/example/partbox.yaml", "configs/example/part_box.yaml"),
        ("configs/exmple/part_box.yaml", "configs/example/part_box.yaml"),
        ("config/example/part_box.yaml", "configs/example/part_box.yaml"),
        ("part_pooling.yaml", "configs/example/part_pooling.yaml"),
    ],
)
def test_a_configuration_that_does_not_exist_gets_the_nearest_file(given, meant, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(ConfigError, match=f"{given} does not exist; did you mean .*{meant}"):
        load_config(given)


def test_the_folder_of_a_run_is_not_its_configuration(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=rf"is a folder; did you mean {tmp_path}/config\.yaml"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"does not exist$"):
        load_config(tmp_path / "a" / "b" / "c.yaml")


def test_a_wrong_name_in_a_site_file_gets_the_right_one(tmp_path):
    (tmp_path / "site.env").write_text('SBATCH_TIMELIMT="1:00"\n')
    with pytest.raises(ConfigError, match="did you mean SBATCH_TIMELIMIT"):
        load_site(tmp_path / "site.env")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean .*site.env"):
        load_site(tmp_path / "sites.env")


@pytest.mark.parametrize(("tool", "command"), [(tool, one) for tool in TOOLS for one in commands_of(tool)])
def test_a_wrong_option_of_any_tool_gets_the_right_one(tool, command, capsys):
    """Also where a required one is missing because of it."""
    parser = parser_of(tool, command)
    for option in [one for one in parser._option_string_actions if one.startswith("--")]:
        wrong = f"--{option[2:].replace('-', '_')}x" if "-" in option[2:] else f"{option}x"
        with pytest.raises(SystemExit) as end:
            parser.parse_args([wrong, "1"])
        assert end.value.code == 2
        assert f"unknown option {wrong}; did you mean " in (said := capsys.readouterr().err)
        assert option in said.split("did you mean ")[1]


def run(tool: str, *arguments: str, monkeypatch) -> None:
    """The tool itself, in this process."""
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    runpy.run_path(str(REPOSITORY / tool), run_name="__main__")


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("tools/train_net.py", ["--config_file", "x"], "unknown option --config_file; did you mean --config-file"),
        ("tools/train_detector.py", ["--config_file", "x"], "did you mean --config-file"),
        ("tools/train_net.py", ["--SOLVER.MAX_ITER", "5"], "written without dashes, SOLVER.MAX_ITER VALUE"),
        ("tools/submit_slurm.py", ["swep"], "invalid choice: 'swep'.*did you mean sweep"),
        ("tools/submit_slurm.py", ["train", "--gpu-per-node", "4"], "did you mean --gpus-per-node"),
        ("tools/pseudo_label.py", ["--labels", "boxes"], "did you mean box"),
        ("datasets/make_shifted.py", ["--shift", "mixed_sam"], "did you mean mixed_same"),
        ("datasets/prepare_coco_parts.py", ["--annotation=x"], None),  # an abbreviation is no mistake
        ("datasets/prepare_paco_lvis.py", ["--label_share", "1"], "did you mean --label-share"),
    ],
)
def test_the_tools_themselves_say_it(tool, arguments, words, capsys, monkeypatch):
    with pytest.raises(SystemExit) as end:
        run(tool, *arguments, monkeypatch=monkeypatch)
    said = capsys.readouterr().err
    assert end.value.code == 2
    if words is None:
        assert "unknown option" not in said
    else:
        assert re.search(words, said), said


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("train_net", ["--config-file", "configs/example/part_bx.yaml"], "did you mean configs/example/part_box.yaml"),
        ("train_net", ["--experiment", "part-wbox"], "did you mean 'wbbox'"),
        ("train_net", ["LOSS_WEIGHT", "1"], "did you mean MODEL.PART.LOSS_WEIGHT"),
        ("train_net", ["--eval-only", "MODEL.WEIGHTS", "x", "DATASETS.TEST", "('example_tset',)"], '"example_test"'),
        (
            "label_budget",
            ["--config-file", "configs/example", "--output", "x", "--seeds", "1", "--box-shares", "1"],
            "folder",
        ),
    ],
)
def test_the_main_tools_end_with_the_sentence(tool, arguments, words, monkeypatch, example_root, tmp_path):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(example_root))
    monkeypatch.chdir(REPOSITORY)
    forget_builtin_datasets()
    output = ["OUTPUT_DIR", str(tmp_path)] if tool == "train_net" else []
    with pytest.raises(SystemExit) as end:
        run(f"tools/{tool}.py", *arguments, *(SMALL if tool == "train_net" else []), *output, monkeypatch=monkeypatch)
    assert words in str(end.value.code), end.value.code
    forget_builtin_datasets()


def test_names_are_compared_without_capitals_and_dashes():
    assert nearest("Gaussian-Noise", ["gaussian_noise", "glass_blur"]) == ["gaussian_noise"]
    assert nearest(3, [1, 2]) == []
    assert nearest("PGD", ["apgd", "pgd"]) == ["pgd"]


def test_suggestions_are_made_in_one_place():
    """difflib is asked nowhere else for names; likeness of a dataset's keys has a threshold of its own."""
    users = {
        str(path.relative_to(REPOSITORY))
        for top in ("projects", "tools", "datasets", "maskdino_ext")
        for path in (REPOSITORY / top).rglob("*.py")
        if "get_close_matches" in Path(path).read_text()
    }
    assert users == {"projects/partbox/suggestions.py"}
