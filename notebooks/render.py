"""Run notebooks from top to bottom, each in a new process that reaches no network; with --out also write them as pages.

usage: python notebooks/render.py [NAME ...] [--out DIR]

A page is DIR/NAME.md with its pictures in DIR/NAME/; it needs nbconvert (`pip install 'ibviz[notebooks]'`).
"""

import argparse
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
LIMIT = 90  # seconds of a core that a notebook may take
HANGS = 600  # seconds after which a cell is given up
NOWHERE = "http://127.0.0.1:9"
OFFLINE = {"HF_HUB_OFFLINE": "1", "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "NO_PROXY": ""}
THREADS = {
    "OMP_NUM_THREADS": "1"
}  # so that a page is the same from any machine, and costs do not grow beside other work
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = re.compile(r"(ibviz: .+ after .+ min.*\n)+")  # lines of `ibviz.progress`, on a busy machine
WIDEST = 900  # pixels of a picture on a page
LARGEST_PNG = 100_000  # bytes
HEADER = "<!-- Made by `python notebooks/render.py --out docs/notebooks`. Edit the notebook, not this page. -->\n\n"


def main(names: Sequence[str], out: Path | None) -> int:
    """Run the named notebooks, all by default; the number of those that took too long."""
    slow = 0
    for path in [HERE / f"{name}.ipynb" for name in names] or sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        begun, used = time.monotonic(), core_seconds()
        run(notebook)
        took, used = time.monotonic() - begun, core_seconds() - used
        slow += used > LIMIT
        said = f"{path.stem:24}{took:6.1f} s, {used:5.1f} s of a core"
        print(said + f", more than the {LIMIT} s allowed" * (used > LIMIT), flush=True)
        if out is not None:
            write_page(notebook, path.stem, out)
    return slow


def core_seconds() -> float:
    """What the finished kernels used; unlike time on a clock it is the same on a busy machine."""
    finished = resource.getrusage(resource.RUSAGE_CHILDREN)
    return finished.ru_utime + finished.ru_stime


def run(notebook: NotebookNode) -> None:
    """Execute in place, in an empty folder; what fails, or writes to standard error, is an error."""
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, kernel_name="python3", timeout=HANGS, startup_timeout=HANGS, resources=place)
        client.extra_arguments = ["--log-level=ERROR"]
        client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" and not PROGRESS.fullmatch(output.text):
                raise SystemExit(f"a cell writes to standard error:\n{cell.source}\n\n{output.text}")


def write_page(notebook: NotebookNode, name: str, out: Path) -> None:
    """Markdown, with pictures beside it that are small enough for a repository."""
    from nbconvert import MarkdownExporter

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined([still(output) for output in cell.outputs])
    resources = {"unique_key": name, "output_files_dir": name}
    text, resources = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    shutil.rmtree(out / name, ignore_errors=True)
    (out / name).mkdir(parents=True)
    for place, picture in resources["outputs"].items():
        suffix, packed = small(picture)
        (out / place).with_suffix(suffix).write_bytes(packed)
        text = text.replace(place, place.removesuffix(".png") + suffix)
    lines = [line.rstrip() for line in text.replace(".ipynb)", ".md)").replace("![png]", "![figure]").splitlines()]
    (out / f"{name}.md").write_text(HEADER + "\n".join(lines).strip() + "\n", encoding="utf-8")


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """What is printed line after line, as one block."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def still(output: NotebookNode) -> NotebookNode:
    """A page has no widgets: what stands in their place."""
    if WIDGET not in output.get("data", {}):
        return output
    return nbformat.v4.new_output("display_data", {"text/markdown": "*In Jupyter, an explorer stands here.*"})


def small(picture: bytes) -> tuple[str, bytes]:
    """Suffix and bytes of a picture at most `WIDEST` pixels wide: PNG, or where that is large JPEG in full colour."""
    from PIL import Image

    image, png, jpeg = Image.open(BytesIO(picture)).convert("RGB"), BytesIO(), BytesIO()
    if image.width > WIDEST:
        image = image.resize((WIDEST, round(image.height * WIDEST / image.width)), Image.Resampling.LANCZOS)
    image.save(png, "PNG", optimize=True)
    image.save(jpeg, "JPEG", quality=80, subsampling=0, optimize=True)
    return (".png", png.getvalue()) if png.tell() <= LARGEST_PNG else (".jpg", jpeg.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_quickstart; by default all")
    parser.add_argument("--out", type=Path, help="folder for pages, such as docs/notebooks")
    arguments = parser.parse_args()
    os.environ.update(OFFLINE | THREADS)
    sys.exit(main(arguments.names, arguments.out))
