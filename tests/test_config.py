"""Configuration keys: each is read somewhere, each is documented where it is written."""

from __future__ import annotations

import re
from pathlib import Path

from detectron2.config import CfgNode, get_cfg

from partbox.config import add_partbox_config

REPOSITORY = Path(__file__).resolve().parents[1]


def dotted(node: CfgNode, prefix: str = "") -> dict[str, object]:
    keys = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            keys.update(dotted(value, f"{prefix}{key}."))
        else:
            keys[prefix + key] = value
    return keys


def own_keys() -> list[str]:
    plain = get_cfg()
    from detectron2.projects.deeplab import add_deeplab_config

    add_deeplab_config(plain)
    ours = get_cfg()
    add_partbox_config(ours)
    return sorted(set(dotted(ours)) - set(dotted(plain)))


def source() -> str:
    files = [*(REPOSITORY / "projects" / "partbox").rglob("*.py"), *(REPOSITORY / "tools").glob("*.py")]
    return "\n".join(path.read_text() for path in files if path.name != "config.py")


def test_no_key_is_parsed_and_ignored():
    text = source()
    unread = [key for key in own_keys() if not re.search(rf"\.{key.rsplit('.', 1)[-1]}\b", text)]
    assert own_keys()
    assert unread == []


def test_the_check_would_notice():
    assert not re.search(r"\.NEVER_READ\b", source())
