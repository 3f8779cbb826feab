"""The program `ibviz`, and `python -m ibviz`: it starts the command line, and ends in silence after Ctrl-C."""

import os
import signal
import sys

from ibviz.allocator import keep_freed_memory
from ibviz.threads import spin_less_if_busy

_INTERRUPTED = 130


def main() -> None:
    """Import the command line and run it; errors that a library raises because of Ctrl-C are not shown."""
    spin_less_if_busy(os.environ)
    keep_freed_memory(os.environ)
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the process was told to ignore Ctrl-C
        from ibviz.cli import run

        run()
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ibviz.cli import run

    pressed: list[int] = []

    def interrupt(number: int, _: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    except (Exception, KeyboardInterrupt):
        if pressed:
            sys.exit(_INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
