"""The study of a checkpoint's anchors, from its file to tables, `anchors.json` and rows per image."""

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
from ibviz.table_formats import TextTable, text_of
from ibviz.workflows.model import describe


class AnchorStudy(NamedTuple):
    """The results of a study; `usage` and `worth` are None if the attention is continuous."""

    images: ImageSet
    effects: Effects
    edits: Consistency
    usage: Usage | None
    worth: AnchorEffects | None


def study_anchors(model: Classifier, out: Path, *, root: Path | None = None, limit: int = 500, seed: int = 0) -> str:
    """Study the anchors of a model on test images, write the results into a folder, and return the text to print.

    `anchors.json` holds all numbers and `usage` is a figure; `effects.parquet` and `consistency.parquet` have one row
    per image and intervention or edit.

    Args:
        model: A model with trained attention.
        out: The folder for the results.
        root: The folder of the images, if the data named in the model's file needs one. If that file names no data, or
            the embedded images, the images are read from class folders or Parquet files at `root`.
        limit: The largest number of images.
        seed: The seed of the choice of images, of interventions and of edits.

    Raises:
        InputError: The model has no trained attention, or its data cannot be read.
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
    """Draw how often each anchor is used, in total and per class, and save it as PNG and PDF.

    Args:
        usage: The usage of the anchors.
        class_names: The names of the classes.
        facts: The record of the study, for the sidecar.
        stem: The path of the files without suffix.
    """
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
    """Return the data that a model was trained on according to its file, or a folder of images of its size.

    >>> from ibviz.models.loading import load
    >>> data_of(load("digits"), None).source, data_of(load("digits"), Path("photographs")).source
    ('digits', 'folder')
    """
    stored = model.facts.get("recipe", {}).get("data")
    recorded = None if stored is None else validated(DataConfig, stored, "the model's file names data that is none")
    if recorded is not None and not (recorded.source == "digits" and root is not None):
        return recorded
    source = "parquet" if root is not None and any(root.rglob("*.parquet")) else "folder"
    return DataConfig(source=source, image_size=model.spec.side, resize=model.spec.resize)


def _study(model: IBClassifier, images: ImageSet, seed: int) -> AnchorStudy:
    effects, edits = intervene(model, images, seed=seed), consistency_of(model, images, seed=seed)
    if model.quantizer is None:
        return AnchorStudy(images, effects, edits, None, None)
    usage = usage_of(model, images)
    return AnchorStudy(images, effects, edits, usage, anchor_effects(effects, usage.anchors))


def study_numbers(study: AnchorStudy, model: IBClassifier) -> dict[str, Any]:
    """Return all numbers of a study as plain values for JSON, with None for NaN."""
    lines = summarise_effects(study.effects)
    moved = drift(model)
    return _plain(
        {
            "answer": answer(lines),
            "reliance": {name: estimates._asdict() for name, estimates in decisions(study.effects).items()},
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
    """Return plain values: lists for tensors and tuples, dictionaries for named tuples, None for NaN and infinity."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def study_text(study: AnchorStudy, model: IBClassifier) -> str:
    """Return the tables that `ibviz anchors` prints."""
    lines = summarise_effects(study.effects)
    replaced = [
        [INTERVENTIONS[line.variant.name].label, interval(line.change), interval(line.accuracy), _share(line.flips)]
        for line in lines
        if line.variant.anchor is None
    ]
    decided = [[REPLACEMENTS[name], *map(_estimate, estimates)] for name, estimates in decisions(study.effects).items()]
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
    thresholds = [f">= {threshold}" for threshold in SIMILARITY_THRESHOLDS]
    parts = [
        *([] if study.usage is None or study.worth is None else [_anchors_page(study.usage, study.worth, model)]),
        text_of(TextTable("", ["decided with", "accuracy", "cross-entropy (nats)"], decided)),
        text_of(TextTable("", ["attention is replaced by", "Δ probability", "Δ accuracy", "flips"], replaced)),
        answer(lines),
        "Attention consistency (our definition): cosine similarity of the attention before and after an edit\n"
        + text_of(TextTable("", ["edit", "cosine", *thresholds, "Δ accuracy", "flips"], edited)),
        f"{len(study.images.labels)} images; means with 95 % bootstrap intervals over images",
    ]
    return "\n\n".join(parts)


def _anchors_page(usage: Usage, worth: AnchorEffects, model: IBClassifier) -> str:
    total = int(usage.counts.sum())
    order = usage.anchors.argsort().tolist()
    rows = [
        [
            str(anchor),
            f"{usage.anchors[anchor]:.4f}",
            f"{usage.counts[anchor] / total:.1%}",
            interval(worth.effect[anchor]),
            f"{worth.by_cell[anchor].mean:+.4f}",
            str(worth.effect[anchor].n),
        ]
        for anchor in order
    ]
    rates, unstable = usage.rate_bits.mean(), usage.unstable.mean()
    rises = " by cell ".join((f"{interval(worth.rises)},", interval(worth.rises_by_cell)))
    moved = drift(model)
    notes = [
        f"dead anchors: {', '.join(map(str, usage.dead)) or 'none'}; perplexity {usage.perplexity:.2f} of {len(order)}",
        f"map: {usage.bits_per_cell:.2f} bits per cell, at most {usage.bits_per_image:.0f} per image; "
        f"latent: {rates:.1f} bits per image",
        f"cells that the attention's noise moves to another anchor: {unstable:.1%}",
        f"effect rises with the anchor value: Spearman {rises}",
        *([] if moved is None else [f"drift since the start: at most {(moved[-1] - moved[0]).abs().max():.3f}"]),
    ]
    header = ["anchor", "value", "cells", "effect of its cells", "by cell", "images"]
    return "\n".join([text_of(TextTable("", header, rows)), *notes])


def _estimate(value: Estimate) -> str:
    return "-" if math.isnan(value.mean) else f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _share(value: Estimate) -> str:
    return "-" if math.isnan(value.mean) else f"{value.mean:.1%}"
