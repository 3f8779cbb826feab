"""Ctrl-C while libraries are imported ends the command line without a traceback."""

import signal
import subprocess
import sys

import pytest

from ibviz.__main__ import main

# Sends Ctrl-C to itself as soon as a library is asked for; `spoilt` makes an error of its own of that.
SCRIPT = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == asked and self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("half imported") if spoilt else KeyboardInterrupt

_, asked, spoilt = sys.argv
spoilt = spoilt == "spoilt"
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.argv = ["ibviz", "doctor"]
runpy.run_module("ibviz", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("library", "spoilt", "code"),
    [("typer", "", -signal.SIGINT), ("torch._C", "", 130), ("torch._C", "spoilt", 130), ("pydantic", "", 130)],
)
def test_ctrl_c_while_a_library_is_imported_leaves_no_traceback(library, spoilt, code):
    done = subprocess.run([sys.executable, "-c", SCRIPT, library, spoilt], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert done.stdout.strip() == ""
    assert done.stderr.strip() in ("", "ibviz: stopped; what was finished is kept")


def test_an_error_that_is_none_of_the_users_is_shown_whole_if_nobody_pressed_ctrl_c(monkeypatch):
    monkeypatch.setattr("ibviz.cli.run", lambda: {}["our mistake"])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyError, match="our mistake"):
            main()
    finally:
        signal.signal(signal.SIGINT, before)
