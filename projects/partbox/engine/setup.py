"""From command line to a complete, checked configuration."""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from maskdino_ext import add_maskdino_config
from partbox.config import add_partbox_config
from partbox.data import PartDataset, get_part_dataset
from partbox.experiments import ExperimentError, experiment_config
from partbox.suggestions import nearest_files, nearest_keys, sentence

from .checks import ConfigError, check_annotated, check_config, value_of

logger = logging.getLogger(__name__)

BASE = "_BASE_"
ELSEWHERE = ("http://", "https://")
KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    tuple: "a list",
}


def _all_keys(node: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for key, value in node.items():
        keys.append(prefix + key)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{key}.")
    return keys


def _check_keys(cfg: CfgNode, names: Sequence[str], source: str) -> None:
    """Refuse unknown keys with the nearest right ones."""
    known = _all_keys(cfg)
    for name in names:
        if name not in known:
            hint = sentence([BASE] if name.strip("_").upper() == BASE.strip("_") else nearest_keys(name, known))
            raise ConfigError(f"{source}: unknown configuration key {name}{hint}")


def _alone(cfg: CfgNode, options: Sequence[str]) -> str:
    """What is wrong with an odd number of options: the first key that was written as KEY=VALUE, or the last one."""
    joined = [one for one in options if "=" in one and one.split("=")[0] in _all_keys(cfg)]
    if joined:
        key, value = joined[0].split("=", 1)
        return f"options are pairs KEY VALUE: write {key} {value}, not {joined[0]}"
    return f"options are pairs KEY VALUE, but {options[-1]!r} stands alone"


def _check_file(path: Path, *, above: tuple[Path, ...] = ()) -> None:
    """Refuse a configuration file that cannot be read, or one of those that it is based on.

    Args:
        path: of the file.
        above: the files that lead to it through ``_BASE_``, the first one first.
    """
    named = f"{BASE} of {above[-1]}: " if above else ""
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ConfigError(f"{named}configuration file {path} {what}{sentence(nearest_files(path))}")
    if path.resolve() in [one.resolve() for one in above]:
        raise ConfigError(f"{named}{path} is based on itself")
    try:
        contents = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{named}{path} is not valid YAML: {error}") from error
    if not isinstance(contents, dict):
        raise ConfigError(f"{named}{path} must be a mapping of configuration keys, such as SOLVER: {{MAX_ITER: 500}}")
    bases = contents.get(BASE, [])
    for base in bases if isinstance(bases, list) else [bases]:
        if not str(base).startswith(ELSEWHERE):
            _check_file(path.parent / os.path.expanduser(str(base)), above=(*above, path))


def _values_of_file(path: Path) -> dict[str, Any]:
    """Dotted keys and values that a yaml file and its base files set."""

    def walk(node: dict, prefix: str) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.items():
            values.update(walk(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
        return values

    _check_file(path)
    return walk(CfgNode.load_yaml_with_base(str(path)), "")


def _as_default(cfg: CfgNode, key: str, value: Any) -> Any:
    """``value`` in the type of the key's default where nothing is lost: 1 for a float key, 0.03 for a text key."""
    if isinstance(value, str):
        try:
            value = yaml.safe_load(value) if isinstance(value_of(cfg, key), float) else value
        except yaml.YAMLError:
            return value
    default = value_of(cfg, key)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, str) and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return value


def _as_list(text: str, key: str, default: object) -> Any:
    """The list that a text stands for, written as Python or as YAML writes lists."""
    for read in (ast.literal_eval, yaml.safe_load):
        try:
            value = read(text)
        except (ValueError, SyntaxError, yaml.YAMLError):
            continue
        if isinstance(value, list | tuple):
            return value
    raise ConfigError(f"{key} is a list, such as {default!r}, not {text!r}")


def _merge(cfg: CfgNode, values: Mapping[str, Any], source: str) -> None:
    """Set dotted keys, refusing unknown ones."""
    _check_keys(cfg, list(values), source)
    for key, value in values.items():
        default = value_of(cfg, key)
        if isinstance(default, CfgNode):
            raise ConfigError(
                f"{source}: {key} is a group of keys; set one of them, such as {key}.{next(iter(default))}"
            )
        if isinstance(default, list | tuple) and isinstance(value, str):
            value = _as_list(value, f"{source}: {key}", default)
        # yacs reads text as a Python literal; text for a text key is quoted so that it stays text.
        typed = _as_default(cfg, key, value)
        quoted = isinstance(typed, str) and isinstance(value_of(cfg, key), str)
        try:
            cfg.merge_from_list([key, repr(typed) if quoted else typed])
        except ValueError as error:  # another type
            kind = KINDS.get(type(default))
            if kind is None:
                raise
            raise ConfigError(f"{source}: {key} is {kind}, such as {default!r}, not {value!r}") from error


# How a model reads pixels; what configurations of detectron2 leave to its defaults, which are not ours.
PIXELS = ("INPUT.FORMAT", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD")


def default_config() -> CfgNode:
    """The defaults of detectron2, partbox, Mask DINO and DINO."""
    cfg = get_cfg()
    add_partbox_config(cfg)
    add_maskdino_config(cfg)
    return cfg


def load_config(
    config_file: str | Path | None = None, options: Sequence[str] = (), *, experiment: str | None = None
) -> CfgNode:
    """The defaults of detectron2, partbox, Mask DINO and DINO, the file, the experiment, the options, in this order.

    Args:
        config_file: yaml, with ``_BASE_`` as in detectron2.
        options: ``KEY VALUE KEY VALUE ...``.
        experiment: a name such as ``part-wbbox-norm_img-semi``, see ``partbox.experiments``.

    Raises:
        ConfigError: missing file, unknown key, or a value of another type.
    """
    cfg = default_config()
    if len(options) % 2:
        raise ConfigError(_alone(cfg, options))
    values: dict[str, Any] = {}
    try:
        if config_file is not None:
            values = _values_of_file(Path(config_file))
            _merge(cfg, values, str(config_file))
        if experiment is not None:
            _merge(cfg, experiment_config(experiment), experiment)
        _merge(cfg, dict(zip(options[::2], options[1::2], strict=True)), "command line")
    except (ConfigError, ExperimentError):
        raise
    except (KeyError, ValueError, AssertionError) as error:
        raise ConfigError(str(error.args[0]) if error.args else str(error)) from error
    if config_file is not None:
        _check_pixels(cfg, {*values, *options[::2]}, str(config_file))
    check_config(cfg)
    return cfg


def _check_pixels(cfg: CfgNode, given: Collection[str], source: str) -> None:
    """Refuse the file of a detectron2 model that leaves to the defaults how pixels are read: ours are others.

    No checkpoint holds this, so a model would see wrong colours and say nothing.
    """
    missing = [key for key in PIXELS if key not in given]
    if cfg.MODEL.META_ARCHITECTURE == "PartClassifier" or not missing:
        return

    def listed(of: CfgNode) -> str:
        mean, std = (", ".join(f"{value:.4g}" for value in one) for one in (of.MODEL.PIXEL_MEAN, of.MODEL.PIXEL_STD))
        return f"{of.INPUT.FORMAT}, [{mean}], [{std}]"

    raise ConfigError(
        f"{source}: it does not set {' and '.join(missing)}, and no checkpoint holds what the model was trained with. "
        f"Write {', '.join(PIXELS)}: detectron2's defaults are {listed(get_cfg())}, those here "
        f"{listed(default_config())}"
    )


def fill_names(cfg: CfgNode, dataset: PartDataset) -> None:
    """Write the dataset's classes and parts into an empty configuration, or compare them with a filled one.

    Raises:
        ConfigError: the model was made for other classes or parts, or in another order.
    """
    part = cfg.MODEL.PART
    names: dict[str, list[Any]] = {
        "CLASS_NAMES": list(dataset.class_names),
        "PART_NAMES": [f"{dataset.class_names[c.class_index]}:{c.name}" for c in dataset.categories],
        "PART_TO_CLASS": [int(index) for index in dataset.part_to_class],
    }
    for key, value in names.items():
        if not part[key]:
            part[key] = value
        elif list(part[key]) != value:
            raise ConfigError(
                f"{dataset.json_file}: its classes or parts are not the model's (MODEL.PART.{key} is "
                f"{_short(part[key])}, the dataset has {_short(value)}); their order matters too"
            )


def _short(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:4]))
    return f"[{shown}{', ...' if len(values) > 4 else ''}] ({len(values)})"


def load_dataset(cfg: CfgNode, names: Sequence[str], what: str) -> PartDataset:
    """The one dataset of a split, checked, its names filled into or compared with the configuration.

    Raises:
        ConfigError: not exactly one name, a single class, or other classes or parts; predicted part labels in
            ``DATASETS.TEST``.
        PartDatasetError: a broken file.
    """
    if len(names) != 1:
        raise ConfigError(f"{what} must name exactly one dataset, not {list(names)}")
    dataset = get_part_dataset(names[0], verify_images=cfg.INPUT.VERIFY_IMAGES)
    if len(dataset.class_names) < 2:
        raise ConfigError(
            f"all images of {what}, {names[0]}, are of one class, {', '.join(dataset.class_names)}: there is nothing "
            "to classify; tools/train_detector.py trains a detector of its parts (configs/car_parts)"
        )
    fill_names(cfg, dataset)
    if what == "DATASETS.TEST":
        check_annotated(dataset.records, what, names[0])
    return dataset
