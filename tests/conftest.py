import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ibviz import cli
from ibviz.data import sources

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


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


@pytest.fixture(scope="module")
def few_validation_images() -> Iterator[None]:
    """Validate on the first 200 of the 1,000 bundled images: validation takes most of the time of a short training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources._DRAWN, "validation", 200)
        yield


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium without a screen."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))
        yield started
        started.close()
