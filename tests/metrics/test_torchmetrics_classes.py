"""The torchmetrics shells against the pure functions: in batches, in a collection, across processes."""

import math
import subprocess
import sys
from itertools import chain
from multiprocessing import get_context
from typing import Any, cast

import pytest
import torch
from torch.testing import assert_close
from torchmetrics import MetricCollection

from ibviz import metrics
from ibviz.errors import InputError
from ibviz.metrics import (
    SRG,
    Curve,
    Deletion,
    EnergyPointingGame,
    Insertion,
    MaxBoxAcc,
    PointingGame,
    energy_pointing_game,
    max_box_acc,
    overlaps,
    pointing_game,
    trapezoid,
)

SIZE = (6, 8)


def batch(n, seed) -> dict[str, Any]:
    """All that the metrics are fed; the last image has no object."""
    generator = torch.Generator().manual_seed(seed)
    fractions = torch.linspace(0, 1, 5).expand(n, -1)
    scores = [torch.rand(n, 5, generator=generator) for _ in range(2)]
    maps = torch.rand(n, 3, 4, generator=generator)
    regions = torch.rand(n, *SIZE, generator=generator) > 0.7
    regions[-1] = False
    corner = torch.rand(n, 2, generator=generator) * 3
    boxes = [torch.cat([one, one + 3])[None] for one in corner]
    boxes[-1] = torch.zeros(0, 4)
    deletion, insertion = (Curve(fractions, values) for values in scores)
    return {"deletion": deletion, "insertion": insertion, "maps": maps, "regions": regions, "boxes": boxes}


def joined(batches) -> dict[str, Any]:
    def join(values):
        if isinstance(values[0], Curve):
            return Curve(*(torch.cat(field) for field in zip(*values, strict=True)))
        return torch.cat(values) if isinstance(values[0], torch.Tensor) else list(chain(*values))

    return {key: join([one[key] for one in batches]) for key in batches[0]}


def shells(**options):
    return MetricCollection(
        {
            "deletion": Deletion(**options),
            "insertion": Insertion(**options),
            "srg": SRG(**options),
            "pointing": PointingGame(tolerance=0.0, **options),
            "energy": EnergyPointingGame(**options),
            "normalised": EnergyPointingGame(normalised=True, **options),
        }
    )


def expected(data):
    energy = energy_pointing_game(data["maps"], data["regions"])
    return {
        "deletion": trapezoid(data["deletion"]),
        "insertion": trapezoid(data["insertion"]),
        "srg": trapezoid(data["insertion"]) - trapezoid(data["deletion"]),
        "pointing": pointing_game(data["maps"], data["regions"], tolerance=0.0).hit,
        "energy": energy.energy,
        "normalised": energy.normalised,
    }


def test_collection_over_batches_equals_the_functions_on_all_images():
    batches = [batch(n, n) for n in (5, 3, 4)]
    means, each = shells(), shells(reduction="none")
    for one in batches:
        means.update(**one)
        each.update(**one)
    values = expected(joined(batches))
    assert_close(means.compute(), {name: one.nanmean() for name, one in values.items()})
    assert_close(each.compute(), values, equal_nan=True)
    assert [int(cast(Any, means[name]).excluded) for name in ("deletion", "pointing", "energy")] == [0, 3, 3]


def test_metrics_that_agree_at_first_do_not_share_their_state():
    """Deletion and insertion of a uniform map are equal; torchmetrics would merge equal states named alike."""
    first, second = batch(2, 0), batch(2, 1)
    first["insertion"] = first["deletion"]
    collection = shells()
    for one in (first, second):
        collection.update(**one)
    assert_close(collection.compute(), {name: v.nanmean() for name, v in expected(joined([first, second])).items()})


def test_options_tell_metrics_of_one_class_apart():
    """Without an object, and where all hit, the states of all options agree after the first batch."""
    first, second = batch(4, 0), batch(6, 1)
    first |= {"regions": torch.zeros(4, *SIZE, dtype=torch.bool), "boxes": [torch.zeros(0, 4)] * 4}
    options = {"exact": 0.0, "near": 1.0}
    kinds: dict[str, Any] = {name: PointingGame(tolerance=value) for name, value in options.items()}
    kinds |= {"energy": EnergyPointingGame(), "normalised": EnergyPointingGame(normalised=True)}
    kinds |= {kind: MaxBoxAcc(size=SIZE, deltas=(0.5,), contours=kind) for kind in ("all", "largest")}
    kinds["strict"] = MaxBoxAcc(size=SIZE, deltas=(0.7,))
    found = MetricCollection(kinds, prefix="")
    for one in (first, second):
        found.update(**one)
    alone = {name: metric.clone() for name, metric in kinds.items()}
    for name, metric in alone.items():
        metric.reset()
        where = "boxes" if isinstance(metric, MaxBoxAcc) else "regions"
        for one in (first, second):
            metric.update(**{"maps": one["maps"], where: one[where]})
        assert_close(cast(Any, found[name]).compute(), metric.compute(), equal_nan=True)
    assert len({float(alone[name].compute()) for name in options}) == 2


def test_thresholds_cannot_be_chosen_on_nothing_nor_for_other_deltas():
    empty = MaxBoxAcc(size=SIZE)
    empty.update(maps=torch.rand(1, 2, 2), boxes=[torch.zeros(0, 4)])
    with pytest.raises(InputError, match="has seen no image with a box"):
        MaxBoxAcc(size=SIZE, chosen_on=empty)
    with pytest.raises(InputError, match=r"metric of deltas \(0.5,\) to choose on; got \(0.3, 0.5, 0.7\)"):
        MaxBoxAcc(size=SIZE, deltas=(0.5,), chosen_on=empty)
    with pytest.raises(InputError, match="none of the 2 images to choose thresholds on has a box"):
        max_box_acc(torch.rand(1, 101), torch.full((2, 101), math.nan))


