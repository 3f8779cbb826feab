"""Work in a forked process that has the heavy libraries imported already, so that a try costs no import."""

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path


def preload(names: Iterable[str]) -> None:
    """Import what forked processes would each import anew; what is not installed is passed over."""
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)


def forked(work: Callable[[], int | None], said: Path) -> int:
    """Start a process that does the work and ends with its exit code; what it prints is written to `said`."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        for stream in (1, 2):
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
        code = work() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def ended(process: int, seconds: float) -> int | None:
    """Return the exit code of a process, or the negative number of its signal; None for one that had to be killed."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        gone, status = os.waitpid(process, os.WNOHANG)
        if gone:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None
