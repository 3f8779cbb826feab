"""What comes in: images that a network writes to, images of another kind than it takes, targets in every form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import bottlenecked, quadrants
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from ibviz.attribution.door import one_class_each
from ibviz.attribution.information import feature_statistics
from ibviz.attribution.methods import explain, predict, values
from ibviz.attribution.randomisation import randomise
from ibviz.attribution.stability import infidelity
from ibviz.benchmark.evaluation import evaluate
from ibviz.errors import InputError
from ibviz.metrics import SRG, Deletion, PointingGame, average_drop, scorer
from ibviz.models.loading import wrap

close = torch.testing.assert_close


class Preparing(nn.Module):
    """Changes its images by `prepare` before it looks at them, on a copy of them unless `careless`."""

    def __init__(self, prepare: Callable[[Tensor], Tensor], *, careless: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prepare, self.careless = prepare, careless
        self.conv, self.relu, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.conv(self.prepare(images if self.careless else images.clone())))
        return self.head(features.mean((2, 3)))


def blank_a_row(images: Tensor) -> Tensor:
    images[:, :, 0] = 0
    return images


PREPARED: dict[str, Callable[[Tensor], Tensor]] = {
    "normalised": lambda images: images.sub_(0.5).div_(0.25),
    "a module in place": nn.Hardtanh(0.3, 0.7, inplace=True),
    "a row": blank_a_row,
    "flipped": lambda images: images.copy_(images.flip(1).clone()),
}
METHODS = {
    "saliency": {},
    "grad_cam": {"layer": "conv"},
    "xgrad_cam": {"layer": "conv"},
    "integrated_gradients": {},
    "occlusion": {},
    "rise": {"masks": 30},
    "score_cam": {"layer": "conv"},
    "smooth_grad": {"samples": 3},
    "iba": {"layer": "conv", "steps": 2},
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", PREPARED)
def test_a_network_that_writes_to_its_images_writes_to_copies(kind, images):
    careless, careful = (Preparing(PREPARED[kind], careless=careless).eval() for careless in (True, False))
    mine = images.clone()
    close(predict(careless, mine), predict(careful, images.clone()))
    for method, options in METHODS.items():
        close(
            explain(careless, mine, method, **options),
            explain(careful, images.clone(), method, **options),
            msg=lambda text, method=method: f"{method}: {text}",
        )
    assert torch.equal(mine, images)
    assert mine._version == 0


def test_measures_that_run_a_network_leave_the_images_alone_too(images):
    careless, careful = (Preparing(PREPARED["normalised"], careless=one).eval() for one in (True, False))
    maps, targets, rows = torch.rand(2, 4, 4), torch.tensor([0, 1]), torch.arange(2)

    def measured(network: nn.Module, mine: Tensor) -> list[Tensor]:
        statistics = feature_statistics(network, mine, layer="conv")
        drop = average_drop(scorer(network, targets), mine, maps)
        wrong = infidelity(network, mine, maps, targets=targets, samples=4)
        changed = randomise(network, mine, "saliency", targets=targets, layers=["head"])[0].similarity["spearman"]
        return [*statistics, drop.drop, wrong, changed, scorer(network, targets)(mine.clone(), rows)]

    mine = images.clone()
    close(measured(careless, mine), measured(careful, images.clone()))
    assert torch.equal(mine, images)


def normalised(images: Tensor) -> Tensor:
    return (images - 0.5) / 0.25


WRONG: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "one image": (
        lambda images: images[0],
        r"a batch \(b, channels, h, w\); got \(3, 48, 48\); of one image, images\[",
    ),
    "a row of pixels": (lambda images: images.flatten(), r"a batch .*; got \(13824,\)"),
    "bytes": (lambda images: (images * 255).byte(), r"floating point in \[0, 1\]; got uint8; of bytes, ibviz.data.to"),
    "bytes of NumPy": (lambda images: (images * 255).byte().numpy(), "got uint8"),
    "whole numbers": (lambda images: images.long(), "got int64"),
    "bytes as floats": (lambda images: images * 255, r"in \[0, 1\] pixel space.*; divide bytes by 255"),
    "normalised": (normalised, r"in \[0, 1\] pixel space, not normalised; got -2 to 2; tell ibviz.wrap"),
    "no numbers": (lambda images: images * torch.nan, r"got nan to nan"),
    "grey": (lambda images: images[:, :1], r"takes images of 3 channels; got \(2, 1, 48, 48\)"),
    "with alpha": (lambda images: torch.cat([images, images[:, :1]], 1), r"of 3 channels; got \(2, 4, 48, 48\)"),
    "channels last": (lambda images: images.permute(0, 2, 3, 1), r"before rows: images.permute\(0, 3, 1, 2\)"),
    "words": (lambda images: np.array([[str(images.shape)]]), "a tensor or a NumPy array of numbers; got ndarray"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_images_of_another_kind_are_one_line_at_every_door(kind):
    change, words = WRONG[kind]
    wrong, model = change(torch.rand(2, 3, 48, 48)), bottlenecked()
    for door in (
        lambda: explain(model, wrong, "saliency"),  # pyright: ignore[reportArgumentType]
        lambda: predict(model, wrong),  # pyright: ignore[reportArgumentType]
        lambda: evaluate(model, wrong, {"map": torch.rand(2, 12, 12)}),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(InputError, match=words):
            door()


def small(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def transformer() -> nn.Module:
    return VisionTransformer(32, 8, 1, 1, 8, 8, num_classes=3)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "half precision": (
        lambda: small().bfloat16(),
        r"Sequential \(weights bfloat16 on cpu\) cannot take images "
        r"\(2, 3, 16, 16\), float32 on cpu: ",
    ),
    "double precision": (lambda: small().double(), r"weights float64 .*float32"),
    "another number of channels": (lambda: small(4), r"cannot take images \(2, 3, 16, 16\)"),
    "another size": (transformer, r"VisionTransformer .*cannot take images .*: Wrong image height"),
    "no batch norm of one": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), "cannot take images"),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("method", ["saliency", "occlusion", "rise", "deep_lift"])
def test_what_a_network_refuses_itself_is_said_in_words(kind, method, images):
    build, words = REFUSED[kind]
    for targets in (None, 1):
        with pytest.raises(InputError, match=words):
            explain(build().eval(), images, method, targets=targets)


def test_a_size_that_a_wrapped_network_does_not_take_is_named(images):
    model = wrap(transformer(), mean=(0.5,) * 3, std=(0.2,) * 3, class_names="abc", size=32)
    with pytest.raises(InputError, match=r"made for 32x32 pixels\) cannot take images \(2, 3, 16, 16\)"):
        predict(model, images)


def test_an_error_of_a_networks_own_is_passed_on(images):
    class Strange(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise LookupError(f"its own {images.ndim}")

    with pytest.raises(LookupError, match="its own"):
        explain(Strange(), images, "saliency")


def test_float32_images_enter_a_wrapped_network_of_half_precision(images):
    network = small().eval()
    images = images.clone()
    low = wrap(small().bfloat16(), mean=(0.5,) * 3, std=(0.25,) * 3, class_names="abc", size=16)
    inputs = images.clone().requires_grad_()
    network.bfloat16()(((inputs - 0.5) / 0.25).bfloat16())[:, 1].sum().backward()
    assert inputs.grad is not None
    close(explain(low, images, "saliency", targets=1), inputs.grad.abs().amax(1))
    assert values(explain(low, images, "rise", masks=20)).isfinite().all()
    with pytest.raises(InputError, match="floating point"):
        explain(low, images.to(torch.int32), "saliency")


def test_arrays_of_numpy_are_taken_as_tensors(images):
    model, array = quadrants(), images.double().numpy()
    expected = explain(model, images, "saliency")
    close(explain(model, array, "saliency"), expected)
    close(explain(model, images.permute(0, 3, 2, 1).numpy().transpose(0, 3, 2, 1), "saliency"), expected)
    close(predict(model, array), predict(model, images))
    maps, boxes = torch.rand(2, 4, 4), torch.tensor([[0.0, 0, 8, 8], [8.0, 8, 16, 16]])
    given = evaluate(model, array, {"map": maps.numpy()}, boxes=boxes.numpy(), labels=[1, 2])
    plain = evaluate(model, images, {"map": maps}, boxes=boxes, labels=torch.tensor([1, 2]))
    assert [row["value"] for row in given.rows] == [row["value"] for row in plain.rows]
    assert given.card.hash == plain.card.hash


def test_targets_may_be_a_number_for_all_or_a_list(images):
    model, expected = quadrants(), explain(quadrants(), images, "input_x_gradient", targets=torch.full((2,), 3))
    for targets in (3, [3, 3], (3, 3), np.array([3, 3]), np.int64(3), np.array(3)):
        close(values(explain(model, images, "input_x_gradient", targets=targets)), expected)  # pyright: ignore
    for targets in ([3], [3, 3, 3], [[3], [3]], 3.0, [0.5, 1.0], True, [[1], [1, 2]], "ab"):
        with pytest.raises(InputError, match="targets must be whole numbers"):
            one_class_each(targets, images)  # which every door calls; in tests its annotation answers first
    with pytest.raises(InputError, match=r"classes, 0 to 3 of this model; got 4 to 4"):
        explain(model, images, "saliency", targets=4)


def test_evaluation_says_what_it_lacks(images):
    with pytest.raises(InputError, match=r"Sequential does not say how its images are normalised.*ibviz.wrap\("):
        evaluate(small(), images, {"map": torch.rand(2, 4, 4)})
    with pytest.raises(InputError, match=r"'map' must be maps \(b, rows, columns\); got \(4, 4\)"):
        evaluate(quadrants(), images, {"map": torch.rand(4, 4)})
    with pytest.raises(InputError, match="targets must be whole numbers"):
        evaluate(quadrants(), images, {"map": torch.rand(2, 4, 4)}, targets=[1])


@pytest.mark.parametrize("metric", [Deletion, SRG, PointingGame])
def test_a_metric_that_is_given_a_network_says_what_it_sums_up(metric):
    with pytest.raises(InputError, match=rf"{metric.__name__} takes no WrappedClassifier: it runs no network"):
        metric(quadrants())
    assert metric(reduction="none").reduction == "none"
