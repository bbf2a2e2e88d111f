"""How a convscope process asks its C library for memory."""

from __future__ import annotations

import ctypes
import sys

# Numbers of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = 2**30


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process instead of going back to the system; True where that could be arranged.

    A forward pass frees and takes the same hundreds of megabytes over and over, and a trace keeps what the pass would
    have reused. With glibc's defaults each piece comes back as new pages, and most of the time goes into making them:
    capturing EfficientNet-Lite0's convolutions takes half as long with this. The price is up to 1 GiB that stays.
    It changes the whole process, so only the commands do it, never the library.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # One arena: the model's worker is a thread, and a thread's own arena would not reuse what another freed.
    options = ((_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, _KEPT), (_ARENA_MAX, 1))
    return all(mallopt(option, value) == 1 for option, value in options)
