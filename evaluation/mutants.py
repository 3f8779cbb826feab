"""Mutation testing: do the tests see a changed operator, comparison, constant, condition or returned value?

    python -m evaluation.mutants --minutes 40 --out evaluation/results/reliability/mutants.json

Every mutant is one change in one module, in memory only. The tests that run its line, found by coverage, run in a
forked process, the quickest first, until one fails. Mutants are drawn in a seeded order; the same command goes on where
it was stopped, and `--again` tries those that survived once more.
"""

import argparse
import ast
import importlib.machinery
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from coverage import CoverageData
from pydantic import BaseModel

from evaluation.forking import ended, forked, preload

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *(
        "torch",
        "torchvision",
        "torchmetrics",
        "captum.attr",
        "cv2",
        "scipy.stats",
        "scipy.ndimage",
        "pandas",
        "pyarrow",
    ),
    *("pyarrow.parquet", "matplotlib.pyplot", "skimage.segmentation", "sklearn", "statsmodels.api", "PIL.Image"),
    *("huggingface_hub", "hypothesis", "pytest", "_pytest.doctest", "jaxtyping", "beartype.door", "timm", "typer"),
)
MODULES = ("ibviz/metrics", "ibviz/statistics", "ibviz/models/quantizer.py", "ibviz/models/bottleneck.py")
TESTS = (
    *("tests/metrics", "tests/test_statistics.py", "tests/test_variance.py", "tests/models/test_quantizer.py"),
    *("tests/models/test_gate.py", "tests/models/test_classifier.py", "tests/benchmark/test_summary.py", *MODULES),
)
QUIET = [
    "-q",
    "-x",
    "-p",
    "no:cacheprovider",
    "--no-header",
    "--no-summary",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]
COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


class Mutant(BaseModel, frozen=True):
    """One change, by the bytes of its module that it replaces."""

    file: str
    line: int
    start: int
    stop: int
    was: str
    becomes: str


class Tried(BaseModel):
    """A mutant and what came of it: killed, timeout or survived."""

    mutant: Mutant
    outcome: str
    tests: int


class Mutation(BaseModel):
    """All mutants that were tried."""

    circumstances: dict[str, Any] = {}
    mutants: dict[str, int] = {}  # of each module, tried or not
    tried: list[Tried] = []


def mutants_of(file: str) -> Iterator[Mutant]:
    """List the mutants of a module: none in annotations, docstrings, texts of errors and f-strings."""
    source = (ROOT / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, becomes in changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        was = source[start:stop].decode()
        yield Mutant(file=file, line=node.lineno, start=start, stop=stop, was=was, becomes=becomes)


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """List what may be replaced, and by what."""
    for node in calculating(tree):
        yield from ((node, becomes) for becomes in changed(node))
        if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(
            node.test, ast.Name | ast.Call | ast.Attribute
        ):
            yield node.test, text(ast.UnaryOp(ast.Not(), node.test))


def calculating(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Walk over the expressions and statements that compute something."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node
    skipped = {"annotation", "returns", "decorator_list", "bases"}
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST):
                yield from calculating(inner)


def changed(node: ast.expr | ast.stmt) -> Iterator[str]:
    """Return what may stand in the place of a node."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in COMPARED:
            yield text(ast.Compare(left, [COMPARED[type(operator)]()], [right]))
        case ast.BinOp(left, operator, right) if type(operator) in OPERATED and not is_text(left):
            yield text(ast.BinOp(left, OPERATED[type(operator)](), right))
        case ast.AugAssign(target, operator, value) if type(operator) in OPERATED:
            yield ast.unparse(ast.AugAssign(target, OPERATED[type(operator)](), value))
        case ast.BoolOp(operator, values):
            yield text(ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values))
        case ast.UnaryOp(ast.Not() | ast.USub() | ast.Invert(), operand):
            yield text(operand)
        case ast.Constant(int() | float() as value):
            yield str(not value) if isinstance(value, bool) else f"({value} + 1)"
        case ast.Return(ast.expr()):
            yield "return None"


def text(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


class Durations:
    """A plugin of pytest that keeps how long each test took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


def cover(kept: Path) -> int:
    """Run all tests once and keep which lines each of them runs, and how long it takes."""
    import pytest

    durations, options = Durations(), ["--cov=ibviz", "--cov-context=test", "--cov-report="]
    code = pytest.main([*QUIET, *options, *TESTS], plugins=[durations])
    (kept / "seconds.json").write_text(json.dumps(durations.seconds))
    return int(code)


class Selection:
    """The tests of each line of the modules."""

    def __init__(self, kept: Path) -> None:
        self.data = CoverageData(str(kept / ".coverage"))
        self.data.read()
        self.seconds: dict[str, float] = json.loads((kept / "seconds.json").read_text())

    def tests(self, mutant: Mutant) -> list[str]:
        """Return the tests that run the lines of a mutant, the quickest first; at import, those of the whole module."""
        by_line = self.data.contexts_by_lineno(str(ROOT / mutant.file))
        contexts = set(by_line.get(mutant.line, []))
        if "" in contexts or not contexts:
            contexts = {context for several in by_line.values() for context in several}
        names = {context.partition("|")[0] for context in contexts} & self.seconds.keys()
        return sorted(names, key=lambda name: self.seconds[name])


def replace_source(path: str, source: bytes) -> None:
    """Let this process import a module from other bytes than its file holds."""
    plain, stem = importlib.machinery.SourceFileLoader.get_data, Path(path).stem

    def get_data(self: Any, wanted: str) -> bytes:
        if wanted == path:
            return source
        if wanted.endswith(".pyc") and Path(wanted).name.startswith(f"{stem}.") and stem != "__init__":
            raise OSError
        return plain(self, wanted)

    importlib.machinery.SourceFileLoader.get_data = get_data  # pyright: ignore[reportAttributeAccessIssue]
    sys.dont_write_bytecode = True


def run_tests(mutant: Mutant | None, tests: list[str]) -> int:
    """Run tests on a mutant, or on the code as it is; the exit code of pytest."""
    import pytest

    if mutant is not None:
        source = (ROOT / mutant.file).read_bytes()
        replace_source(
            str(ROOT / mutant.file), source[: mutant.start] + mutant.becomes.encode() + source[mutant.stop :]
        )
    return int(pytest.main([*QUIET, *tests]))


def outcome(mutant: Mutant | None, tests: list[str], seconds: float) -> str:
    with TemporaryDirectory() as folder:
        code = ended(forked(lambda: run_tests(mutant, tests), Path(folder, "said")), seconds)
    return "timeout" if code is None else "killed" if code else "survived"


def attempt(mutant: Mutant, selection: Selection) -> Tried:
    tests = selection.tests(mutant)
    if not tests:
        return Tried(mutant=mutant, outcome="survived", tests=0)
    expected = sum(selection.seconds[name] for name in tests)
    return Tried(mutant=mutant, outcome=outcome(mutant, tests, 20 + 5 * expected), tests=len(tests))


def save(mutation: Mutation, path: Path) -> None:
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(mutation.model_dump(), indent=1) + "\n")
    beside.replace(path)


