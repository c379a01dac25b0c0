"""The extensions that the site is built with, without building it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from config_reads import dotted
from detectron2.config import get_cfg
from docs_pages import REPOSITORY
from docutils import nodes

from partbox.engine.setup import load_config

sys.path.insert(0, str(REPOSITORY / "docs/extensions"))
import config_keys
import notebook_pages
import public_names
import python_references
import repository_links

sys.path.remove(str(REPOSITORY / "docs/extensions"))
FILES = {"partbox.config": REPOSITORY / "projects/partbox/config.py", "maskdino_ext.config": None}
FILES["maskdino_ext.config"] = REPOSITORY / "maskdino_ext/config.py"

CONFIG = '''
def add(cfg):
    """Add."""
    helper()
    # Of the whole.
    cfg.A.WHOLE = 1  # in pixels
    cfg.A.SECOND = 2
    cfg.A.NOTED = 3  # its own
    cfg.B.OTHER = 4

    cfg.A.ALONE = 5
    # A node of
    # two keys.
    cfg.A.NODE = CfgNode()
    cfg.A.NODE.X = 6
    cfg.A.NODE.SEED = 7  # of the choice
    part = cfg.A.PART = CfgNode()
    _more(part)
    node = cfg.C.KNOWN
    node.LIST = (
        "all"  # what may be, inside
    )


def _more(inner):
    head = inner.HEAD = CfgNode()
    head.NAME = "x"  # # of names
'''


def test_keys_are_read_with_their_meanings():
    keys = {key.name: (key.meaning, key.shares) for key in config_keys.keys_of(CONFIG)}
    assert keys == {
        "A.WHOLE": ("Of the whole. in pixels", ""),
        "A.SECOND": ("", "A.WHOLE"),
        "A.NOTED": ("its own", ""),
        "B.OTHER": ("", ""),
        "A.ALONE": ("", ""),
        "A.NODE.X": ("A node of two keys.", ""),
        "A.NODE.SEED": ("of the choice", ""),
        "A.PART.HEAD.NAME": ("of names", ""),
        "C.KNOWN.LIST": ("what may be, inside", ""),
    }


def all_keys():
    return {key.name: key for file in FILES.values() for key in config_keys.keys_of(file.read_text())}


def test_every_key_that_partbox_adds_or_changes_is_found():
    before, after = get_cfg(), load_config()
    from detectron2.projects.deeplab import add_deeplab_config

    add_deeplab_config(before)
    known = dotted(before)
    added = {key for key in dotted(after) if key not in known}
    changed = {
        key
        for key in dotted(after) & known
        if config_keys.default_of(after, key) != config_keys.default_of(before, key)
    }
    assert len(added) > 120
    assert added | changed <= set(all_keys())
    assert set(all_keys()) <= dotted(after)


def test_every_key_of_our_own_has_a_meaning():
    """Or shares that of the key above it; a key of detectron2 has detectron2's."""
    known = dotted(get_cfg())
    keys = all_keys()
    for name, key in keys.items():
        meaning = keys[key.shares].meaning if key.shares else key.meaning
        assert len(meaning.split()) >= 2 or name in known, name


def test_a_meaning_is_shown_letter_by_letter():
    text = config_keys.as_markdown(config_keys.Key("A.B", "a_b *c* `d` {e: f} <g> [h](i)"), "linf")
    assert text.startswith("```{confval} A.B\n:type: text\n:default: `'linf'`\n\n")
    assert r"a\_b \*c\* \`d\` \{e\: f\} \<g\> \[h\]\(i\)" in text
    shared = config_keys.as_markdown(config_keys.Key("A.C", "", "A.B"), 0.5)
    assert "See {confval}`A.B`." in shared
    assert "number" in shared
    assert "A key of detectron2" in config_keys.as_markdown(config_keys.Key("A.D", ""), True)


