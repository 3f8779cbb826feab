"""A JupyterLab of its own, with one notebook, for tests in a browser."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import nbformat

WAIT = 120  # seconds for a server or kernel to start, on a busy machine
# The news would be asked for at another host, after a question.
DISABLED = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


@contextmanager
def jupyterlab(folder: Path, cells: Sequence[str]) -> Iterator[str]:
    """Write a notebook and serve it; yields its address."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(notebook, folder / "explore.ipynb")
    (folder / "config/labconfig").mkdir(parents=True)
    (folder / "config/labconfig/page_config.json").write_text(json.dumps(DISABLED))
    paths = {"HOME": folder, "JUPYTER_CONFIG_DIR": folder / "config", "JUPYTER_RUNTIME_DIR": folder / "runtime"}
    root = str(Path(__file__).parents[2])
    quiet = os.environ | {key: str(value) for key, value in paths.items()} | {"PYTHONPATH": root}
    flags = [
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        "--port=0",
        "--ServerApp.token=",
        "--ServerApp.password=",
    ]
    command = [sys.executable, "-m", "jupyterlab", *flags, f"--ServerApp.root_dir={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=quiet, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield f"{address_in(folder / 'log', server)}doc/tree/explore.ipynb"
    finally:
        server.terminate()
        server.wait(30)


def address_in(log: Path, server: subprocess.Popen) -> str:
    """Return the address that the server says it has, when it answers there."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until and server.poll() is None:
        said = re.search(r"http://127\.0\.0\.1:\d+/", log.read_text())
        if said:
            with urlopen(said[0] + "api") as answer:
                assert answer.status == 200
            return said[0]
        time.sleep(0.2)
    raise RuntimeError(log.read_text())
