"""What the file systems of clusters do to locks, and to what other machines see of a file."""

from __future__ import annotations

import errno
import fcntl
import logging
import os

import pytest

from partbox.engine.checks import ConfigError
from partbox.engine.run_folder import _held
from partbox.evaluation import store
from partbox.evaluation.found_part_store import FoundPartStore
from partbox.evaluation.record_files import RecordsError
from partbox.evaluation.store import RecordStore


def no_locks(_file: object, _kind: int) -> None:
    raise OSError(errno.ENOSYS, "Function not implemented")


def like_nfs(file: object, kind: int) -> None:
    """NFS locks by other means, which want a file that is open for reading (shared), or for writing."""
    mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
    if (kind & fcntl.LOCK_SH and mode == os.O_WRONLY) or (kind & fcntl.LOCK_EX and mode == os.O_RDONLY):
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_the_processes_of_an_evaluation_share_a_folder_on_nfs(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", like_nfs)
    for kind in (fcntl.LOCK_SH, fcntl.LOCK_EX):
        with _held(tmp_path, kind):
            RecordStore(tmp_path / "records", {}).close()


def test_a_file_system_without_locks_is_said_and_no_other_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("fcntl.flock", no_locks)
    with caplog.at_level(logging.WARNING), _held(tmp_path, fcntl.LOCK_EX):
        RecordStore(tmp_path / "records", {}).close()
        FoundPartStore(tmp_path / "found.jsonl", {}).close()
    warnings = [record.getMessage() for record in caplog.records]
    assert warnings
    assert all("has no locks" in warning for warning in warnings)


def test_what_is_no_lock_is_no_missing_lock(tmp_path, monkeypatch):
    with (
        _held(tmp_path, fcntl.LOCK_EX),
        pytest.raises(ConfigError, match="another process"),
        _held(tmp_path, fcntl.LOCK_SH),
    ):
        pass
    with RecordStore(tmp_path / "records", {}), pytest.raises(RecordsError, match="another process"):
        RecordStore(tmp_path / "records", {})

    def broken(_file: object, _kind: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(OSError, match="Input/output"), _held(tmp_path / "other", fcntl.LOCK_EX):
        pass


def test_records_are_on_the_disk_before_those_of_others_are_looked_at(tmp_path, monkeypatch):
    """Of two processes on machines that finish at once, one must see what both have done, and write the results."""
    events = []
    read = store._batches_of
    monkeypatch.setattr(os, "fsync", lambda number: events.append(os.readlink(f"/proc/self/fd/{number}")))
    monkeypatch.setattr(store, "_batches_of", lambda path: (events.append("read"), read(path))[1])
    with RecordStore(tmp_path, {}, process="1-of-2") as records:
        events.clear()
        assert records.finished() == {}
    assert events == [str(tmp_path / "process-1-of-2.jsonl"), "read"]
