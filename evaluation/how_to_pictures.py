"""Pictures of the how-to pages: the snippet of each page as it stands, on a bundled photograph, with random weights.

python -m evaluation.how_to_pictures [PAGE ...]

Published weights take a connection, and these pictures show what a figure looks like, not what a network sees. The
published names are replaced as in `tests/test_how_to.py`. Each picture lands beside its page, PAGE.png.
"""

import argparse
import importlib.util
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/how-to"
SIZES = {"detectors": (320, 240), "segmenters": (320, 240), "texts": (320, 320)}  # width and height of the photograph


def stand_ins() -> Any:
    """The tests of the pages, which say what takes the place of published weights."""
    found = importlib.util.spec_from_file_location("test_how_to", ROOT / "tests/test_how_to.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def draw(page: str, tests: Any) -> Path:
    """Run one page's snippet and keep its picture, with at most 256 colours, beside the page."""
    from skimage.data import astronaut

    [snippet] = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        for published, small in tests.INSTEAD[page].items():
            if published == "masks=500":
                snippet = snippet.replace(published, "masks=100")
            else:
                snippet = snippet.replace(published, small.replace("FOLDER", folder))
        Image.fromarray(astronaut()).resize(SIZES[page]).save(Path(folder) / "photo.jpg")
        if page == "texts":
            tests.keep_small_clip(Path(folder), side=160)
        before = Path.cwd()
        os.chdir(folder)
        try:
            torch.manual_seed(0)
            exec(snippet, {})
            [drawn] = Path(folder).glob("*.png")
        finally:
            os.chdir(before)
        picture = Image.open(drawn).convert("RGB")
    picture.thumbnail((560, 560))
    out = PAGES / f"{page}.png"
    picture.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(out, optimize=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*")
    tests = stand_ins()
    for page in parser.parse_args().pages or SIZES:
        out = draw(page, tests)
        print(out.relative_to(ROOT), f"{out.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
