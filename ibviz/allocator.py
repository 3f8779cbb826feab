"""Setting of the C library that keeps freed memory for the next large array, made before torch loads.

glibc gives a large block back to the system as soon as it is freed, so that the pages of every new array are fetched
and cleared again, layer by layer and batch by batch. The setting changes seconds and no result.
"""

import ctypes
import sys
from collections.abc import Mapping

_CHOSEN_BY_USER = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # beginnings of variables; another allocator is preloaded
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # parameters of mallopt(3)
_SETTINGS = {_MMAP_MAX: 0, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26}


def keep_freed_memory(environment: Mapping[str, str]) -> None:
    """Have glibc keep up to 2 GB of freed memory, unless a variable shows that the user has set the allocator."""
    if sys.platform != "linux" or any(name.startswith(_CHOSEN_BY_USER) for name in environment):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # musl has none
        for parameter, value in _SETTINGS.items():
            library.mallopt(parameter, value)
