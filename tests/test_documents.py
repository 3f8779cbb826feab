"""What the documents say is what the project does."""

import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from typer.main import get_group

import ibviz
from ibviz.attribution import CONTROLS, METHODS
from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.suite import check_suite
from ibviz.cli import app
from ibviz.data.parquet_objects import Record
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe, Sweep
from ibviz.training.sweep import grid
from ibviz.workflows.evaluate import DEMO

ROOT = Path(__file__).parents[1]
TOP = (ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"))
PAGES = sorted([*TOP, *(ROOT / "docs").rglob("*.md"), *(ROOT / "evaluation").rglob("*.md")])
FINDINGS = ROOT / "docs/findings.md"
PACKAGES = [name for name in ibviz.__all__ if inspect.ismodule(getattr(ibviz, name))]


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = read_toml(path, Recipe)
    if path.stem == "digits":
        assert recipe == DEMO


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_every_sweep_is_valid(path):
    runs = grid(read_toml(path, Sweep)).recipes.values()
    assert len(set(runs)) == len(runs) >= 6


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/suites").glob("*.toml")), ids=lambda path: path.stem)
def test_every_suite_is_valid(path, monkeypatch):
    monkeypatch.chdir(ROOT)  # their code is named from there
    suite = read_toml(path, SuiteConfig)
    check_suite(suite)
    if path.stem == "imagenet":  # what docs/cluster.md reckons with
        assert (suite.images, len(suite.methods), len(suite.metrics)) == (None, 20, 4)


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the cells of a Markdown table by the first of each row."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
    return {name: cells for name, *cells in rows if set(name) != {"-"}}


def test_the_table_of_digits_is_part_of_the_committed_one():
    table = (ROOT / "evaluation/results/digits/table.md").read_text().split("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    kept = [cells[0].index(name) for name in ("method", "SRG ↑", "Pointing ↑", "by SRG, against the best control")]
    short = "\n".join(f"| {' | '.join(line[place] for place in kept)} |" for line in cells)
    assert short in FINDINGS.read_text()


def test_the_table_of_photographs_is_part_of_the_committed_ones():
    folder = ROOT / "evaluation/results/attention/all"
    curves = (folder / "curves/table.md").read_text().partition("**mean of 3 trainings")[2].split("\n\n")[1]
    srg = {name: cells[0].partition(" (")[0] for name, cells in rows_of(curves).items()}
    objects = rows_of((folder / "tables.md").read_text().partition("## Pointing")[2].partition("\n## ")[0])
    table = rows_of(FINDINGS.read_text().partition("## Photographs")[2].partition("\n## ")[0])
    lines = {name: cells for name, cells in table.items() if name in srg and name != "method"}
    assert len(lines) == 7
    for name, cells in lines.items():
        assert cells == [srg[name], *objects[name.strip("*")][:3]]


def test_the_numbers_of_small_boxes_are_those_of_the_committed_table():
    folder = ROOT / "evaluation/results/attention"
    small = rows_of((folder / "all/tables.md").read_text().partition("\n## Small")[2].partition("\n## ")[0])
    section = (folder / "README.md").read_text().partition("### The size of the box decides")[2].partition("\n- ")[0]
    lines = {name: cells for name, cells in rows_of(section).items() if name != "map"}
    assert len(lines) == 8
    for name, cells in lines.items():
        assert cells == small[name.strip("*")]
    for cell in (*small["Attention, mean"], *small["centre"]):
        assert cell in FINDINGS.read_text()
        assert cell.partition(" [")[0] in (ROOT / "README.md").read_text()


def test_the_table_of_the_readme_is_part_of_that_of_the_findings():
    findings = rows_of(FINDINGS.read_text().partition("## Photographs")[2].partition("\n## ")[0])
    readme = rows_of((ROOT / "README.md").read_text())
    lines = {name: cells for name, cells in readme.items() if name in findings}
    assert len(lines) == 8  # with the header
    for name, cells in lines.items():
        assert cells == [cell.partition(" [")[0].partition(" (")[0] for cell in findings[name][:3]]


def test_the_lists_of_objects_are_those_that_are_read():
    listed = rows_of((ROOT / "docs/data.md").read_text().partition("## Objects in Parquet")[2])
    described = {f"`{name}`": [str(field.description).rstrip(".")] for name, field in Record.model_fields.items()}
    assert {name: cells for name, cells in listed.items() if name != "list"} == described


def test_the_readme_counts_the_methods():
    controls = len(CONTROLS)
    assert f"{len(METHODS) - controls} methods" in (ROOT / "README.md").read_text()
    assert controls == 7
    assert "seven controls" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, _, fragment in re.findall(r"\]\((?!http)([^)#]*)(#([^)]+))?\)", prose):
        place = page.parent / target if target else page
        assert place.exists(), target
        assert not fragment or fragment in anchors_of(place), f"{target}#{fragment}"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as MkDocs and GitHub name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_commands_and_flags_exist():
    commands = get_group(app).commands
    known = {name: {flag for one in command.params for flag in one.opts} for name, command in commands.items()}
    blocks = [block for page in PAGES for block in re.findall(r"```.*?```|`[^`\n]+`", page.read_text(), re.DOTALL)]
    lines = [line for block in blocks for line in re.findall(r"(?:^|`|-m )ibviz ([a-z][^`#\n]*)", block, re.MULTILINE)]
    assert len(lines) > 30
    for line in lines:
        command, *words = line.split()
        flags = {word.strip("[],.…=") for word in words if word.startswith(("--", "[--"))}
        assert flags <= known[command] | {"--help"}, line


def test_public_names_do_not_depend_on_what_was_imported_before():
    program = f"""if True:
        import sys, torch, inspect, pkgutil, importlib
        for package in {PACKAGES}:
            for module in [name for name in sys.modules if name.split(".")[0] == "ibviz"]:
                del sys.modules[module]
            import ibviz
            found = getattr(ibviz, package)
            before = [getattr(found, name) for name in found.__all__]
            for module in pkgutil.walk_packages(found.__path__, f"ibviz.{{package}}."):
                importlib.import_module(module.name)
            assert all(one is getattr(found, name) for one, name in zip(before, found.__all__)), package
    """
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package):
    found = getattr(ibviz, package)
    for name in found.__all__:
        one = getattr(found, name)
        told = f"`{name}`" in found.__doc__ if not callable(one) else one.__doc__ and not one.__doc__.startswith(name)
        assert told, name


def test_dependencies_have_lower_bounds_and_the_floors_hold():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert {"torch>=2.11", "torchvision>=0.26"} <= set(project["dependencies"])
    assert all(">=" in requirement for requirement in project["dependencies"])
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
