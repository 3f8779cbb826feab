"""The snippets of the documents run as they stand; those of docs/how-to are in `test_how_to.py`."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image
from typer.main import get_group

from ibviz.benchmark.config import SuiteConfig
from ibviz.cli import app
from ibviz.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("how-to", "notebooks")  # run by test_how_to.py and by notebooks/render.py
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if not {*ELSEWHERE} & {*page.parts}]
PAGES = sorted([*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def pages_with(language: str):
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=[str(page.relative_to(ROOT)) for page in pages])


def test_every_block_is_of_a_language_that_is_tested():
    opened = {line for page in PAGES for line in re.findall(r"^```(.*)\n", page.read_text(), re.MULTILINE)}
    assert opened <= {"", "bash", "python", "text", "toml", "yaml"}  # "": commands, see test_documents.py


@pages_with("python")
def test_python_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", submitit(sent := []))
    Image.effect_noise((80, 64), 60).convert("RGB").save("photo.jpg")
    snippets = blocks(page, "python")
    assert all(len(snippet.splitlines()) <= 25 for snippet in snippets)
    # A later snippet goes on from those before it; a quarter of the images is enough here.
    exec("\n".join(snippets).replace("count=12", "count=3"), {})
    if page.name == "README.md":
        assert "random cells" in capsys.readouterr().out
        assert {"panel.pdf", "panel.json"} <= {path.name for path in tmp_path.iterdir()}
    if page.name == "cluster.md":
        assert [launched_suite(command) for command in sent] == ["evaluation/suites/imagenet.toml"]


@pages_with("bash")
def test_shell_scripts_parse(page):
    for script in blocks(page, "bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pages_with("toml")
def test_recipes_and_suites_are_valid(page):
    for text in blocks(page, "toml"):
        settings = tomllib.loads(text)
        of_a_suite = settings.keys() & {"methods", "metrics", "protocols", "models"}
        (SuiteConfig if of_a_suite else Recipe).model_validate(settings)


@pages_with("yaml")
def test_yaml_parses(page):
    for text in blocks(page, "yaml"):
        assert all(document["kind"] for document in yaml.safe_load_all(text))


def submitit(sent: list[list[str]]):
    """Return a stand-in for submitit that keeps the commands instead of sending them to a cluster."""
    executor = SimpleNamespace(
        update_parameters=lambda **parameters: None,
        submit=lambda function: SimpleNamespace(result=lambda: sent.append(function)),
    )
    return SimpleNamespace(
        AutoExecutor=lambda folder: executor, helpers=SimpleNamespace(CommandFunction=lambda command: command)
    )


def launched_suite(words: list[str]) -> str:
    """Return the suite that a command of `torchrun` evaluates; flags that do not exist are an error."""
    command = get_group(app).commands["evaluate"]
    context = command.make_context("evaluate", words[words.index("evaluate") + 1 :], resilient_parsing=True)
    return str(context.params["sources"][0])
