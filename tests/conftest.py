import os
import sys
from pathlib import Path

import pytest

from ibviz import cli


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference outputs and real data, which are not part of the project."""
    place = os.environ.get("IBVIZ_SHARED")
    if not place:
        pytest.skip("IBVIZ_SHARED names no folder with reference data")
    return Path(place)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process; exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ibviz", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.run()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return run
