"""The table of damage: one random bit of a file of a run is flipped, and the file is read by what uses it.

    python -m evaluation.damage --out evaluation/results/reliability/damage.json

What comes of a try is one of: equal (the bit changes nothing), repaired (the damage is said, and the result is that of
the sound file), refused (one `InputError` that names the file), unnamed (one that does not), silent (another result)
and traceback. The same command goes on where it was stopped.
"""

import argparse
import io
import json
import platform
import random
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel

from evaluation.tiny import contents, draw_few, recipe, suite, without_times
from ibviz.benchmark.evaluation import versions
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner import loop
from ibviz.benchmark.runner.loop import run_suite
from ibviz.errors import InputError
from ibviz.files import command, replacing
from ibviz.models.checkpoint import read_tensors
from ibviz.models.loading import load
from ibviz.training.loop import train
from ibviz.workflows.anchors import study_anchors
from ibviz.workflows.evaluate import evaluate_suite, load_all, verify_result
from ibviz.workflows.explain import Request, explain_files
from ibviz.workflows.figure import redraw_files
from ibviz.workflows.report import write_report

OUTCOMES = ("equal", "repaired", "refused", "unnamed", "silent", "traceback")
ROUND = 20  # tries of a kind before the counts are written
TABLES = ("rows.parquet", "images.parquet", "predictions.parquet", "curves.parquet")


class Kind(NamedTuple):
    """A kind of file: the run it lies in, how often it is damaged, and what reads it."""

    run: str
    file: str  # the first that fits this pattern
    tries: int
    use: Callable[[Path], Any]


class Counts(BaseModel):
    """What came of the tries of one kind."""

    read_by: str
    tries: int = 0
    outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    failures: list[str] = []  # of silent, unnamed and traceback


class Damage(BaseModel):
    """The whole table."""

    seconds: float = 0
    circumstances: dict[str, str] = {}
    kinds: dict[str, Counts] = {}


class StoppedError(Exception):
    """A run that is stopped on purpose."""


def trained(folder: Path) -> None:
    """Train two of three epochs."""

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise StoppedError

    try:
        train(recipe(), folder, report=stop)
    except StoppedError:
        return


def judged(folder: Path) -> None:
    evaluate_suite(suite(), folder, device="cpu")
    study_anchors(load("digits"), folder / "study", limit=4)


def unfinished(folder: Path) -> None:
    """Judge all batches without putting them together."""
    plain = loop.finish
    loop.finish = lambda *_: None
    try:
        run_suite(suite(), load_all(suite(), "cpu"), folder)
    finally:
        loop.finish = plain


def explained(folder: Path) -> None:
    from PIL import Image

    Image.effect_noise((64, 64), 60).convert("RGB").save(folder / "photo.png")
    explain_files(Request(folder / "photo.png", {"attention": {}}), load("digits"), folder / "out")


RUNS: dict[str, Callable[[Path], None]] = {
    "training": trained,
    "result": judged,
    "parts": unfinished,
    "explained": explained,
}


def resume_training(folder: Path) -> Any:
    train(recipe(), folder, resume=True, report=lambda _: None)
    tensors, header = read_tensors(folder / "checkpoint.safetensors", "checkpoint")
    return (
        (folder / "model.safetensors").read_bytes(),
        [tensors[name].numpy().tobytes() for name in sorted(tensors)],
        header,
    )


def load_weights(folder: Path) -> Any:
    model = load(str(folder))
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}, model.spec, model.facts


def resume_judging(folder: Path) -> Any:
    run_suite(suite(), load_all(suite(), "cpu"), folder, resume=True)
    said = json.loads((folder / "circumstances.json").read_text())
    maps = {name: content for name, content in contents(folder).items() if name.startswith("maps/")}
    return {name: (folder / name).read_bytes() for name in TABLES}, maps, without_times(said)


def report(folder: Path) -> Any:
    return write_report(folder).read_bytes()


def report_with_study(folder: Path) -> Any:
    return write_report(folder, anchors=folder / "study").read_bytes()


def verify(folder: Path) -> Any:
    return str(verify_result(suite(), folder, root=None, device="cpu"))


def read_tables(folder: Path) -> Any:
    results = read_results(folder)
    return without_times(results.circumstances), results.rows.to_json(), results.predictions.to_json()


def redraw(sidecar: str) -> Callable[[Path], Any]:
    def use(folder: Path) -> Any:
        return [path.read_bytes() for path in redraw_files(folder / sidecar, folder / "again.png")]

    return use