def said(mutation: Mutation) -> str:
    """Count what came of the mutants, by module, and list those that survived."""
    lines = ["| module | mutants | tried | killed | timeout | survived |", "|---|---|---|---|---|---|"]
    for file, there in mutation.mutants.items():
        own = [tried.outcome for tried in mutation.tried if tried.mutant.file == file]
        counts = [own.count(kind) for kind in ("killed", "timeout", "survived")]
        lines.append(f"| {file} | {there} | {len(own)} | " + " | ".join(map(str, counts)) + " |")
    dead = sum(tried.outcome != "survived" for tried in mutation.tried)
    lines.append(f"\n{dead} of {len(mutation.tried)} killed, {dead / max(1, len(mutation.tried)):.1%}\n")
    left = [tried.mutant for tried in mutation.tried if tried.outcome == "survived"]
    return "\n".join(lines + [f"{one.file}:{one.line}  {one.was}  ->  {one.becomes}" for one in left])


def circumstances() -> dict[str, Any]:
    from importlib.metadata import version

    names = ("ibviz", "torch", "numpy", "pytest", "coverage")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def files() -> list[str]:
    found = [path for place in MODULES for path in sorted([*(ROOT / place).rglob("*.py"), ROOT / place])]
    return [str(path.relative_to(ROOT)) for path in found if path.is_file()]


def load(path: Path) -> Mutation:
    """Read what was tried before; of modules that have changed since, nothing stays."""
    held = Mutation.model_validate_json(path.read_text()) if path.exists() else Mutation()
    there = {mutant for file in files() for mutant in mutants_of(file)}
    return held.model_copy(update={"tried": [tried for tried in held.tried if tried.mutant in there]})


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="JSON file of all outcomes, read where it is there")
    options.add_argument("--minutes", type=float, default=40, help="time for this call; 0 prints what is known")
    options.add_argument(
        "--kept", type=Path, default=ROOT / "runs/mutants", help="folder for the coverage of the tests"
    )
    options.add_argument("--again", action="store_true", help="try those that survived once more, on new tests")
    given = options.parse_args()
    mutation, begun = load(given.out), time.monotonic()
    if given.again:
        mutation.tried = [tried for tried in mutation.tried if tried.outcome != "survived"]
    preload(LIBRARIES)
    os.chdir(ROOT)
    given.kept.mkdir(parents=True, exist_ok=True)
    if given.minutes and (given.again or not (given.kept / "seconds.json").exists()):
        os.environ["COVERAGE_FILE"] = str(given.kept / ".coverage")
        with suppress(FileNotFoundError):
            (given.kept / "said").unlink()
        if ended(forked(lambda: cover(given.kept), given.kept / "said"), 3600) != 0:
            raise SystemExit(f"the tests fail without a mutant: {given.kept / 'said'}")
        os.environ.pop("COVERAGE_FILE")
    every = [mutant for file in files() for mutant in mutants_of(file)]
    random.Random(0).shuffle(every)
    done = {tried.mutant for tried in mutation.tried}
    mutation.mutants = {file: sum(mutant.file == file for mutant in every) for file in files()}
    mutation.circumstances = circumstances()
    for mutant in [mutant for mutant in every if mutant not in done]:
        if time.monotonic() - begun > 60 * given.minutes:
            break
        mutation.tried.append(attempt(mutant, Selection(given.kept)))
        save(mutation, given.out)
    print(said(mutation))


if __name__ == "__main__":
    main()
