"""Mutation testing: do the tests see a changed operator, comparison, constant, condition or returned value?

    python -m evaluation.mutants --minutes 40 --out evaluation/results/reliability/mutants.json

Every mutant is one change in one module, in memory only. The tests that run its line, found by coverage, run in a
forked process, the quickest first, until one fails. All tests are collected once, before the forks: in a function its
code is exchanged; what a module does as it is imported needs a process that imports it anew. Mutants are drawn in a
seeded order, those in functions first; the same command goes on where it was stopped, and `--again` tries those that
survived once more.
"""

import argparse
import ast
import gc
import importlib.machinery
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType, FunctionType
from typing import Any

from coverage.sqldata import CoverageData
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
    *("tests/models/test_bottleneck.py", "tests/test_channels.py"),
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
LONGEST = 3600  # seconds that a process may take on a busy machine
SLOWEST = 8  # seconds of a test; slower ones are left out, which can only add survivors
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
    inside: bool  # a function, whose code can be exchanged


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
    for node, becomes, inside in changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, stop = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        was = source[start:stop].decode()
        same_lines = becomes[:-1] + "\n" * was.count("\n") + becomes[-1:]
        yield Mutant(file=file, line=node.lineno, start=start, stop=stop, was=was, becomes=same_lines, inside=inside)


def changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, bool]]:
    """List what may be replaced, by what, and whether it is inside a function."""
    for node, inside in calculating(tree, inside=False):
        yield from ((node, becomes, inside) for becomes in changed(node))
        if isinstance(node, ast.If | ast.While | ast.IfExp) and isinstance(
            node.test, ast.Name | ast.Call | ast.Attribute
        ):
            yield node.test, text(ast.UnaryOp(ast.Not(), node.test)), inside


