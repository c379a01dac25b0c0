"""The C library's memory allocator, told that a network asks for the same large blocks again and again."""

from __future__ import annotations

import ctypes
import logging

logger = logging.getLogger(__name__)

# malloc.h of glibc
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEPT = 2**30  # bytes of free memory at the top of the heap that are not given back
STEP = 2**26  # bytes by which the heap grows


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, up to a gigabyte beyond what it uses.

    By default glibc gives large blocks back to the system as soon as they are free, and gets them again, page by page
    and zeroed, for the next layer's output: some 10 % of a training step
    (``tools/benchmarks/allocator.py``). No number changes.

    Returns:
        Whether the C library is glibc and took the settings; elsewhere nothing changes.
    """
    try:
        library = ctypes.CDLL(None)
        mallopt, _ = library.mallopt, library.gnu_get_libc_version
    except (AttributeError, OSError, TypeError):
        logger.debug("not glibc: the allocator stays as it is")
        return False
    settings = ((M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, STEP), (M_MMAP_THRESHOLD, KEPT))
    return all([mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings])
