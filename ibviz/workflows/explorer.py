"""The widget of `ibviz.explore`: its state, the interventions that it asks for, and its figure."""

from collections.abc import Sequence
from typing import Any

import anywidget
import torch
import traitlets

from ibviz.anchors.effects import EffectSummary, interval, summarise_effects
from ibviz.anchors.intervene import CELL_EDITS, CellEdit, Effects, intervene
from ibviz.errors import InputError
from ibviz.figures.panel import panel
from ibviz.figures.report.widget import widget_data, widget_module
from ibviz.figures.sidecar import Panel
from ibviz.types import AttentionMap
from ibviz.workflows.captions import PICTURES_PER_ROW, class_caption
from ibviz.workflows.explore import Exhibit


class Explorer(anywidget.AnyWidget):
    """Widget that lights the cells of chosen anchors; its state can be read and set from Python.

    Attributes:
        anchors: Indices of the chosen anchors, ascending; None until the widget is shown or they are set.
        image: Index of the image that is shown large.
        shown: Indices of the images that are shown, such as those of a class.
        model: Label of the network whose map is shown.
        method: Label of the map that is shown.
        opacity: Share of colour in lit cells.
        effect: Numbers of the last intervention; empty before the first.
    """

    _esm = widget_module()
    data = traitlets.Dict().tag(sync=True)
    anchors = traitlets.List(traitlets.Int(), allow_none=True, default_value=None).tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    shown = traitlets.List(traitlets.Int()).tag(sync=True)
    model = traitlets.Unicode().tag(sync=True)
    method = traitlets.Unicode().tag(sync=True)
    opacity = traitlets.Float(0.6).tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)
    effect = traitlets.Dict().tag(sync=True)

    def __init__(self, exhibit: Exhibit) -> None:
        """Show an exhibit; without a model in it there are no interventions."""
        self._exhibit = exhibit
        first = next(iter(exhibit.report.models))
        super().__init__(
            data=widget_data(exhibit.report, CELL_EDITS if exhibit.model is not None else {}),
            shown=list(range(len(exhibit.images))),
            model=first,
            method=next(iter(exhibit.report.models[first].maps)),
        )
        self.observe(self._answer, names="asked")

    @traitlets.validate("image")
    def _known_image(self, proposal: Any) -> int:
        return self._in_range("image", proposal["value"], len(self._exhibit.images))

    @traitlets.validate("shown")
    def _known_images(self, proposal: Any) -> list[int]:
        rows = sorted({self._in_range("an image", number, len(self._exhibit.images)) for number in proposal["value"]})
        if not rows:
            raise InputError("at least one image is shown; got none")
        return rows

    @traitlets.validate("anchors")
    def _known_anchors(self, proposal: Any) -> list[int] | None:
        if proposal["value"] is None:
            return None
        table = self._map().anchors
        assert table is not None
        return sorted({self._in_range("an anchor", anchor, len(table)) for anchor in proposal["value"]})

    @staticmethod
    def _in_range(what: str, number: int, count: int) -> int:
        if not 0 <= number < count:
            raise InputError(f"{what} is a number from 0 to {count - 1}; got {number}")
        return number

    def intervene(self, edit: str, anchor: int | None = None) -> EffectSummary:
        """Give the cells of the chosen anchors other values, and measure the effect on the images that are shown.

        Args:
            edit: One of `ibviz.anchors.CELL_EDITS`.
            anchor: For "set", the anchor that the cells are set to.

        Returns:
            The effect over the images that are shown, which is also written beside the widget's button.

        Raises:
            InputError: There is no such edit or anchor, no cell is chosen, the network is not there, or there is a
                single image.
        """
        exhibit = self._exhibit
        if exhibit.model is None or exhibit.image_set is None:
            raise InputError("interventions need the network; explore it: ibviz.explore(model, images)")
        chosen = CellEdit(edit, tuple(self.anchors or ()), anchor)
        effects = intervene(exhibit.model, exhibit.image_set, [chosen])
        if edit != "keep" and not self._lit()[self.shown].any():
            raise InputError(
                f"no cell of the {len(self.shown)} images shown is at a chosen anchor, so that nothing would change; "
                f"choose anchors that hold cells; chosen: {', '.join(map(str, chosen.chosen)) or 'none'}"
            )
        [line] = summarise_effects(_of_images(effects, self.shown))
        self.effect = {
            "anchors": list(chosen.chosen),
            "words": self._words(chosen),
            "change": [line.change.mean, line.change.low, line.change.high],
            "text": interval(line.change),
            "flips": line.flips.mean,
            "images": line.change.n,
            "pictures": list(range(len(effects.labels))),
            "before": effects.probability.tolist(),
            "changes": effects.change[0].tolist(),
        }
        return line

    def _words(self, edit: CellEdit) -> str:
        label = CELL_EDITS[edit.edit]
        table = self._map().anchors
        assert table is not None
        return label if edit.anchor is None else label.replace("anchor k", f"anchor {float(table[edit.anchor]):.3g}")

    def _answer(self, change: Any) -> None:
        """Carry out what the browser asked for; what goes wrong is said there."""
        asked = change["new"]
        try:
            self.intervene(asked["edit"], asked["anchor"])
        except InputError as error:
            self.effect = {"error": str(error), "number": asked["number"]}

    def _map(self) -> AttentionMap:
        given = self._exhibit.report.models[self.model].maps[self.method]
        assert isinstance(given, AttentionMap)
        return given

    def _lit(self) -> torch.Tensor:
        """Return the cells at chosen anchors, `(images, rows, columns)`."""
        index = self._map().index
        assert index is not None
        return torch.isin(index, torch.tensor(self.anchors or (), dtype=index.dtype, device=index.device))

    def figure(self, images: Sequence[int] | None = None, *, template: str = "ijcai") -> Panel:
        """Draw what is on the screen for a publication: the images, their attention, and the lit cells.

        Args:
            images: Indices of images; by default the large one and those shown after it, six in all.
            template: Page that the figure is drawn for, as in `ibviz.figures.panel`.
        """
        rows = self._default_rows() if images is None else list(images)
        given, cells = self._map()[torch.tensor(rows)], self._lit()[torch.tensor(rows)]
        scale = torch.tensor([0.0, 1.0], device=cells.device)
        answers = [self._exhibit.report.models[self.model].predictions[row] for row in rows]
        boxes = self._exhibit.boxes
        return panel(
            self._exhibit.images[rows],
            {self.method: given, "chosen cells": AttentionMap(cells.float(), cells.float(), cells.long(), scale)},
            captions=[class_caption(answer.name, answer.probability) for answer in answers],
            boxes=None if boxes is None else boxes[rows].cpu(),
            template=template,
            record={
                "images": [self._exhibit.report.pictures[row].name for row in rows],
                "model": self.model,
                "chosen anchors": list(self.anchors or ()),
            },
        )

    def _default_rows(self) -> list[int]:
        following = [row for row in self.shown if row != self.image]
        after = [row for row in following if row > self.image] + [row for row in following if row < self.image]
        return [self.image, *after[: PICTURES_PER_ROW - 1]]


def _of_images(effects: Effects, rows: Sequence[int]) -> Effects:
    """Return the effects on some of the images."""
    kept = torch.tensor(rows, dtype=torch.int64)
    return Effects(effects.variants, *(column[..., kept] for column in effects[1:]))