def calculating(node: ast.AST, *, inside: bool) -> Iterator[tuple[ast.expr | ast.stmt, bool]]:
    """Walk over the expressions and statements that compute something."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":  # of zip, where it only finds mistakes
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield node, inside
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases"):
            continue
        within = inside or (isinstance(node, ast.FunctionDef | ast.Lambda) and name == "body")
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, ast.AST):
                yield from calculating(inner, inside=within)


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
        case ast.Return(ast.expr() as value):
            yield f"return ({ast.unparse(value)}, None)[1]"


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
        names = {name for name in names if self.seconds[name] < SLOWEST}
        return sorted(names, key=lambda name: self.seconds[name])


def mutated(mutant: Mutant) -> bytes:
    source = (ROOT / mutant.file).read_bytes()
    return source[: mutant.start] + mutant.becomes.encode() + source[mutant.stop :]


def exchange(mutant: Mutant) -> None:
    """Give the functions of a module that is imported already the code of a mutant."""
    path = str(ROOT / mutant.file)
    name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    loader: Any = getattr(sys.modules[name].__spec__, "loader", None)
    sources = (ROOT / mutant.file).read_bytes(), mutated(mutant)
    old, new = (loader.source_to_code(source, path) for source in sources)
    new_of = dict(zip(inner_codes(old), inner_codes(new), strict=True))
    for held in gc.get_objects():
        if type(held) is FunctionType and held.__code__.co_filename == path:
            held.__code__ = new_of.get(held.__code__, held.__code__)


def inner_codes(code: CodeType) -> Iterator[CodeType]:
    """List the code of all functions in a code, however deep."""
    for held in code.co_consts:
        if isinstance(held, CodeType):
            yield held
            yield from inner_codes(held)


class InFunctions:
    """A plugin of pytest that in the place of running the collected tests tries the mutants on them."""

    def __init__(self, tries: Callable[[Callable[[Mutant, list[str]], int]], None]) -> None:
        self.tries = tries
        self.items: dict[str, Any] = {}

    def pytest_runtestloop(self, session: Any) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        gc.freeze()
        self.tries(self.run)
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os._exit(1)

    def run(self, mutant: Mutant, tests: list[str]) -> int:
        gc.unfreeze()
        exchange(mutant)
        for name in tests:
            self.items[name].ihook.pytest_runtest_protocol(item=self.items[name], nextitem=None)
        return 0


def run_imported_anew(mutant: Mutant, tests: list[str]) -> int:
    """Run tests on a mutant in a process that has not imported its module yet; the exit code of pytest."""
    import pytest

    path, stem = str(ROOT / mutant.file), Path(mutant.file).stem
    plain, source = importlib.machinery.SourceFileLoader.get_data, mutated(mutant)

    def get_data(self: Any, wanted: str) -> bytes:
        if wanted == path:
            return source
        if wanted.endswith(".pyc") and Path(wanted).name.startswith(f"{stem}.") and stem != "__init__":
            raise OSError
        return plain(self, wanted)

    importlib.machinery.SourceFileLoader.get_data = get_data  # pyright: ignore[reportAttributeAccessIssue]
    sys.dont_write_bytecode = True
    return int(pytest.main([*QUIET, *tests]))


def attempt(mutant: Mutant, selection: Selection, run: Callable[[Mutant, list[str]], int]) -> Tried:
    """Run the tests of a mutant in a forked process; more than five times their usual time is an endless loop."""
    tests = selection.tests(mutant)
    expected = sum(selection.seconds[name] for name in tests)

    def work() -> int:
        limit = int(30 + 5 * expected)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        return run(mutant, tests)

    with TemporaryDirectory() as folder:
        code = ended(forked(work, Path(folder, "said")), LONGEST) if tests else 0
    outcome = "timeout" if code in (None, -signal.SIGXCPU, -signal.SIGKILL) else "killed" if code else "survived"
    return Tried(mutant=mutant, outcome=outcome, tests=len(tests))


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
    """Return versions and commit; ibviz is not imported, since a process that has it cannot import a mutant."""
    names = ("ibviz", "torch", "numpy", "pytest", "coverage")
    asked = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {"commit": asked.stdout.strip(), "python": platform.python_version(), **{one: version(one) for one in names}}


def files() -> list[str]:
    found = [path for place in MODULES for path in sorted([*(ROOT / place).rglob("*.py"), ROOT / place])]
    return [str(path.relative_to(ROOT)) for path in found if path.is_file()]


def load(path: Path) -> Mutation:
    """Read what was tried before; of modules that have changed since, nothing stays."""
    held = Mutation.model_validate_json(path.read_text()) if path.exists() else Mutation()
    there = {mutant for file in files() for mutant in mutants_of(file)}
    return held.model_copy(update={"tried": [tried for tried in held.tried if tried.mutant in there]})


def try_all(given: argparse.Namespace, chosen: list[Mutant], run: Callable[[Mutant, list[str]], int]) -> None:
    """Try mutants one after the other until all are done or the time is over."""
    mutation, selection, begun = load(given.out), Selection(given.kept), time.monotonic()
    done = {tried.mutant for tried in mutation.tried}
    for mutant in chosen[:1]:
        same = attempt(mutant.model_copy(update={"becomes": mutant.was}), selection, run)
        if same.outcome != "survived":
            raise SystemExit(f"the tests of {mutant.file}:{mutant.line} fail without a mutant")
    for mutant in chosen:
        if mutant in done:
            continue
        if time.monotonic() - begun > 60 * given.minutes:
            return
        mutation.tried.append(attempt(mutant, selection, run))
        save(mutation, given.out)


def try_in_functions(given: argparse.Namespace, chosen: list[Mutant]) -> int:
    """Collect all tests and try the mutants whose code can be exchanged."""
    import pytest

    return int(pytest.main([*QUIET, *TESTS], plugins=[InFunctions(lambda run: try_all(given, chosen, run))]))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="JSON file of all outcomes, read where it is there")
    options.add_argument(
        "--minutes", type=float, default=40, help="time for each kind of mutant; 0: print what is known"
    )
    options.add_argument(
        "--kept", type=Path, default=ROOT / "runs/mutants", help="folder for the coverage of the tests"
    )
    options.add_argument("--again", action="store_true", help="try those that survived once more, on new tests")
    given = options.parse_args()
    given.out, given.kept = given.out.absolute(), given.kept.absolute()
    os.chdir(ROOT)
    every = [mutant for file in files() for mutant in mutants_of(file)]
    random.Random(0).shuffle(every)
    mutation = load(given.out)
    mutation.circumstances = circumstances()
    mutation.mutants = {file: sum(mutant.file == file for mutant in every) for file in files()}
    if given.again:
        mutation.tried = [tried for tried in mutation.tried if tried.outcome != "survived"]
    save(mutation, given.out)
    if given.minutes:
        preload(LIBRARIES)
        given.kept.mkdir(parents=True, exist_ok=True)
        if given.again or not (given.kept / "seconds.json").exists():
            os.environ["COVERAGE_FILE"] = str(given.kept / ".coverage")
            if ended(forked(lambda: cover(given.kept), given.kept / "said"), 4 * 3600) != 0:
                raise SystemExit(f"the tests fail without a mutant: {given.kept / 'said'}")
            os.environ.pop("COVERAGE_FILE")
        inside = [mutant for mutant in every if mutant.inside]
        ended(forked(lambda: try_in_functions(given, inside), given.kept / "said"), 24 * 3600)
        try_all(given, [mutant for mutant in every if not mutant.inside], run_imported_anew)
    print(said(load(given.out)))


if __name__ == "__main__":
    main()
