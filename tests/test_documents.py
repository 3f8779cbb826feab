"""What the documents say is what the project does."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from networks import bottlenecked

from ibviz.benchmark.runner.loop import check_suite
from ibviz.config import Recipe, SuiteConfig, Sweep, read_toml
from ibviz.models.checkpoint import save_model
from ibviz.training.sweep import grid

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/recipes").glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path):
    recipe = read_toml(path, Recipe)
    if path.stem == "digits":
        assert recipe == Recipe()  # what `ibviz demo` trains


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/sweeps").glob("*.toml")), ids=lambda path: path.stem)
def test_every_sweep_is_valid(path):
    runs = grid(read_toml(path, Sweep)).values()
    assert len(set(runs)) == len(runs) >= 6


@pytest.mark.parametrize("path", sorted((ROOT / "evaluation/suites").glob("*.toml")), ids=lambda path: path.stem)
def test_every_suite_is_valid(path):
    suite = read_toml(path, SuiteConfig)
    check_suite(suite)
    if path.stem == "imagenet":  # what docs/cluster.md reckons with
        assert (suite.images, len(suite.methods), len(suite.metrics)) == (None, 20, 4)


def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "runs/demo/model.safetensors", bottlenecked(), {})
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    exec(snippet.replace("count=50", "count=6"), {})
    assert "random cells" in capsys.readouterr().out
    assert {"panel.pdf", "panel.json"} <= {path.name for path in tmp_path.iterdir()}


def test_the_readme_table_is_the_committed_one():
    table = (ROOT / "evaluation/results/digits/table.md").read_text().split("\n\n")[0]
    assert table in (ROOT / "README.md").read_text()


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_dependencies_have_lower_bounds_and_the_floors_hold():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11"
    assert {"torch>=2.11", "torchvision>=0.26"} <= set(project["dependencies"])
    assert all(">=" in requirement for requirement in project["dependencies"])
    assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)
