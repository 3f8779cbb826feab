"""Networks of any number of channels and of images that are not square, held to what their RGB twins give."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ibviz.attribution.catalogue import CONTROLS, METHODS
from ibviz.attribution.methods import explain, predict, values
from ibviz.benchmark.evaluation import evaluate
from ibviz.data.decode import fitted
from ibviz.errors import InputError
from ibviz.figures import panel
from ibviz.metrics import BASELINES, CurveProtocol
from ibviz.models.attach import attach
from ibviz.models.config import InputConfig
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.workflows.figure import redraw_figure

close = torch.testing.assert_close
SIZE = (16, 24)


def network(channels: int) -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(channels, 6, 3, 2, 1), nn.ReLU())
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, 3)).eval()


def wrapped(inner: nn.Module, channels: int) -> WrappedClassifier:
    return wrap(inner, mean=(0.4,) * channels, std=(0.25,) * channels, class_names="abc", size=SIZE)


def twins(channels: int) -> tuple[WrappedClassifier, WrappedClassifier]:
    """An RGB network and one of other channels that computes the same: of grey the sum, of more the first three."""
    rgb, other = network(3), network(channels)
    with torch.no_grad():
        weights = rgb.get_parameter("0.0.weight")
        for name, parameter in rgb.named_parameters():
            if name != "0.0.weight":
                other.get_parameter(name).copy_(parameter)
        mine = other.get_parameter("0.0.weight").zero_()
        if channels == 1:
            mine.copy_(weights.sum(1, keepdim=True))
        else:
            mine[:, :3] = weights
    return wrapped(rgb, 3), wrapped(other, channels)


def pictures(channels: int) -> tuple[Tensor, Tensor]:
    """Images of the twins: the same grey in three channels, or three of many."""
    drawn = torch.rand(3, max(channels, 3), *SIZE, generator=torch.Generator().manual_seed(2))
    return (drawn[:, :1].expand(-1, 3, -1, -1), drawn[:, :1]) if channels == 1 else (drawn[:, :3], drawn)


LAYER = {"layer": "network.0.0"}
OF_ATTENTION = ("attention", "rollout", "average_map")  # of networks that have some
METHODS_OF_ANY = [name for name in METHODS if not any(part in name for part in OF_ATTENTION)]
ALIKE: dict[str, dict[str, Any]] = {
    "grad_cam": LAYER,
    "score_cam": LAYER,
    "ablation_cam": LAYER,
    "eigen_cam": LAYER,
    "iba": {**LAYER, "steps": 2, "samples": 2},
    "rise": {"masks": 20},
    "occlusion": {},
    "input_x_gradient": {},
    "integrated_gradients": {"steps": 4},
    "deep_lift": {},
    "uniform": {},
    "centre": {},
}


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("method", ALIKE)
def test_maps_are_those_of_the_twin_of_three_channels(method, channels):
    (rgb, other), (colours, mine) = twins(channels), pictures(channels)
    close(predict(other, mine), predict(rgb, colours), rtol=1e-4, atol=1e-6)
    for targets in (None, 1):
        found, expected = (
            explain(*pair, method, targets=targets, **ALIKE[method]) for pair in ((other, mine), (rgb, colours))
        )
        close(values(found), values(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("method", METHODS_OF_ANY)
def test_every_method_takes_any_number_of_channels(method, channels):
    images = torch.rand(2, channels, *SIZE, generator=torch.Generator().manual_seed(1))
    few = {
        "lime": {"samples": 9, "segments": 4},
        "kernel_shap": {"samples": 9, "segments": 4},
        "rise": {"masks": 9},
        "smooth_grad": {"samples": 2},
        "var_grad": {"samples": 2},
        "gradient_shap": {"samples": 2},
        "feature_ablation": {"segments": 4},
        "iba": {"steps": 1, "samples": 1, **LAYER},
    }
    maps = values(explain(wrapped(network(channels), channels), images, method, **few.get(method, {})))
    assert maps.isfinite().all()
    assert maps.any()


def test_edges_of_grey_are_those_of_grey_in_colours():
    grey = torch.rand(2, 1, 9, 12)
    close(*(values(explain(nn.Identity(), one, "edges")) for one in (grey, grey.expand(-1, 3, -1, -1))))
    many = torch.rand(2, 5, 9, 12)
    close(*(values(explain(nn.Identity(), one, "edges")) for one in (many, many.mean(1, keepdim=True))))


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_stands_for_removed_pixels_is_the_same_in_each_channel_whatever_their_number(baseline):
    """Channels of one image in RGB, and its first alone or five: noise is drawn for all channels, so only shapes."""
    images, removed = torch.rand(2, 5, 12, 18), torch.rand(2, 12, 18) < 0.4

    def filled(some: Tensor) -> Tensor:
        colour = tuple(0.1 * channel for channel in range(some.shape[1]))
        return BASELINES[baseline].fill(some, removed, colour=colour, seed=0).expand_as(some)

    rgb, one, five = filled(images[:, :3]), filled(images[:, :1]), filled(images)
    assert (one.shape, five.shape) == ((2, 1, 12, 18), (2, 5, 12, 18))
    if baseline == "image_minimum":
        close(five[:, 4, 0, 0], images.amin((1, 2, 3)))
    elif baseline != "noise":
        noise = 0.1 if baseline == "road" else 1e-5  # ten deviations of what ROAD adds
        close(one[:, 0], rgb[:, 0], rtol=0, atol=noise)
        close(five[:, :3], rgb, rtol=0, atol=noise)


@pytest.mark.parametrize("channels", [1, 5])
def test_a_judgement_is_that_of_the_twin_of_three_channels(channels):
    (rgb, other), (colours, mine) = twins(channels), pictures(channels)
    maps, boxes = {"map": torch.rand(3, 4, 6)}, torch.tensor([[0.0, 0, 12, 8]] * 3)
    found, expected = (evaluate(*pair, maps, boxes=boxes) for pair in ((other, mine), (rgb, colours)))
    numbers = [
        {
            (row["image"], row["method"], row["metric"]): row["value"]
            for row in one.rows
            if row["method"] in ("map", *[label for label in CONTROLS if label in ("uniform", "centre")])
        }
        for one in (found, expected)
    ]
    assert numbers[0].keys() == numbers[1].keys()
    assert len(numbers[0]) == 3 * 3 * 4
    for key, value in numbers[0].items():
        assert value == pytest.approx(numbers[1][key], abs=1e-4)
    assert found.card.protocol.colour == pytest.approx((0.4,) * channels)
    assert "channels (0.40" in found.table()


def test_images_that_are_not_square_are_fitted_and_taken():
    model = wrapped(network(3), 3)
    assert (model.spec.size, model.spec.height_width) == (SIZE, SIZE)
    with pytest.raises(InputError, match="square images; it takes"):
        _ = model.spec.side
    assert InputConfig(size=(8, 8), mean=(0.5,), std=(1.0,), class_names=("a",)).side == 8
    for wide, high in ((30, 20), (20, 40), (24, 16)):
        ramp = Image.linear_gradient("L").resize((wide, high)).convert("RGB")
        scale = max(16 / high, 24 / wide)
        by_hand = ramp.resize((round(wide * scale), round(high * scale)), Image.Resampling.BILINEAR)
        left, top = (by_hand.width - 24) // 2, (by_hand.height - 16) // 2
        found = fitted(ramp, SIZE)
        assert found.size == (24, 16)
        close(_bytes(found), _bytes(by_hand.crop((left, top, left + 24, top + 16))), rtol=0, atol=2)
    assert fitted(ramp, SIZE, 20).size == (24, 16)
    with pytest.raises(InputError, match="at least the crop size"):
        fitted(ramp, SIZE, 12)


def _bytes(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image.convert("L"))).float()


def test_attention_is_put_into_a_network_of_grey_oblong_images():
    body = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model = attach(wrap(body, mean=[0.5], std=[0.2], class_names="abc", size=(32, 48)), layer="1", bottleneck=4)
    assert model.inspect(torch.rand(2, 1, 32, 48)).attention.values().shape == (2, 16, 24)


@pytest.mark.parametrize("wrong", [{"mean": (0.5,) * 3}, {"std": (0.0,)}, {"size": (4, 16)}, {"mean": (), "std": ()}])
def test_constants_that_do_not_belong_together_are_refused(wrong):
    given: dict[str, Any] = {"mean": (0.5,), "std": (0.2,), "class_names": "abc", "size": 16}
    with pytest.raises(InputError, match=r"wrap: .*a side has 8 to 8192 pixels, a channel a mean and std above 0; got"):
        wrap(network(1), **given | wrong)
    with pytest.raises(ValueError, match="colour"):
        CurveProtocol(colour=())


def test_figures_show_a_stated_choice_of_channels(tmp_path):
    images, maps = torch.rand(2, 5, 32, 48), {"map": torch.rand(2, 4, 6)}
    with pytest.raises(InputError, match=r"images have 5 channels; say which three of 0 to 4"):
        panel(images, maps)
    for wrong in ((0, 1), (0, 1, 5), ()):
        with pytest.raises(InputError, match="say which three"):
            panel(images, maps, channels=wrong)
    chosen = panel(images, maps, channels=(4, 2, 0))
    same = panel(images[:, [4, 2, 0]], maps)
    assert _pixels(chosen) == _pixels(same)
    assert "Channels 4, 2, 0 as red, green, blue, of 5 (from 0)." in _texts(chosen)
    assert _texts(same) == [text for text in _texts(chosen) if not text.startswith("Channels")]
    grey = panel(images[:, 3:4], maps)
    assert _pixels(grey) == _pixels(panel(images[:, [3, 3, 3]], maps)) == _pixels(panel(images, maps, channels=[3]))
    chosen.save(tmp_path / "first.png")
    redraw_figure(tmp_path / "first.json").save(tmp_path / "second.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def _pixels(drawn: Any) -> list[list[list[list[float]]]]:
    return [axes.images[0].get_array().tolist() for axes in drawn.figure.axes if axes.images]


def _texts(drawn: Any) -> list[str]:
    return [text.get_text() for text in drawn.figure.texts]
