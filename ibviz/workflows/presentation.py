"""Tables and figures of a result, from the files in its folder."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ibviz.attribution.catalogue import Explanation
from ibviz.attribution.methods import values
from ibviz.benchmark.ranking import Frame
from ibviz.benchmark.results import Results, read_results, rebuild
from ibviz.benchmark.store import maps_folder, read_maps
from ibviz.benchmark.summary import ALL_IMAGES, over_trainings
from ibviz.data.decode import decode, to_tensor
from ibviz.data.image_set import to_float
from ibviz.figures import by_class, curves, panel, trainings
from ibviz.figures.sidecar import Panel
from ibviz.workflows.captions import PICTURES_PER_ROW, class_caption, shared_scales, without_zero

SUFFIXES = (".png", ".pdf")


def write_presentation(folder: Path) -> None:
    """Write tables, a panel for each network, and curves for each network and protocol.

    Several trainings of a recipe have a figure of their own. Everything comes from the files in the folder.
    """
    for make in presentation(read_results(folder)).values():
        make()


def write_missing(results: Results) -> None:
    """Write those tables and figures of `write_presentation` that the folder lacks."""
    for name, make in presentation(results).items():
        if not (results.folder / name).exists():
            make()


def presentation(results: Results) -> dict[str, Callable[[], object]]:
    """Return the functions that write tables and figures, by the file that shows that they have run.

    The name of a figure holds the network and the protocol if there are several.
    """
    models = {name: list(model["protocols"]) for name, model in results.circumstances["models"].items()}
    several = len(models) > 1
    makes: dict[str, Callable[[], object]] = {"table.md": lambda: rebuild(results.folder)}
    for model, protocols in models.items():
        parts = [model] * several
        makes[f"{_stem('panel', parts)}.png"] = partial(draw_panel, results, model, parts)
        for protocol in protocols:
            of_both = [*parts, *([protocol] if len(protocols) > 1 else [])]
            makes[f"{_stem('curves', of_both)}.png"] = partial(draw_curves, results, model, protocol, of_both)
    repeated = Counter(model.get("recipe") for model in results.circumstances["models"].values())
    protocols = list(results.circumstances["protocols"])
    for recipe, count in repeated.items():
        for protocol in protocols if recipe and count > 1 else []:
            of_both = [*([recipe] if sum(own > 1 for own in repeated.values()) > 1 else [])]
            of_both += [protocol] if len(protocols) > 1 else []
            makes[f"{_stem('trainings', of_both)}.png"] = partial(draw_trainings, results, recipe, protocol, of_both)
    return makes


def _stem(kind: str, parts: list[str]) -> str:
    """Return the name of a figure without suffix.

    >>> _stem("panel", []), _stem("curves", ["digits/seed-0", "rise"])
    ('panel', 'curves-digits-seed-0-rise')
    """
    return "-".join([kind, *parts]).replace("/", "-").replace(".", "_")


def draw_panel(results: Results, model: str, parts: list[str]) -> None:
    """Draw images spread over the classes with the maps of all methods but controls, and the objects outlined.

    Methods that failed on one of the images are left out. No panel is drawn if no pictures or no maps are stored.

    Args:
        results: The result.
        model: Label of the network.
        parts: What tells the figure from others, for its name and title.
    """
    stored: Frame = results.images[results.images["picture"].notna()]
    if stored.empty:
        return
    labels = stored["label"].astype(float).fillna(-1).astype(int).tolist()
    choice = by_class(labels, min(PICTURES_PER_ROW, len(stored)))
    shown: Frame = stored.iloc[choice.images]
    maps = _maps(results, model, shown["image"].tolist())
    if not maps:
        return
    facts = results.circumstances["models"][model]
    record = {
        "images": shown["name"].tolist(),
        "chosen": choice.account(),
        "model": {"label": model} | {key: facts[key] for key in ("name", "weights", "size")},
        "protocol": next(iter(facts["protocols"].values()))["hash"],
    }
    named = zip(shown["picture"], shown["name"], strict=True)
    pixels = torch.stack([to_tensor(decode(png, name)) for png, name in named])
    boxes = torch.tensor(np.array([[np.nan] * 4 if box is None else box for box in shown["box"]]), dtype=torch.float32)
    names = {label: str(own.get("method")) for label, own in results.circumstances["methods"].items()}
    rows = [(names[label], label) for label in maps]
    drawn = panel(
        to_float(pixels),
        maps,
        captions=captions_of(results, model, shown["image"].tolist()),
        boxes=None if boxes.isnan().all() else boxes,
        scales=shared_scales(rows),
        from_least=without_zero(rows),
        title=", ".join(parts),
        record=record,
    )
    _save(drawn, results.folder / _stem("panel", parts))


def _save(drawn: Panel, stem: Path) -> None:
    for suffix in SUFFIXES:
        drawn.save(stem.with_name(stem.name + suffix))


def _maps(results: Results, model: str, images: list[int]) -> dict[str, Explanation]:
    """Read the maps of some images from the store, by method label, without controls."""
    methods = [
        label
        for label, method in results.circumstances["methods"].items()
        if not method["control"] and maps_folder(results.folder, model, label).is_dir()
    ]
    places = torch.tensor(images)
    stored = {label: read_maps(results.folder, model, label, slice(max(images) + 1))[places] for label in methods}
    return {label: maps for label, maps in stored.items() if not values(maps).isnan().any()}


def draw_curves(results: Results, model: str, protocol: str, parts: list[str]) -> None:
    """Draw mean deletion and insertion curves with intervals, controls in grey.

    Args:
        results: The result.
        model: Label of the network.
        protocol: Label of the protocol.
        parts: What tells the figure from others, for its name and title.
    """
    card = results.circumstances["models"][model]["protocols"][protocol]
    sides = {
        side: {
            method: (torch.from_numpy(fractions), torch.from_numpy(scores))
            for method, (fractions, scores) in own.items()
        }
        for side, own in results.curves_of(model, protocol).items()
    }
    if not sides:
        return
    methods = results.circumstances["methods"]
    controls = sorted({method for own in sides.values() for method in own if methods[method]["control"]})
    record = {"model": model, "protocol": card["hash"]}
    drawn = curves(sides, controls=controls, score=score_of(card), title=", ".join(parts), record=record)
    _save(drawn, results.folder / _stem("curves", parts))


def draw_trainings(results: Results, recipe: str, protocol: str, parts: list[str]) -> None:
    """Draw the first metric of every training of a recipe, and its mean over trainings.

    Args:
        results: The result.
        recipe: Hash of the recipe without its seed.
        protocol: Label of the protocol.
        parts: What tells the figure from others, for its name and title.
    """
    summary = results.tabulated().summary
    own = [name for name, model in results.circumstances["models"].items() if model.get("recipe") == recipe]
    lines: Frame = summary.lines
    kept = (lines["protocol"] == protocol) & (lines["stratum"] == ALL_IMAGES) & ~lines["native"].astype(bool)
    lines = lines[kept & lines["mean"].notna()]
    metric = lines["metric"].iloc[0]
    lines = lines[lines["metric"] == metric]
    of_all = lines[lines["model"] == over_trainings(own)]
    methods = [name for name, control in zip(of_all["method"], of_all["control"], strict=True) if not control]
    overall = {name: _interval(part)[0] for name, part in of_all.groupby("method", sort=False)}
    single = {
        name: _interval(part)
        for name, part in lines[lines["model"].isin(own)].groupby("method", sort=False)
        if name in methods
    }
    drawn = trainings(
        single,
        {name: overall[name] for name in single},
        controls={name: values for name, values in overall.items() if name not in methods},
        axis=summary.metrics[metric].heading,
        title=", ".join(parts),
        record={"models": own, "recipe": recipe, "protocol": protocol, "metric": str(metric)},
    )
    _save(drawn, results.folder / _stem("trainings", parts))


def _interval(lines: Frame) -> Tensor:
    return torch.from_numpy(lines[["mean", "low", "high"]].to_numpy(dtype=np.float64))


def score_of(card: Mapping[str, Any]) -> str:
    """Return the name of the score in a protocol card, for the axis of a figure.

    >>> score_of({"protocol": {"score": "log_probability"}})
    'log probability'
    """
    return card["protocol"]["score"].replace("_", " ")


def captions_of(results: Results, model: str, images: list[int]) -> list[str]:
    """Return captions with the predicted class and its probability, and the true class if the prediction is wrong."""
    names = results.circumstances["models"][model]["class_names"]
    own: Frame = results.predictions[results.predictions["model"] == model]
    seen, labels = own.set_index("image").loc[images], results.images.set_index("image").loc[images]["label"]
    return [
        class_caption(names[index], share)
        + (f"\n(is {names[int(label)]})" if label == label and index != label else "")
        for index, share, label in zip(seen["predicted"], seen["probability"], labels, strict=True)
    ]
