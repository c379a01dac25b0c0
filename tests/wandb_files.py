"""What wandb has written offline, read back: the log format of LevelDB around wandb's own protobuf messages.

wandb 0.31 has no reader in Python; ``wandb sync`` reads these files in its Go process and sends them.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def messages(path: Path) -> Iterator[bytes]:
    """The records of a file; raises AssertionError where a checksum is wrong."""
    data = path.read_bytes()
    assert data[:4] == b":W&B", "not a file of wandb"
    place, pieces = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if kind == 0:  # zeros to the end of a block
            place += left
            continue
        body = data[place + HEADER : place + HEADER + length]
        assert zlib.crc32(bytes([kind]) + body) == checksum, f"damaged at byte {place}"
        place += HEADER + length
        pieces = body if kind in (FULL, FIRST) else pieces + body
        if kind in (FULL, LAST):
            yield pieces


def offline_runs(folder: Path) -> list[Path]:
    """The files of a run's folder, oldest first."""
    return sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.parent.name)


def history(path: Path) -> dict[int, dict[str, Any]]:
    """What was logged, by step, without wandb's own entries (time and runtime)."""
    from wandb.proto.wandb_internal_pb2 import Record

    lines: dict[int, dict[str, Any]] = {}
    for message in messages(path):
        record = Record()
        record.ParseFromString(message)
        if record.WhichOneof("record_type") != "history":
            continue
        values = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        step = int(values.pop("_step", record.history.step.num))
        assert step not in lines, f"step {step} was logged twice"
        lines[step] = {key: value for key, value in values.items() if not key.startswith("_")}
    return lines


def kinds(path: Path) -> set[str]:
    """Which kinds of records a file has."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = set()
    for message in messages(path):
        record = Record()
        record.ParseFromString(message)
        found.add(str(record.WhichOneof("record_type")))
    return found
