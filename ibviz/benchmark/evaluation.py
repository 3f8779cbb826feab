"""Evaluation in memory: explanations of the same images by one network, judged on one grid beside controls."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ibviz.arrays import as_tensor
from ibviz.attribution.catalogue import CONTROLS, Explanation
from ibviz.attribution.door import GivenTargets, admitted, one_class_each
from ibviz.attribution.methods import explain, predict, values
from ibviz.benchmark.batch import Batch
from ibviz.benchmark.chosen_table import PAGE, chosen, render_chosen, styled
from ibviz.benchmark.compiled import compiled
from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.judging import Rules, curves_in, judge, passes_of, planned_passes
from ibviz.benchmark.rows import value_rows
from ibviz.benchmark.setup import comparison_grid, fingerprint, training_colour, versions, with_normalisation
from ibviz.benchmark.table_legend import legend
from ibviz.benchmark.tables import Tables, tabulate, text, write_tables
from ibviz.benchmark.throughput import at_best_pace
from ibviz.data.regions import rasterise
from ibviz.errors import InputError, NoMapError
from ibviz.files import write_rows
from ibviz.heads import head_of
from ibviz.metrics.curve_scores import STATES_AT_ONCE
from ibviz.metrics.curves import Curve
from ibviz.metrics.grid import finite
from ibviz.metrics.protocol import ADAPTIVE, Card, CurveProtocol
from ibviz.metrics.score import Targets, correct, targets_by
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import UNNAMED
from ibviz.models.hooks import evaluating
from ibviz.models.loading import Classifier
from ibviz.models.reliance import Reliance, reliance
from ibviz.statistics import clusters_of
from ibviz.types import AttentionMap, Given, Grid, Images, Labels, Masks

if TYPE_CHECKING:
    from pandas import DataFrame
    from pandas.io.formats.style import Styler

BATCH = 32  # images whose attention is replaced at once, with five maps each
DEFAULT = "default"  # label of the one protocol of `evaluate`


@dataclass(frozen=True)
class Evaluation:
    """Rows per image, method and metric, the maps and curves behind them, and the protocol card that they share."""

    rows: list[dict[str, Any]]  # `native`: on the method's own grid, if that differs from the common one
    maps: dict[str, Explanation]
    curves: dict[str, dict[str, Curve]]  # by side and method, as `ibviz.figures.curves` takes them
    card: Card
    forward_passes: int
    reliance: Reliance | None = None  # for a network with trained attention, on labelled images

    @property
    def protocol(self) -> CurveProtocol:
        """The protocol of the curves."""
        return self.card.protocol

    @property
    def controls(self) -> list[str]:
        """Labels of the controls that were judged; the average map is among them only for a trained attention."""
        return [name for name in CONTROLS if name in self.maps]

    @cached_property
    def tables(self) -> Tables:
        """Estimates, ranks and tests of all methods; `ibviz.benchmark.tables` has functions for each format."""
        card = self.card.model_dump(mode="json") | {"hash": self.card.hash}
        networks = {} if self.reliance is None else {UNNAMED: {"reliance": self.reliance.summary()}}
        return tabulate(self.frame(), {"protocols": {DEFAULT: card}, "models": networks})

    def table(self, *, short: bool = False) -> str:
        """Return the tables as text: means with 95 % intervals, methods above controls, verdicts, and the legend.

        With `short`, only the first table is returned.
        """
        whole = text(self.tables).rstrip()
        return whole.partition("\n\n")[0] if short else whole

    def style(self, metrics: Sequence[str] = (), rows: Sequence[str] = ()) -> "Styler":
        """Return the table for a notebook, by pandas: best estimates in bold, controls in grey, verdicts as marks.

        Args:
            metrics: Names of metrics; by default all.
            rows: Labels of methods; by default all.
        """
        return styled(chosen(self.tables, metrics, rows))

    def latex(self, metrics: Sequence[str] = (), rows: Sequence[str] = (), *, template: str = PAGE) -> str:
        """Return the table in LaTeX, with verdicts as marks, no wider than a page or column.

        Args:
            metrics: Names of metrics; by default all.
            rows: Labels of methods; by default all.
            template: "cvpr column" or another name of `ibviz.figures.settings.TEMPLATES`.

        Raises:
            InputError: A metric, a row or the template is unknown, or no row is left.
        """
        return render_chosen(chosen(self.tables, metrics, rows), "tex", template=template)

    def legend(self) -> str:
        """Return the sentences that explain how the numbers were computed."""
        return legend(*self.tables)

    def frame(self) -> "DataFrame":
        """Return the rows as a pandas table."""
        from pandas import DataFrame

        return DataFrame(self.rows)

    def save(self, folder: Path) -> None:
        """Write `rows.parquet` and the tables into a folder."""
        write_rows(folder / "rows.parquet", self.rows)
        write_tables(folder, self.tables)


def evaluate(  # noqa: PLR0913 - what is known of the images is named apart
    model: nn.Module,
    images: Given,
    explanations: Mapping[str, Explanation | Given],
    *,
    targets: GivenTargets | None = None,
    labels: GivenTargets | None = None,
    boxes: Given | None = None,
    masks: Given | None = None,
    clusters: Sequence[str] | None = None,
    protocol: CurveProtocol | None = None,
    compile: bool = False,  # noqa: A002 - the word of torch and of the settings
) -> Evaluation:
    """Judge named explanations of `images` by deletion, insertion, SRG and, given boxes or masks, the pointing game.

    All controls are added. Maps are resized to the grid of the protocol; maps with another grid are judged on their own
    grid as well, in separate rows. The score follows the network's head, as `ibviz.wrap` sets it. NumPy arrays are
    accepted in place of tensors.

    Args:
        model: A network that states its normalisation: from `ibviz.load`, or wrapped by `ibviz.wrap`.
        images: Images `(b, channels, h, w)` in [0, 1].
        explanations: Maps `(b, rows, columns)` or an `AttentionMap`, by name.
        targets: The classes that are judged; None: those that the protocol names, by default the predicted ones.
        labels: The true classes, -1 if unknown.
        boxes: A box per image, x0, y0, x1, y1 in pixels of `images`.
        masks: A mask of the object per image, `(b, h, w)`, in place of boxes.
        clusters: The cluster of each image, such as a patient or a background; intervals and tests then count clusters
            instead of images.
        protocol: The protocol of the curves. None: the default, with the mean colour of the training data as baseline,
            on the grid of the first trained attention, or else the coarsest grid. Without a batch size, a short trial
            finds the batch size and memory format at which the network is fastest.
        compile: Compile the network for the passes of curves: a minute or so, then each pass takes less. If that is
            not possible, a sentence on standard error says so.

    Returns:
        Rows, curves and tables; print `Evaluation.table()`.

    Raises:
        InputError: The network states no normalisation, or images, maps or targets are not valid.
    """
    model = with_normalisation(model)
    images, explanations = admitted(model, images), _maps(explanations)
    _check(images, explanations, clusters)
    grid, probabilities, head = comparison_grid(explanations), predict(model, images), head_of(model)
    protocol = (protocol or CurveProtocol(colour=training_colour(model))).on(grid).judging(head)
    regions = _regions(images, boxes, masks)
    labels = None if labels is None else one_class_each(labels, images)
    if targets is None:
        judged = targets_by(protocol.target, probabilities, labels, head=head)
    else:
        protocol, judged = protocol.model_copy(update={"target": "given"}), Targets(one_class_each(targets, images))
    card = card_of(model, images, judged, protocol)
    metrics = SuiteConfig().metrics if regions is not None else curves_in(SuiteConfig().metrics)
    with evaluating(model), at_best_pace(model, images, protocol) as (fitted, paced):
        maps = dict(explanations) | controls(model, fitted, judged.classes, paced.grid or grid)
        numbers = {name: values(given).to(images.device) for name, given in maps.items()}
        right = None if labels is None else correct(probabilities, labels, head)
        batch = Batch(fitted, judged, right, labels, regions, None if clusters is None else tuple(clusters))
        rules = Rules({DEFAULT: paced}, metrics)
        most = "at most " * (protocol.steps == ADAPTIVE)
        title = f"{most}{planned_passes(numbers, batch.size, rules):,} forward passes"
        size = paced.batch_size or STATES_AT_ONCE
        with compiled(model, fitted, size) if compile else nullcontext() as forward:
            results = judge(model, batch, numbers, rules._replace(forward=forward), title=title)
    own = card.model_copy(update={"protocol": protocol.model_copy(update={"grid": None})})
    rows = [
        {"model": UNNAMED, **row, "hash": (own if row["native"] else card).hash} for row in value_rows(results, batch)
    ]
    common = {own.method: own.curves for own in results if own.curves is not None and not own.native}
    curves = {
        "deletion": {name: own.deletion for name, own in common.items()},
        "insertion": {name: own.insertion for name, own in common.items()},
    }
    return Evaluation(rows, maps, curves, card, passes_of(results), reliance_on(model, images, labels))


def reliance_on(model: Classifier, images: Images, labels: Labels | None) -> Reliance | None:
    """Return the reliance of a network on its attention; None without trained attention, labels or a second image."""
    if not isinstance(model, IBClassifier) or labels is None or len(images) < 2:
        return None
    parts = list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
    return reliance(model, lambda: parts)


def _maps(explanations: Mapping[str, Explanation | Given]) -> dict[str, Explanation]:
    maps = {
        name: given if isinstance(given, AttentionMap) else as_tensor(given, f"the maps of {name!r}")
        for name, given in explanations.items()
    }
    for name, given in maps.items():
        if isinstance(given, Tensor) and given.ndim != 3:
            raise InputError(f"{name!r} must be maps (b, rows, columns); got {tuple(given.shape)}")
    return maps


def _regions(images: Images, boxes: Given | None, masks: Given | None) -> Masks | None:
    if boxes is not None:
        return rasterise(as_tensor(boxes, "boxes").float(), (images.shape[2], images.shape[3])).to(images.device)
    return None if masks is None else as_tensor(masks, "masks").to(images.device)


def default_protocol(model: Classifier, explanations: Mapping[str, Explanation], **choices: Any) -> CurveProtocol:
    """Return the default protocol with the grid of the explanations and the mean colour of the training data.

    Args:
        model: A network that states its normalisation.
        explanations: Maps by name; the grid is that of the first trained attention, otherwise the coarsest.
        choices: Fields of `CurveProtocol` that differ from the default.
    """
    protocol = CurveProtocol(colour=training_colour(model), **choices).judging(head_of(model))
    return protocol.on(comparison_grid(explanations))


def card_of(model: Classifier, images: Images, judged: Targets, protocol: CurveProtocol) -> Card:
    """Return the card of a protocol, with hashes of images, targets and weights, and versions of packages.

    Args:
        model: A network.
        images: The images that are judged.
        judged: The classes that are judged.
        protocol: The protocol of the curves.
    """
    data = fingerprint([images, *(classes for classes in judged if classes is not None)])
    weights = fingerprint([tensor for _, tensor in sorted(model.state_dict().items())])
    return Card(protocol=protocol, data=data, weights=weights, versions=versions())


def controls(model: Classifier, images: Images, targets: Labels, grid: Grid) -> dict[str, Explanation]:
    """Return the maps of the controls by label; the random map is on the grid of the comparison.

    The control "other image" is left out if there is no other image, or no layer for Grad-CAM.

    Args:
        model: A network in eval mode.
        images: Images `(b, channels, h, w)` in [0, 1].
        targets: The explained class per image.
        grid: The grid of the comparison.
    """
    options: dict[str, dict[str, Any]] = {"random_cells": {"grid": grid}}
    maps: dict[str, Explanation] = {}
    for label, name in CONTROLS.items():
        with suppress(NoMapError):
            maps[label] = explain(model, images, name, targets=targets, **options.get(name, {}))
    return maps


def _check(images: Images, explanations: Mapping[str, Explanation], clusters: Sequence[str] | None) -> None:
    if clusters is not None:
        clusters_of(clusters, len(images))
    if not explanations:
        raise InputError("there is nothing to judge; expected explanations such as {'attention': seen.attention}")
    for name, explanation in explanations.items():
        if len(finite(values(explanation))) != len(images):
            raise InputError(f"{name!r} explains {len(values(explanation))} images; expected {len(images)}")
        if name in CONTROLS:
            raise InputError(f"{name!r} is the name of a control, which is added anyway; rename the explanation")