def test_nodes_are_chosen_whole():
    keys = [config_keys.Key(name, "") for name in ("MODEL.PART.X", "MODEL.PARTS", "MODEL.PART.HEAD.Y", "TEST.Z")]
    chosen = config_keys.chosen(keys, ["MODEL.PART", "TEST"], ["MODEL.PART.HEAD"])
    assert [key.name for key in chosen] == ["MODEL.PART.X", "TEST.Z"]


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("partbox.modeling.losses.keypoint_loss", True),
        ("partbox.attacks.PGD.perturb", True),
        ("torch.Tensor", True),
        ("collections.abc.Sequence", True),
        ("partbox.modeling.losses.keypoint_los", False),
        ("partbox.attack", False),
        ("partbox.attacks.ThreatModel.eps", True),
        ("partbox.attacks.ThreatModel.epsilon", False),
        ("setuptools.setup", False),
    ],
)
def test_only_what_exists_counts_as_existing(name, there):
    assert python_references.exists(name) is there


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("projects/partbox/config.py", "partbox.config"),
        ("projects/partbox/attacks/__init__.py", "partbox.attacks"),
        ("projects/partbox/__init__.py", "partbox"),
        ("maskdino_ext/dino.py", "maskdino_ext.dino"),
        ("tools/train_net.py", None),
        ("projects/partbox/data/preparation/readers/pascal_part.json", None),
    ],
)
def test_files_of_the_packages_are_modules(path, module):
    assert repository_links.module_of(path) == module


def test_paths_are_relative_to_their_page():
    assert repository_links.path_in_repository(REPOSITORY, "docs/training", "../LICENSE") == "LICENSE"
    assert repository_links.path_in_repository(REPOSITORY, "README", "docs") == "docs"
    assert repository_links.path_in_repository(REPOSITORY, "docs/training", "../../elsewhere") is None


def test_a_public_constant_without_a_text_is_refused(monkeypatch):
    import partbox.corruptions as module

    assert ":value: (1, 2, 3, 4, 5)" in public_names.data("SEVERITIES", module)
    assert ":value:" not in public_names.data("ALEXNET_ERROR", module)
    monkeypatch.setattr(module, "LOOSE", 1, raising=False)
    with pytest.raises(ValueError, match=r"partbox.corruptions.LOOSE is public and has no text"):
        public_names.data("LOOSE", module)


def test_a_name_that_is_public_twice_is_described_once():
    import partbox
    import partbox.data

    others = [partbox, partbox.data]
    text = public_names.restructured_text(partbox, others)
    assert "~data.PartDataset\n" in text
    assert "autoclass:: partbox.PartDataset" not in text
    assert "autoclass:: partbox.data.PartDataset" in public_names.restructured_text(partbox.data, others)
    assert "autoexception:: partbox.data.PartDatasetError" in public_names.restructured_text(partbox.data, others)


def test_a_source_page_that_does_not_exist_is_plain_text():
    class Builder:
        @staticmethod
        def get_relative_uri(here: str, there: str) -> str:
            return f"{there}.html"

    app, env = ModuleType("app"), ModuleType("env")
    app.builder = Builder
    env._viewcode_modules = {"partbox.attacks.pgd": ("source",), "partbox.files": False}
    inner = nodes.inline("", "pgd.py")
    for module, uri in (("partbox.attacks.pgd", "_modules/partbox/attacks/pgd.html"), ("partbox.files", None)):
        node = nodes.Element("", reftype=repository_links.SOURCE, reftarget=module, refdoc="docs/training")
        found = repository_links.resolve_source(app, env, node, inner)
        assert found.get("refuri") == uri
        assert found.astext() == "pgd.py"
    assert repository_links.resolve_source(app, env, nodes.Element("", reftype="any"), inner) is None


def test_the_extensions_are_where_the_settings_look_for_them():
    names = {path.stem for path in Path(config_keys.__file__).parent.glob("*.py")}
    expected = {"config_keys", "module_texts", "notebook_pages", "public_names", "python_references", "remaining_pages"}
    assert names == {*expected, "repository_links"}


def test_a_notebook_becomes_a_page_with_its_outputs():
    """Text, code, what it printed and drew; a fence in a text does not end its block."""
    text = notebook_pages.as_markdown(
        {
            "cells": [
                {"cell_type": "markdown", "source": ["# Title\n", "## 2. A [look]"]},
                {
                    "cell_type": "code",
                    "source": "print('```')",
                    "outputs": [
                        {"output_type": "stream", "name": "stdout", "text": ["```\n"]},
                        {"output_type": "display_data", "data": {"image/png": "AB\nC=\n", "text/plain": ["<Figure>"]}},
                        {"output_type": "execute_result", "data": {"text/plain": ["3\n", "4"]}},
                    ],
                },
            ]
        }
    )
    assert text == (
        "# Title\n## 2. A [look]\n\n````python\nprint('```')\n````\n\n````text\n```\n````\n\n"
        "![Output of: 2. A look](data:image/png;base64,ABC=)\n\n```text\n3\n4\n```\n"
    )
    failed = {"cell_type": "code", "source": "", "outputs": [{"output_type": "error", "ename": "E", "traceback": []}]}
    with pytest.raises(ValueError, match="kind error"):
        notebook_pages.as_markdown({"cells": [failed]})