KINDS = {
    "checkpoint": Kind("training", "checkpoint.safetensors", 300, resume_training),
    "log of a training": Kind("training", "log.parquet", 60, resume_training),
    "weights": Kind("training", "model.safetensors", 250, load_weights),
    "rows": Kind("result", "rows.parquet", 100, read_tables),
    "rows, verified": Kind("result", "rows.parquet", 50, verify),
    "images": Kind("result", "images.parquet", 40, report),
    "predictions": Kind("result", "predictions.parquet", 40, report),
    "curves": Kind("result", "curves.parquet", 40, report),
    "circumstances": Kind("result", "circumstances.json", 60, report),
    "plan of a result": Kind("result", "plan.json", 40, verify),
    "maps of a result": Kind("result", "maps/digits/Attention/*.safetensors", 40, report),
    "study of anchors": Kind("result", "study/anchors.json", 60, report_with_study),
    "tables of a part": Kind("parts", "parts/000001/rows.parquet", 80, resume_judging),
    "pictures of a part": Kind("parts", "parts/000000/images.parquet", 20, resume_judging),
    "curves of a part": Kind("parts", "parts/000002/curves.parquet", 20, resume_judging),
    "facts of a part": Kind("parts", "parts/000001/facts.json", 40, resume_judging),
    "plan of a run": Kind("parts", "plan.json", 40, resume_judging),
    "stored maps": Kind("parts", "maps/digits/Grad-CAM/*.safetensors", 60, resume_judging),
    "sidecar": Kind("result", "curves.json", 100, redraw("curves.json")),
    "data of a sidecar": Kind("result", "curves.data.safetensors", 100, redraw("curves.json")),
    "maps of explain": Kind("explained", "out/maps-photo.safetensors", 60, lambda folder: exact_maps(folder / "out")),
}


def exact_maps(folder: Path) -> Any:
    tensors, header = read_tensors(folder / "maps-photo.safetensors", "maps")
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}, header


def flip(path: Path, number: int, of: str) -> int:
    """Flip one bit, another one for each number; return which."""
    content = bytearray(path.read_bytes())
    bit = random.Random(f"{of} {number}").randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.unlink()  # it may be a link of a sound file
    path.write_bytes(bytes(content))
    return bit


def attempt(kind: Kind, folder: Path, target: Path, sound: Any) -> tuple[str, str]:
    """Read a damaged file by what uses it; return what came of it, and what there is to tell."""
    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.use(folder)
    except InputError as error:
        names = (target.name, target.parent.name + "/", str(folder / target.parent))
        return ("refused", "") if any(name in str(error) for name in names) else ("unnamed", str(error))
    except Exception:
        return "traceback", traceback.format_exc(limit=-3)
    if found != sound:
        return "silent", said.getvalue()
    return ("repaired" if target.name in said.getvalue() or target.parent.name in said.getvalue() else "equal"), ""


def study(name: str, kind: Kind, source: Path, counts: Counts) -> None:
    """Damage a file of one kind `ROUND` times more, but not more often than asked."""
    with TemporaryDirectory() as place:
        whole = Path(place, "sound")
        shutil.copytree(source, whole)
        sound = kind.use(whole)
        for number in range(counts.tries, min(kind.tries, counts.tries + ROUND)):
            folder = Path(place, "damaged")
            shutil.copytree(source, folder)
            target = sorted(folder.glob(kind.file))[0]
            bit = flip(target, number, name)
            what, told = attempt(kind, folder, target, sound)
            counts.tries += 1
            counts.outcomes[what] += 1
            if told:
                counts.failures.append(f"try {number}, bit {bit}: {what}: {told}")
            shutil.rmtree(folder)


def in_rounds(chosen: dict[str, Kind], damage: Damage) -> Iterator[tuple[str, Kind]]:
    """Take the kinds in turn until each has been damaged as often as asked."""
    left = dict(chosen)
    while left:
        for name, kind in list(left.items()):
            if name in damage.kinds and damage.kinds[name].tries >= kind.tries:
                del left[name]
            else:
                yield name, kind


def save(damage: Damage, path: Path) -> None:
    with replacing(path) as beside:
        beside.write_text(json.dumps(damage.model_dump(), indent=1) + "\n")


def table(damage: Damage) -> str:
    """Return the counts as Markdown."""
    lines = ["| file | " + " | ".join(("tries", *OUTCOMES)) + " |", "|---" * (len(OUTCOMES) + 2) + "|"]
    for name, counts in damage.kinds.items():
        cells = [name, counts.tries, *(counts.outcomes[what] for what in OUTCOMES)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True, help="JSON file of the counts, read where it is there")
    options.add_argument("--only", default="", help="kinds of files, separated by commas")
    given = options.parse_args()
    torch.set_num_threads(1)
    draw_few()
    damage = Damage.model_validate_json(given.out.read_text()) if given.out.exists() else Damage()
    damage.circumstances = {"command": command(), "python": platform.python_version(), **versions()}
    chosen = {name: kind for name, kind in KINDS.items() if not given.only or name in given.only.split(",")}
    with TemporaryDirectory() as place:
        for name, kind in in_rounds(chosen, damage):
            begun, source = time.monotonic(), Path(place, kind.run)
            if not source.exists():
                source.mkdir()
                RUNS[kind.run](source)
            study(name, kind, source, damage.kinds.setdefault(name, Counts(read_by=kind.use.__name__)))
            damage.seconds += time.monotonic() - begun
            save(damage, given.out)
    print(table(damage))


if __name__ == "__main__":
    main()
