"""From whole parts to one result with its circumstances; and parts of several folders brought together first."""

import json
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
from ibviz.benchmark.runner.parts import PARTS_FOLDER, assemble, missing, part_of, read_facts, sweep
from ibviz.benchmark.runner.plan import FILE, Plan, keep_plan, read_plan, settled
from ibviz.benchmark.setup import versions
from ibviz.benchmark.store import place_of, shards
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


def finished(out: Path, plan: Plan) -> bool:
    """Whether the result of this plan is there; one that has changed since it was written is refused."""
    path = out / CIRCUMSTANCES
    if not path.is_file():
        return False
    held = validated(Finished, read_circumstances(out), f"{path} does not hold the circumstances of a run", RUN_AGAIN)
    return held.plan == plan_hash(plan)


class Finished(BaseModel):
    """The hash of the plan of a result."""

    plan: str


def check_maps(out: Path, plan: Plan) -> None:
    """Refuse to go on with a result whose maps were not kept: nothing would be done, and nothing said."""
    if not finished(out, plan):
        return
    asked = [(model, method) for model, one in plan.models.items() for method in one.methods]
    gone = [f"{method} of {model}" for model, method in asked if not place_of(out, model, method).is_dir()]
    if gone:
        raise InputError(
            f"{out} holds a finished result without {len(gone)} of its {len(asked)} sets of maps, such as "
            f"{gone[0]}: run into another folder to have them"
        )


def plan_hash(plan: Plan) -> str:
    """Eight digits that tell plans apart; recipes are no part of it, for nothing is done by them."""
    excluded: dict[str, Any] = {"models": {"__all__": {"recipe"}}} | ({} if plan.code else {"code": True})
    return digest(plan.model_dump(mode="json", exclude=excluded))


def finish(out: Path, plan: Plan) -> None:
    """Put all parts together, say how they came about, and remove them."""
    facts = [read_facts(out, batch) for batch in range(len(plan.bounds))]
    for batch, one in enumerate(facts):
        if one["data"].keys() != plan.models.keys():
            raise InputError(
                f"{part_of(out, batch)} is of the networks {', '.join(one['data'])}, the run of "
                f"{', '.join(plan.models)}: delete it and resume the run"
            )
    check_faults([Fault(name, f"cannot read {name}") for one in facts for name in one["skipped"]], plan.images)
    counts = [one["images"] for one in facts]
    if not any(counts):
        raise InputError("none of the images can be read")
    cards = {(model, label): card for model in plan.models for label, card in _cards(plan, model, facts).items()}
    assemble(out, counts, lambda rows: _hashes(rows, cards))
    digests = {"files": digest_files(out, [FILE, *(f"{name}.parquet" for name in COLUMNS)])}
    text = json.dumps(seal(_circumstances(plan, facts, cards) | digests), indent=1) + "\n"
    with replacing(out / CIRCUMSTANCES) as beside:
        beside.write_text(text)
    shutil.rmtree(out / PARTS_FOLDER, ignore_errors=True)


def _cards(plan: Plan, model: str, facts: Sequence[Facts]) -> dict[str, Card]:
    """A network's protocols, with hashes of what they were applied to and the versions of what ran."""
    planned, data = plan.models[model], digest([one["data"][model] for one in facts])
    return {
        label: Card(protocol=protocol, data=data, weights=planned.weights, code=plan.code, versions=versions())
        for label, protocol in planned.protocols.items()
    }


def _hashes(rows: "pa.Table", cards: Mapping[tuple[str, str], Card]) -> list[str]:
    """The hash of each row's card: on a map's own grid, that of the protocol without one."""
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
            label: one.model_dump(include={"name", "weights", "class_names", "size", "reliance", "recipe"})
            | {"protocols": _said(cards, label)}
            for label, one in plan.models.items()
        },
        "methods": _methods(plan, grid),
        "metrics": {name: facts._asdict() for name, facts in metric_facts(plan.metrics).items()},
        "protocols": _said(cards, next(iter(plan.models))),
        "images": sum(one["images"] for one in facts),
        "skipped": [name for one in facts for name in one["skipped"]],
        "failures": _failures(facts),
        "left_out": [one.model_dump() for one in plan.left_out],
        "forward_passes": sum(one["forward_passes"] for one in facts),
        "seconds": round(sum(one["seconds"] for one in facts), 1),
        "device": "; ".join(dict.fromkeys(one["device"] for one in facts)),
        "python": platform.python_version(),
        "versions": versions(),
    }


def _methods(plan: Plan, grid: Grid) -> dict[str, Any]:
    """What each label stands for; the average map, another one for each network, without its cells."""
    trained = any(one.average is not None for one in plan.models.values())
    return {
        label: {
            "method": one.method,
            "control": one.control,
            "options": {} if one.method == "average_map" else dict(one.options),
        }
        for label, one in settled(entries(plan.suite), grid, () if trained else None).items()
    }


def _said(cards: Mapping[tuple[str, str], Card], model: str) -> dict[str, Any]:
    """A network's cards by the labels of the protocols, with their hashes."""
    own = {label: card for (name, label), card in cards.items() if name == model}
    return {label: card.model_dump(mode="json") | {"hash": card.hash} for label, card in own.items()}


def _failures(facts: Sequence[Facts]) -> list[dict[str, Any]]:
    """One entry for each network, method and error, with the numbers of all its images."""
    images: dict[tuple[str, str, str], list[int]] = {}
    before = 0
    for one in facts:
        for failure in one["failures"]:
            key = (failure["model"], failure["method"], failure["error"])
            images.setdefault(key, []).extend(before + place for place in failure["images"])
        before += one["images"]
    return [
        {"model": model, "method": method, "images": some, "error": error}
        for (model, method, error), some in images.items()
    ]


def commit() -> str | None:
    """The commit of the folder the command runs in, `-dirty` where files differ from it; None outside of a checkout."""
    with suppress(OSError, subprocess.CalledProcessError):
        # Without what the configuration of a checkout that somebody else made may have git run.
        calm = ["-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}"]
        asked = ["git", *calm, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    return None


def merge(folders: Sequence[Path], out: Path) -> None:
    """Bring the parts and maps of processes that wrote into folders of their own into `out`, and put them together.

    Where it can be, a file is linked instead of copied.
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
        sweep(out)
        keep_plan(out, plan)
        for folder in folders:
            _bring(folder, out, plan)
        if gone := missing(out, len(plan.bounds)):
            raise InputError(
                f"{len(gone)} of {len(plan.bounds)} batches are in none of the folders, the first number "
                f"{gone[0]}: resume the run where they were begun, or in {out}"
            )
        finish(out, plan)


def _bring(folder: Path, out: Path, plan: Plan) -> None:
    """Link or copy the parts that `out` lacks, each after the maps it was judged by."""
    there = shards(folder)
    try:
        for batch, (start, _) in enumerate(plan.bounds):
            part, own = part_of(folder, batch), part_of(out, batch)
            if not part.is_dir() or own.is_dir():
                continue
            for shard in there.get(start, []):
                _bring_shard(shard, out / shard.relative_to(folder))
            with replacing_folder(own) as beside:
                for file in part.iterdir():
                    link(file, beside / file.name)
    except OSError as error:
        raise InputError(f"cannot bring {folder} to {out}: {error.strerror or error}") from error


def _bring_shard(shard: Path, own: Path) -> None:
    """In place of another one of the same images, by a process that died before they were judged."""
    for other in own.parent.glob(f"{shard.name.partition('-')[0]}-*"):
        other.unlink()
    with replacing(own) as beside:
        beside.unlink()
        link(shard, beside)
