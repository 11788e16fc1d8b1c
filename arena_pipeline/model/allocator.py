"""Keeps glibc from handing large buffers back to the system between steps.

Each activation of a 3D network is larger than malloc's mmap threshold, so by default every step maps, faults in and unmaps
the same gigabytes again.
"""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's malloc never to use mmap nor to trim; returns whether there was a glibc that took it."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl and others: their allocators differ
        return False
    taken = mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1  # -1 becomes the largest size_t
    logger.debug("malloc keeps freed memory: %s", taken)
    return bool(taken)


def release_freed_memory() -> bool:
    """Hands all freed memory back to the system once, so that the next measurement starts from what is in use; False without glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    except (OSError, AttributeError):
        return False
