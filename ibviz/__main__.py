"""The program `ibviz`, and `python -m ibviz`: the command line, which Ctrl-C ends in silence while it is imported."""

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """Import the command line and run it; after Ctrl-C, whatever an interrupted library made of that is not shown."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # the process was told to ignore Ctrl-C
        from ibviz.cli import main as run

        run()
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ibviz.cli import main as run

    pressed: list[int] = []

    def interrupt(number: int, _: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    try:
        run()
    except (Exception, KeyboardInterrupt):
        if pressed:
            sys.exit(INTERRUPTED)
        raise


if __name__ == "__main__":
    main()
