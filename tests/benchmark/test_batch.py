"""The `batch` of a suite changes no number, whatever the method and the metric."""

from pathlib import Path

import pytest
import torch
from benchmark.small import choose, image, run_small, suite
from benchmark.test_reliance import trained
from networks import quadrants

from ibviz.attribution.catalogue import CONTROLS
from ibviz.attribution.controls import other_image
from ibviz.benchmark.config import MethodConfig, ProtocolConfig
from ibviz.benchmark.runner.maps import read_batch
from ibviz.benchmark.store import read_maps
from ibviz.data.image_set import to_float
from ibviz.files import read_rows
from ibviz.metrics.catalogue import METRICS

KEY = ("model", "image", "method", "native", "metric")
# Without draws, with draws that follow from the image, and with a surrogate; controls come by themselves.
METHODS = (
    MethodConfig(method="attention"),
    MethodConfig(method="grad_cam"),
    MethodConfig(method="smooth_grad"),
    MethodConfig(method="lime", options={"samples": 60}),
)


def run_with(batch: int, out: Path) -> Path:
    few = (ProtocolConfig(grid=(4, 4), steps=2, orders=2, batch_size=32),)
    asked = suite(methods=METHODS, protocols=few, metrics=tuple(METRICS), native=False, batch=batch)
    assert run_small(out, asked=asked, models={"quadrants": quadrants(), "trained": trained()}, chosen=choose(6))
    return out


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[Path]:
    return [run_with(batch, tmp_path_factory.mktemp("batch")) for batch in (2, 6)]


def numbers(folder: Path) -> dict[tuple, float]:
    return {tuple(row[key] for key in KEY): row["value"] for row in read_rows(folder / "rows.parquet")}


def test_no_number_depends_on_the_batch(results):
    two, six = map(numbers, results)
    assert two.keys() == six.keys()
    assert {key[2] for key in two} > CONTROLS.keys()
    assert {key[4] for key in two} == set(METRICS)
    assert two == pytest.approx(six, abs=2e-4, nan_ok=True)


def test_another_image_is_half_of_the_list_away_in_batches_of_any_size(results):
    images = to_float(torch.stack([image(number) for number in range(6)]))
    expected = other_image(trained(), images.roll(-3, 0), others=images.roll(-3, 0))
    for folder in results:
        found = read_maps(folder, "trained", "other image")
        torch.testing.assert_close(found, expected, rtol=2**-10, atol=0)


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (3, 7), (5, 10), (0, 10)])
def test_partners_are_read_across_the_end_of_the_list(start, stop):
    batch = read_batch(choose(10, broken=(1, 6)), start, stop)
    names = [name for images in batch.others for name in images.names]
    numbers = [number for number in range(start, stop) if number not in (1, 6)]
    given = [None if place is None else names[place] for place in batch.partners]
    assert given == [None if (number + 5) % 10 in (1, 6) else f"{(number + 5) % 10}.png" for number in numbers]


def test_an_image_whose_partner_cannot_be_read_has_no_map_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr("ibviz.data.listing.TOLERATED_SHARE", 0.2)
    asked = suite("saliency", metrics=("sparseness",), native=False)
    assert run_small(tmp_path, asked=asked, chosen=choose(10, broken=(6,)))
    rows = [row for row in read_rows(tmp_path / "rows.parquet") if row["method"] == "other image"]
    assert [row["image"] for row in rows] == [0, 2, 3, 4, 5, 6, 7, 8]  # the second's partner is the seventh
