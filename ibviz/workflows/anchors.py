"""What the anchors of a checkpoint are worth, from its file to tables, `anchors.json` and rows of single images."""

import json
import math
import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ibviz.anchors import consistency as consistency_of
from ibviz.anchors import drift, intervene
from ibviz.anchors import usage as usage_of
from ibviz.anchors.batches import require_attention
from ibviz.anchors.consistency import SIMILARITY_THRESHOLDS, Consistency, summarise_edits
from ibviz.anchors.effects import AnchorEffects, anchor_effects, answer, decisions, interval, summarise_effects
from ibviz.anchors.intervene import INTERVENTIONS, Effects
from ibviz.anchors.usage import Usage
from ibviz.benchmark.class_match import match_classes
from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet
from ibviz.data.sources import load_images
from ibviz.digests import seal
from ibviz.figures import anchor_usage
from ibviz.files import ensure_folder, remove_abandoned, replacing, write_rows
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import Classifier
from ibviz.models.reliance import REPLACEMENTS
from ibviz.reading import validated
from ibviz.statistics import Estimate, estimate
from ibviz.workflows.model import describe


class AnchorStudy(NamedTuple):
    """All that was seen of a model on some images; `usage` and `worth` are None where attention is continuous."""

    images: ImageSet
    effects: Effects
    edits: Consistency
    usage: Usage | None
    worth: AnchorEffects | None


def study_anchors(model: Classifier, out: Path, *, root: Path | None = None, limit: int = 500, seed: int = 0) -> str:
    """AnchorStudy a model on at most `limit` test images, write what is found into `out`, return the page to print.

    The images are those of the data its file names, at `root` where that needs a folder. A model that names none, or
    the embedded images of one that was given another folder, is studied on the images in class folders at `root`.
    `anchors.json` has all numbers, `usage` is a figure; `effects.parquet` and `consistency.parquet` have one row for
    each image and what was done to it.
    """
    begun = time.monotonic()
    trained = require_attention(model)
    ensure_folder(out)
    remove_abandoned(out)
    config = data_of(trained, root)
    images = match_classes(load_images(config, "test", root, count=limit, seed=seed), trained)
    study = _study(trained, images, seed)
    facts = {
        "model": describe(trained) | {"epoch": trained.facts.get("epoch")},
        "data": config.model_dump(mode="json"),
        "images": len(images.labels),
        "skipped": [fault.name for fault in images.faults],
        "seed": seed,
        "device": str(next(trained.parameters()).device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("ibviz", "torch")},
        "seconds": round(time.monotonic() - begun, 1),
    }
    write_rows(out / "effects.parquet", study.effects.rows(images.names))
    write_rows(out / "consistency.parquet", study.edits.rows(images.names))
    with replacing(out / "anchors.json") as beside:
        beside.write_text(json.dumps(seal(facts | study_numbers(study, trained)), indent=1) + "\n")
    if study.usage is not None:
        draw_usage(study.usage, trained.spec.class_names, facts, out / "usage")
    return study_text(study, trained)


def draw_usage(usage: Usage, class_names: Sequence[str], facts: dict[str, Any], stem: Path) -> None:
    """How often each anchor is taken, in all and for each class."""
    drawn = anchor_usage(
        usage.counts,
        usage.anchors,
        occupancy=usage.cells,
        class_names=class_names,
        record={name: facts[name] for name in ("model", "data", "images", "seed")},
    )
    for suffix in (".png", ".pdf"):
        drawn.save(stem.with_suffix(suffix))


def data_of(model: IBClassifier, root: Path | None) -> DataConfig:
    """The data a model was trained on, as its file says, or a folder of images of its size.

    >>> from ibviz.models.loading import load
    >>> data_of(load("digits"), None).source, data_of(load("digits"), Path("photographs")).source
    ('digits', 'folder')
    """
    stored = model.facts.get("recipe", {}).get("data")
    recorded = None if stored is None else validated(DataConfig, stored, "the model's file names data that is none")
    if recorded is not None and not (recorded.source == "digits" and root is not None):
        return recorded
    return DataConfig(source="folder", image_size=model.spec.side, resize=model.spec.resize)


def _study(model: IBClassifier, images: ImageSet, seed: int) -> AnchorStudy:
    effects, edits = intervene(model, images, seed=seed), consistency_of(model, images, seed=seed)
    if model.quantizer is None:
        return AnchorStudy(images, effects, edits, None, None)
    usage = usage_of(model, images)
    return AnchorStudy(images, effects, edits, usage, anchor_effects(effects, usage.anchors))


