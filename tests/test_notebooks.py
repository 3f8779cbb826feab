"""Notebooks are stories without output; their pages are copies of them. They are run by `notebooks/render.py`."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/notebooks"
NAMES = ["01_quickstart", "02_anchor_values", "03_benchmark", "04_your_own_model", "05_reading_the_metrics"]
LARGEST = 150_000  # bytes of a picture
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(name):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def test_all_notebooks_are_known():
    assert [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))] == NAMES
    assert [path.stem for path in sorted(PAGES.glob("*.md"))] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_committed_without_output(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA
    for cell in notebook.cells:
        assert not cell.metadata
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_notebook_begins_with_its_title_and_what_it_costs(name):
    title, cost, *_ = read(name).cells[0].source.split("\n\n")
    assert re.fullmatch(rf"# {int(name[:2])} · \w.*", title)
    [seconds] = re.findall(r"^\*About (\d+) seconds on two CPU cores\. Nothing is downloaded", cost)
    assert int(seconds) <= 90


@pytest.mark.parametrize("name", NAMES)
def test_page_is_of_this_notebook(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    place = 0
    for cell in read(name).cells:
        source = "\n".join(line.rstrip() for line in cell.source.replace(".ipynb)", ".md)").splitlines())
        place = page.find(source, place)
        assert place >= 0, f"the page is older than this cell; run notebooks/render.py --out docs/notebooks\n{source}"


@pytest.mark.parametrize("name", NAMES)
def test_page_is_light_and_tells_nothing_of_the_machine(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    pictures = sorted(path.relative_to(PAGES).as_posix() for path in (PAGES / name).iterdir())
    assert pictures
    assert sorted(set(re.findall(r"!\[\w*\]\(([^)]+)\)", page))) == pictures
    assert all((PAGES / one).stat().st_size < LARGEST for one in pictures)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr)/|\b20\d\d-\d\d-\d\d\b|\bat 0x", page)
    assert not re.search(r"Traceback|\[31m", page)


@pytest.mark.parametrize("name", NAMES)
def test_links_between_notebooks_lead_somewhere(name):
    page = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w/.]+\.(?:md|ipynb))\)", page):
        assert (PAGES / target).exists(), target
