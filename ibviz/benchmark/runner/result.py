"""The result of a run: its parts, possibly from several folders, assembled and described by circumstances."""

import json
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ibviz.benchmark.results import CIRCUMSTANCES, COLUMNS, RUN_AGAIN, read_circumstances
from ibviz.benchmark.runner.parts import (
    PARTS_FOLDER,
    assemble,
    missing_parts,
    part_folder,
    read_facts,
    remove_leftovers,
)
from ibviz.benchmark.runner.plan import FILE, Plan, keep_plan, read_plan, resolve_controls
from ibviz.benchmark.setup import versions
from ibviz.benchmark.store import maps_folder, shards
from ibviz.benchmark.suite import entries, metric_facts
from ibviz.data.image_set import Fault
from ibviz.data.listing import check_faults
from ibviz.digests import digest_files, seal
from ibviz.errors import InputError
from ibviz.files import command, ensure_folder, link, locked, replacing, replacing_folder
from ibviz.metrics.protocol import Card, digest
from ibviz.reading import validated
from ibviz.types import Grid

if TYPE_CHECKING:
    import pyarrow as pa

Facts = dict[str, Any]


def is_finished(out: Path, plan: Plan) -> bool:
    """Return True if the folder holds the result of this plan; refuse a result that has changed since."""
    path = out / CIRCUMSTANCES
    if not path.is_file():
        return False
    failure = f"{path} does not hold the circumstances of a run"
    result = validated(FinishedResult, read_circumstances(out), failure, RUN_AGAIN)
    return result.plan == plan_hash(plan)


class FinishedResult(BaseModel):
    """The hash of the plan of a result."""

    plan: str


def check_maps(out: Path, plan: Plan) -> None:
    """Refuse to resume a result without its maps, which would otherwise not be computed again."""
    if not is_finished(out, plan):
        return
    asked = [(model, method) for model, planned in plan.models.items() for method in planned.methods]
    gone = [f"{method} of {model}" for model, method in asked if not maps_folder(out, model, method).is_dir()]
    if gone:
        raise InputError(
            f"{out} holds a finished result without {len(gone)} of its {len(asked)} sets of maps, such as "
            f"{gone[0]}: run into another folder to have them"
        )


def remove_parts(out: Path) -> None:
    """Remove the parts of which a result was put together."""
    shutil.rmtree(out / PARTS_FOLDER, ignore_errors=True)


def plan_hash(plan: Plan) -> str:
    """Return eight digits that identify a plan; recipes are left out, since they do not affect the run."""
    excluded: dict[str, Any] = {"models": {"__all__": {"recipe"}}} | ({} if plan.code else {"code": True})
    return digest(plan.model_dump(mode="json", exclude=excluded))


def finish(out: Path, plan: Plan) -> None:
    """Assemble all parts, write the circumstances, and remove the parts."""
    facts = [read_facts(out, batch) for batch in range(len(plan.bounds))]
    for batch, part in enumerate(facts):
        if part["data"].keys() != plan.models.keys():
            raise InputError(
                f"{part_folder(out, batch)} is of the networks {', '.join(part['data'])}, the run of "
                f"{', '.join(plan.models)}: delete it and resume the run"
            )
    check_faults([Fault(name, f"cannot read {name}") for part in facts for name in part["skipped"]], plan.images)
    counts = [part["images"] for part in facts]
    if not any(counts):
        raise InputError("none of the images can be read")
    cards = {(model, label): card for model in plan.models for label, card in _cards(plan, model, facts).items()}
    assemble(out, counts, lambda rows: _hashes(rows, cards))
    digests = {"files": digest_files(out, [FILE, *(f"{name}.parquet" for name in COLUMNS)])}
    text = json.dumps(seal(_circumstances(plan, facts, cards) | digests), indent=1) + "\n"
    with replacing(out / CIRCUMSTANCES) as beside:
        beside.write_text(text)
    remove_parts(out)


def _cards(plan: Plan, model: str, facts: Sequence[Facts]) -> dict[str, Card]:
    """Return the cards of a network's protocols, with hashes of data, weights and code, and versions of packages."""
    planned, data = plan.models[model], digest([part["data"][model] for part in facts])
    return {
        label: Card(protocol=protocol, data=data, weights=planned.weights, code=plan.code, versions=versions())
        for label, protocol in planned.protocols.items()
    }


def _hashes(rows: "pa.Table", cards: Mapping[tuple[str, str], Card]) -> list[str]:
    """Return the hash of each row's card; for rows on a map's own grid, the protocol has no grid."""
    known = {
        (*key, native): (_own_grid(card) if native else card).hash for key, card in cards.items() for native in (0, 1)
    }
    columns = (rows[name].to_pylist() for name in ("model", "protocol", "native"))
    keys = [(model, protocol, int(native or 0)) for model, protocol, native in zip(*columns, strict=True)]
    if strange := set(keys) - known.keys():
        raise InputError(
            f"rows of a part are of network and protocol {min(map(str, strange))}, which are none of the "
            "run's; delete the parts and resume the run"
        )
    return [known[key] for key in keys]


def _own_grid(card: Card) -> Card:
    return card.model_copy(update={"protocol": card.protocol.model_copy(update={"grid": None})})


