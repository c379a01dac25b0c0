"""Locks on files, also where the file system has none."""

from __future__ import annotations

import errno
import fcntl
import logging
from typing import IO, Any

logger = logging.getLogger(__name__)

HELD = (errno.EAGAIN, errno.EACCES)
NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)  # such as Lustre where it is mounted without them


def lock(file: IO[Any], kind: int) -> bool:
    """Lock an open file, or unlock it; False where another process holds it.

    Where the file system has no locks the log says so, and the file counts as locked.

    Args:
        file: open for writing, and for reading as well where the lock is shared: NFS refuses others.
        kind: as ``fcntl`` names it; with ``LOCK_NB`` nobody is waited for.
    """
    try:
        fcntl.flock(file, kind)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in NO_LOCKS:
            raise
        if kind != fcntl.LOCK_UN:
            where = f"The file system of {file.name} has no locks ({error})"
            logger.warning("%s: start no second process that writes there", where)
    return True
