"""The site is built without a warning, and its pages ask no other host for anything."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ibviz
from ibviz.attribution import METHODS
from ibviz.config import SuiteConfig, Sweep
from ibviz.workflows.keys import key_tables

pytest.importorskip("mkdocs", reason="the site needs `pip install 'ibviz[docs]'`")
ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ibviz.__all__ if inspect.ismodule(getattr(ibviz, name))]
LOADED = re.compile(r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//""")
LINKED = re.compile(r"""<link\b(?![^>]*rel=["']?canonical)[^>]*\bhref=["']?(?:https?:)?//""")
STYLED = re.compile(r"""(?:url\(|@import\s+)["']?(?:https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr, built.stderr
    return folder


def test_all_kinds_of_pages_are_there(site):
    results = [path.parent.relative_to(ROOT) for path in (ROOT / "evaluation/results").glob("*/README.md")]
    pages = ["", "concepts/glossary", "how-to/texts", "notebooks/01_quickstart", "CHANGELOG", *map(str, results)]
    for page in pages:
        assert (site / page / "index.html").is_file(), page
    assert (site / "evaluation/results/attention/half/frontier.png").is_file()


@pytest.mark.parametrize("package", ["", *PACKAGES])
def test_every_public_name_has_an_entry(site, package):
    page = (site / "reference" / (package or "ibviz") / "index.html").read_text(encoding="utf-8")
    headings = re.findall(r"<h2[^>]*>(.*?)<(?:a|/h2)", page, re.DOTALL)
    entries = [re.sub(r"<[^>]*>", "", heading).split()[0] for heading in headings]
    module = getattr(ibviz, package) if package else ibviz
    assert entries == [name for name in module.__all__ if package or name not in PACKAGES]


def test_doctests_and_fields_are_shown(site):
    page = (site / "reference/metrics/index.html").read_text(encoding="utf-8")
    assert "Fraction of the image that the region covers: the energy of a uniform map." in page  # a field's comment
    assert "<p>&gt;&gt;&gt;" not in page
    assert "<blockquote>" not in page


def test_every_key_and_every_option_of_a_method_has_a_line(site):
    for name, kind in {"recipe": Sweep, "suite": SuiteConfig}.items():
        page = (site / "settings" / name / "index.html").read_text(encoding="utf-8")
        for table in key_tables(kind):
            assert all(f"<td><code>{key.name}</code></td>" in page for key in table.keys)
    page = (site / "settings/methods/index.html").read_text(encoding="utf-8")
    for name, method in METHODS.items():
        part = page.partition(f'id="{name}"')[2].partition("<h3")[0]
        assert all(f"<td><code>{option}</code></td>" in part for option in method.options), name
    assert "<td>Most masks per image; noise falls with their square root." in page


def test_no_page_asks_another_host(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert not LOADED.search(page), path
        assert not LINKED.search(page), path
    for path in site.rglob("*.css"):
        assert not STYLED.search(path.read_text(encoding="utf-8")), path


def test_no_page_names_this_machine(site):
    for path in site.rglob("*.html"):
        assert str(ROOT) not in path.read_text(encoding="utf-8"), path
