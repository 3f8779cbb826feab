"""Names and first lines of docstrings in the package, which a reader meets before anything else."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ibviz

ROOT = Path(ibviz.__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}
UNSAID = {"one", "found", "it"}  # names of variables that do not say what they hold
RIDDLES = re.compile(r"(What|Which|Where|Whether|How|When|Who|By|Of|In place|Neither|Not)\b")


def definitions(tree: ast.Module) -> Iterator[str]:
    """The public names that a module defines."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def variables(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg


def first_lines(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
            yield (ast.get_docstring(node) or "").partition("\n")[0]


def test_no_two_modules_define_one_public_name():
    owners = defaultdict(list)
    for path, tree in TREES.items():
        for name in {*definitions(tree)}:
            owners[name].append(path.relative_to(ROOT).as_posix())
    assert {name: several for name, several in owners.items() if len(several) > 1} == {}


def test_variables_say_what_they_hold():
    assert {path: names for path, tree in TREES.items() if (names := UNSAID & {*variables(tree)})} == {}


def test_docstrings_begin_with_what_is_done_or_returned():
    odd = [(path.name, line) for path, tree in TREES.items() for line in first_lines(tree) if RIDDLES.match(line)]
    assert odd == []


def test_the_checks_see_what_they_look_for():
    tree = ast.parse('"""What it is."""\ndef twice(): ...\nfor one in (): found: int = 1\n_hidden = TABLE = 2')
    assert [*definitions(tree)] == ["twice", "TABLE"]
    assert UNSAID & {*variables(tree)} == {"one", "found"}
    assert [bool(RIDDLES.match(line)) for line in first_lines(tree)] == [True, False]