def _circumstances(plan: Plan, facts: Sequence[Facts], cards: Mapping[tuple[str, str], Card]) -> dict[str, Any]:
    grid = plan.grid
    assert grid is not None
    return {
        "command": command(),
        "commit": commit(),
        "plan": plan_hash(plan),
        "suite": plan.suite.model_dump(mode="json"),
        "models": {
            label: planned.model_dump(include={"name", "weights", "class_names", "size", "reliance", "recipe"})
            | {"protocols": _cards_of(cards, label)}
            for label, planned in plan.models.items()
        },
        "methods": _methods(plan, grid),
        "metrics": {name: facts._asdict() for name, facts in metric_facts(plan.metrics).items()},
        "protocols": _cards_of(cards, next(iter(plan.models))),
        "images": sum(part["images"] for part in facts),
        "skipped": [name for part in facts for name in part["skipped"]],
        "failures": _failures(facts),
        "map_errors": _map_errors(facts),
        "left_out": [absent.model_dump() for absent in plan.left_out],
        "forward_passes": sum(part["forward_passes"] for part in facts),
        "seconds": round(sum(part["seconds"] for part in facts), 1),
        "device": "; ".join(dict.fromkeys(part["device"] for part in facts)),
        "python": platform.python_version(),
        "versions": versions(),
    }


def _methods(plan: Plan, grid: Grid) -> dict[str, Any]:
    """Return name and options behind each label; the average map, which differs between networks, without its cells."""
    trained = any(planned.average is not None for planned in plan.models.values())
    return {
        label: {
            "method": entry.method,
            "control": entry.control,
            "options": {} if entry.method == "average_map" else dict(entry.options),
        }
        for label, entry in resolve_controls(entries(plan.suite), grid, () if trained else None).items()
    }


def _cards_of(cards: Mapping[tuple[str, str], Card], model: str) -> dict[str, Any]:
    """Return a network's cards as plain values by protocol label, with their hashes."""
    own = {label: card for (name, label), card in cards.items() if name == model}
    return {label: card.model_dump(mode="json") | {"hash": card.hash} for label, card in own.items()}


def _failures(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return one entry per network, method and error, with the indices of all its images."""
    images: dict[tuple[str, str, str], list[int]] = {}
    before = 0
    for part in facts:
        for failure in part["failures"]:
            key = (failure["model"], failure["method"], failure["error"])
            images.setdefault(key, []).extend(before + place for place in failure["images"])
        before += part["images"]
    return [
        {"model": model, "method": method, "images": some, "error": error}
        for (model, method, error), some in images.items()
    ]


def _map_errors(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """Return the median and the largest standard error of the maps of each network and method that draws."""
    errors: dict[tuple[str, str], list[float | None]] = {}
    for part in facts:
        for own in part["errors"]:
            errors.setdefault((own["model"], own["method"]), []).extend(own["errors"])
    return [{"model": model, "method": method, **spread_of(some)} for (model, method), some in errors.items()]


def spread_of(errors: Sequence[float | None]) -> dict[str, float | int | None]:
    """Return the number of errors, their median and the largest; an unknown error, None, counts as the largest.

    >>> spread_of([0.25, None, 0.5])
    {'maps': 3, 'median': 0.5, 'largest': None}
    """
    ranked = sorted(errors, key=lambda error: math.inf if error is None else error)
    return {"maps": len(ranked), "median": ranked[len(ranked) // 2], "largest": ranked[-1]}


def commit() -> str | None:
    """Return the commit of the current folder, with `-dirty` if files differ from it; None outside of a checkout."""
    with suppress(OSError, subprocess.CalledProcessError):
        # The configuration of an untrusted checkout could make git run commands; these two options prevent it.
        calm = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
        asked = ["git", *calm, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return None


def merge(folders: Sequence[Path], out: Path) -> None:
    """Merge the folders of several processes into one result in `out`.

    Files are linked instead of copied if possible. Raises `InputError` for folders of different runs, and if batches
    are missing.
    """
    plans = {folder: read_plan(folder) for folder in folders}
    for folder, plan in plans.items():
        if plan is None:
            raise InputError(f"{folder} holds no run; expected a folder of `ibviz evaluate`")
    first, plan = next((folder, plan) for folder, plan in plans.items() if plan is not None)
    for folder, other in plans.items():
        if other is not None and plan_hash(other) != plan_hash(plan):
            raise InputError(
                f"{folder} has plan {plan_hash(other)}, {first} has {plan_hash(plan)}: only processes of "
                "one run can be merged"
            )
    ensure_folder(out)
    with locked(out):
        remove_leftovers(out)
        keep_plan(out, plan)
        for folder in folders:
            _collect(folder, out, plan)
        if gone := missing_parts(out, len(plan.bounds)):
            raise InputError(
                f"{len(gone)} of {len(plan.bounds)} batches are in none of the folders, the first number "
                f"{gone[0]}: resume the run where they were begun, or in {out}"
            )
        finish(out, plan)


def _collect(folder: Path, out: Path, plan: Plan) -> None:
    """Link or copy the parts that `out` lacks, each after the maps that it was judged from."""
    there = shards(folder)
    try:
        for batch, (start, _) in enumerate(plan.bounds):
            part, own = part_folder(folder, batch), part_folder(out, batch)
            if not part.is_dir() or own.is_dir():
                continue
            for shard in there.get(start, []):
                _collect_shard(shard, out / shard.relative_to(folder))
            with replacing_folder(own) as beside:
                for file in part.iterdir():
                    link(file, beside / file.name)
    except OSError as error:
        raise InputError(f"cannot bring {folder} to {out}: {error.strerror or error}") from error


def _collect_shard(shard: Path, own: Path) -> None:
    """Link a shard, and remove other shards of the same images, left by a process that died before judging them."""
    for other in own.parent.glob(f"{shard.name.partition('-')[0]}-*"):
        other.unlink()
    with replacing(own) as beside:
        beside.unlink()
        link(shard, beside)