def test_reset_forgets():
    collection = shells()
    collection.update(**batch(3, 0))
    collection.reset()
    collection.update(**batch(4, 1))
    assert_close(collection.compute(), {name: v.nanmean() for name, v in expected(batch(4, 1)).items()})


def test_forward_gives_the_value_of_the_batch_and_keeps_the_sum():
    metric, one, two = Deletion(), batch(2, 0)["deletion"], batch(4, 1)["deletion"]
    assert_close(metric(deletion=one), trapezoid(one).mean())
    assert_close(metric(deletion=two), trapezoid(two).mean())
    assert_close(metric.compute(), torch.cat([trapezoid(one), trapezoid(two)]).mean())


def test_box_accuracy_takes_the_threshold_of_the_other_split():
    other, batches = batch(9, 7), [batch(6, 1), batch(4, 2)]
    chooser, judged = MaxBoxAcc(size=SIZE), joined(batches)
    chooser.update(maps=other["maps"], boxes=other["boxes"])
    metric = MaxBoxAcc(size=SIZE, chosen_on=chooser)
    for one in batches:
        metric.update(maps=one["maps"], boxes=one["boxes"])
    found = [overlaps(one["maps"], one["boxes"], SIZE) for one in (judged, other)]
    result = max_box_acc(*found)
    assert_close(
        metric.compute(),
        {"max_box_acc": torch.tensor(result.accuracy), "max_box_acc_oracle": torch.tensor(result.oracle)},
    )
    assert (int(metric.boxed), int(metric.excluded)) == (8, 2)
    assert result.accuracy < result.oracle
    assert math.isnan(chooser.compute()["max_box_acc"])


def test_nothing_defined_is_nan_and_counted():
    metric = PointingGame()
    metric.update(maps=torch.rand(2, 2, 2), regions=torch.zeros(2, 4, 4, dtype=torch.bool))
    assert math.isnan(metric.compute())
    assert int(metric.excluded) == 2
    boxes = MaxBoxAcc(size=(4, 4))
    boxes.update(maps=torch.rand(1, 2, 2), boxes=[torch.zeros(0, 4)])
    assert math.isnan(boxes.compute()["max_box_acc_oracle"])


def test_states_do_not_grow_with_the_images():
    def entries(metric):
        return sum(getattr(metric, name).numel() for name in metric._defaults)

    metric, boxes = Deletion(), MaxBoxAcc(size=SIZE)
    sizes = []
    for _ in range(3):
        one = batch(8, 0)
        metric.update(deletion=one["deletion"])
        boxes.update(maps=one["maps"], boxes=one["boxes"])
        sizes.append((entries(metric), entries(boxes)))
    assert sizes == [(3, 3 * 101 + 2)] * 3


def test_directions_and_bounds_are_stated():
    metrics = [Deletion(), Insertion(), SRG(), PointingGame(), EnergyPointingGame(), MaxBoxAcc(size=SIZE)]
    assert [one.higher_is_better for one in metrics] == [False, True, True, True, True, True]
    assert not any(one.is_differentiable or one.full_state_update for one in metrics)
    assert [(one.plot_lower_bound, one.plot_upper_bound) for one in metrics] == [
        (0, 1),
        (0, 1),
        (-1, 1),
        (0, 1),
        (-1, 1),
        (0, 1),
    ]


def test_plots():
    metric = Deletion()
    metric.update(deletion=batch(3, 0)["deletion"])
    figure, axes = metric.plot()
    assert axes.get_ylim()[0] <= 0 <= 1 <= axes.get_ylim()[1]
    figure.clear()


def test_torchmetrics_is_imported_only_when_asked_for():
    code = "import sys, ibviz.metrics; sys.exit('torchmetrics' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert metrics.SRG is SRG
    with pytest.raises(AttributeError, match="no attribute 'Iou'"):
        metrics.Iou  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def together(rank, folder) -> dict[str, Any]:
    """What one of two processes, which see different numbers of images, knows of all."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        results = {}
        for reduction in ("mean", "none"):
            chooser, one, other = MaxBoxAcc(size=SIZE), batch(3 + 2 * rank, rank), batch(4, 7 + rank)
            chooser.update(maps=other["maps"], boxes=other["boxes"])
            collection, boxes = shells(reduction=reduction), MaxBoxAcc(size=SIZE, chosen_on=chooser)
            collection.update(**one)
            boxes.update(maps=one["maps"], boxes=one["boxes"])
            results[reduction] = collection.compute() | boxes.compute()
        return results
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    other = get_context("spawn").Process(target=together, args=(1, str(tmp_path)))
    other.start()
    results = together(0, str(tmp_path))
    other.join()
    assert other.exitcode == 0
    data, other = joined([batch(3, 0), batch(5, 1)]), joined([batch(4, 7), batch(4, 8)])
    boxes = max_box_acc(*(overlaps(one["maps"], one["boxes"], SIZE) for one in (data, other)))
    for reduction, found in results.items():
        assert float(found.pop("max_box_acc_oracle")) == pytest.approx(boxes.oracle)
        assert float(found.pop("max_box_acc")) == pytest.approx(boxes.accuracy)
        values = expected(data)
        wanted = values if reduction == "none" else {name: one.nanmean() for name, one in values.items()}
        assert_close(found, wanted, equal_nan=True)
