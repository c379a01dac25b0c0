"""Which keys of a configuration are read: an option that nothing reads does nothing."""

from __future__ import annotations

import pytest
import yacs.config
from detectron2.config import CfgNode


def dotted(node: CfgNode, prefix: str = "") -> set[str]:
    """Dotted keys of a configuration."""
    keys = set()
    for key, value in node.items():
        keys |= dotted(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key}
    return keys


def record_reads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Dotted keys that are read as attributes of a configuration from now on; the set grows."""
    seen: set[str] = set()
    original = yacs.config.CfgNode.__getattr__

    def recording(node: CfgNode, name: str) -> object:
        value = original(node, name)
        path = f"{node.__dict__.get('_path', '')}{name}"
        if isinstance(value, CfgNode):
            value.__dict__["_path"] = f"{path}."
        else:
            seen.add(path)
        return value

    monkeypatch.setattr(yacs.config.CfgNode, "__getattr__", recording)
    return seen