def study_numbers(study: AnchorStudy, model: IBClassifier) -> dict[str, Any]:
    """Everything in numbers, for figures and reports; NaN is null."""
    lines = summarise_effects(study.effects)
    moved = drift(model)
    return _plain(
        {
            "answer": answer(lines),
            "reliance": {name: one._asdict() for name, one in decisions(study.effects).items()},
            "class_names": model.spec.class_names,
            "usage": None if study.usage is None else _usage(study.usage),
            "worth": None if study.worth is None else study.worth._asdict(),
            "drift": moved,
            "interventions": [line.variant._asdict() | line._asdict() for line in lines],
            "consistency": [line._asdict() for line in summarise_edits(study.edits)],
        }
    )


def _usage(usage: Usage) -> dict[str, Any]:
    names = ("anchors", "counts", "cells", "occupancy", "dead", "perplexity", "bits_per_cell", "bits_per_image")
    return {name: getattr(usage, name) for name in names} | {
        "latent_bits": estimate(usage.rate_bits.tolist()),
        "unstable": estimate(usage.unstable.tolist()),
    }


def _plain(value: Any) -> Any:
    """Tensors and tuples as lists, estimates and other named tuples by their names, what is not finite as None."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def study_text(study: AnchorStudy, model: IBClassifier) -> str:
    """The tables that `ibviz anchors` prints."""
    lines = summarise_effects(study.effects)
    replaced = [
        [INTERVENTIONS[line.variant.name].label, interval(line.change), interval(line.accuracy), _share(line.flips)]
        for line in lines
        if line.variant.anchor is None
    ]
    decided = [[REPLACEMENTS[name], *map(_estimate, one)] for name, one in decisions(study.effects).items()]
    edited = [
        [
            line.edit,
            f"{line.cosine.mean:.3f}",
            *map(_share, line.similar.values()),
            interval(line.accuracy),
            _share(line.flips),
        ]
        for line in summarise_edits(study.edits)
    ]
    parts = [
        *([] if study.usage is None or study.worth is None else [_anchors_page(study.usage, study.worth, model)]),
        _table(["decided with", "accuracy", "cross-entropy (nats)"], decided),
        _table(["attention is replaced by", "Δ probability", "Δ accuracy", "flips"], replaced),
        answer(lines),
        "Attention consistency (our definition): cosine similarity of the attention before and after an edit\n"
        + _table(["edit", "cosine", *(f">= {one}" for one in SIMILARITY_THRESHOLDS), "Δ accuracy", "flips"], edited),
        f"{len(study.images.labels)} images; means with 95 % bootstrap intervals over images",
    ]
    return "\n\n".join(parts)


def _anchors_page(usage: Usage, worth: AnchorEffects, model: IBClassifier) -> str:
    total = int(usage.counts.sum())
    order = usage.anchors.argsort().tolist()
    rows = [
        [
            str(one),
            f"{usage.anchors[one]:.4f}",
            f"{usage.counts[one] / total:.1%}",
            interval(worth.effect[one]),
            f"{worth.by_cell[one].mean:+.4f}",
            str(worth.effect[one].n),
        ]
        for one in order
    ]
    rates, unstable = usage.rate_bits.mean(), usage.unstable.mean()
    rises = " by cell ".join((f"{interval(worth.rises)},", interval(worth.rises_by_cell)))
    moved = drift(model)
    notes = [
        f"dead anchors: {', '.join(map(str, usage.dead)) or 'none'}; perplexity {usage.perplexity:.2f} of {len(order)}",
        f"map: {usage.bits_per_cell:.2f} bits a cell, at most {usage.bits_per_image:.0f} an image; "
        f"latent: {rates:.1f} bits an image",
        f"cells that the attention's noise moves to another anchor: {unstable:.1%}",
        f"effect rises with the anchor value: Spearman {rises}",
        *([] if moved is None else [f"drift since the start: at most {(moved[-1] - moved[0]).abs().max():.3f}"]),
    ]
    header = ["anchor", "value", "cells", "effect of its cells", "by cell", "images"]
    return "\n".join([_table(header, rows), *notes])


def _estimate(one: Estimate) -> str:
    return "-" if math.isnan(one.mean) else f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _share(one: Estimate) -> str:
    return "-" if math.isnan(one.mean) else f"{one.mean:.1%}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell.

    >>> print(_table(["a", "b"], [["10", "2"]]))
    a   b
    10  2
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (header, *rows)]
    return "\n".join("  ".join(line).rstrip() for line in lines)
