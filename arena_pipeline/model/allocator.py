"""Keeps glibc from handing large buffers back to the system between steps.

Each activation of a 3D network is larger than malloc's mmap threshold, so by default every step maps, faults in and unmaps
the same gigabytes again.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


def keep_freed_memory() -> bool:
    """Tells glibc's malloc never to use mmap nor to trim; returns whether there was a glibc that took it."""
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    taken = mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, -1) == 1  # -1 becomes the largest size_t
    logger.debug("malloc keeps freed memory: %s", taken)
    return bool(taken)


def release_freed_memory() -> bool:
    """Hands all freed memory back to the system once, so that the next measurement starts from what is in use; False without glibc."""
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _of_glibc(name: str) -> Callable[..., int] | None:
    """A function of glibc; None with another system or allocator, as musl's."""
    try:
        function: Callable[..., int] = getattr(ctypes.CDLL("libc.so.6"), name)
    except (OSError, AttributeError):
        return None
    return function
