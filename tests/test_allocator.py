"""Large arrays of the command line take memory that was freed before, in place of new pages of the system."""

import os
import platform
import subprocess
import sys

import pytest

COUNT = """
import ctypes, os, resource
from ibviz.allocator import keep_freed_memory

keep_freed_memory(os.environ)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p

def use():
    block = ctypes.c_void_p(library.malloc(ctypes.c_size_t(2**26)))
    ctypes.memset(block, 1, 2**26)
    library.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 2**26 // os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is one of glibc")
@pytest.mark.parametrize(("chosen", "fresh"), [({}, False), ({"MALLOC_ARENA_MAX": "4"}, True)])
def test_a_large_block_takes_the_pages_of_a_freed_one_unless_the_user_has_set_the_allocator(chosen, fresh):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    environment = kept | chosen
    run = subprocess.run([sys.executable, "-c", COUNT], env=environment, capture_output=True, text=True, check=True)
    faults = int(run.stdout)
    assert faults > PAGES / 600 if fresh else faults < 32  # a huge page holds 512 pages


def test_the_command_line_sets_it_before_torch_is_loaded():
    script = (
        "import sys, ibviz.allocator, ibviz.__main__ as program\n"
        "seen = []\n"
        "program.keep_freed_memory = lambda environment: seen.append('torch' in sys.modules)\n"
        "sys.argv = ['ibviz', '--help']\n"
        "try:\n    program.main()\nexcept SystemExit:\n    pass\n"
        "sys.exit(seen != [False])\n"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
