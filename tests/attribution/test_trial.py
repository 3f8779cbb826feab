"""What a network is tried for before its maps are trusted, and what follows from it for maps."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ibviz
from ibviz import InputError, evaluate, explain, predict, wrap
from ibviz.attribution import cam
from ibviz.attribution.methods import values

NAMES = ("a", "b", "c", "d")


class Network(nn.Module):
    """A convolution, and a head on its means over places."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, 4)

    def features(self, images: Tensor) -> Tensor:
        return self.conv(images).relu()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))


class Viewing(Network):
    """The network of tutorials: rows of features by `view`, which refuses a memory format that is not its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6 * 64, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).view(len(images), -1))


class Reshaping(Viewing):
    """The same function, written so that any memory format will do."""

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).reshape(len(images), -1))


METHODS = {
    "saliency": {},
    "integrated_gradients": {"steps": 4, "tolerance": float("inf")},
    "smooth_grad": {"samples": 3},
    "gradient_shap": {"samples": 3},
    "rise": {"masks": 8},
    "occlusion": {"window": 8, "stride": 4},
    "feature_ablation": {"segments": 4},
    "lime": {"samples": 12, "segments": 4},
    "kernel_shap": {"samples": 24, "segments": 4},
    "score_cam": {"layer": "conv"},
    "ablation_cam": {"layer": "conv"},
    "grad_cam": {"layer": "conv"},
    "iba": {"layer": "conv", "steps": 2, "samples": 2},
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def wrapped(network: nn.Module, names: tuple[str, ...] = NAMES, **choices) -> nn.Module:
    return wrap(network, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=names, size=16, **choices)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_views_features_as_rows_has_the_maps_of_one_that_reshapes_them(method, images):
    maps = [explain(kind().eval(), images, method, targets=1, **METHODS[method]) for kind in (Viewing, Reshaping)]
    torch.testing.assert_close(*maps)


def test_a_network_that_views_features_as_rows_is_judged(images):
    maps = {"map": torch.rand(2, 8, 8)}
    found, expected = (evaluate(wrapped(kind()), images, maps) for kind in (Viewing, Reshaping))
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row["value"] == pytest.approx(other["value"], abs=1e-5)


class ByChance(Network):
    """Dropout that stays, as its code says training=True."""

    def features(self, images: Tensor) -> Tensor:
        return F.dropout(super().features(images), 0.5, training=True)


class OverBatch(Network):
    """Normalised over the images of a batch by a function, which no module shows."""

    def features(self, images: Tensor) -> Tensor:
        return F.batch_norm(super().features(images), None, None, training=True)


class MeanOfBatch(Network):
    """What an image has more than the others of its batch, which logits of large biases hide."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return 100 + logits - logits.mean(0)


class Moving(Network):
    """A mean of all images seen is taken from each, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(3, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        self.mean.mul_(0.5).add_(0.5 * images.detach().mean((0, 2, 3))[:, None, None])
        return super().features(images - self.mean)


class Doubled(Network):
    """Logits of the images, then those of their mirror images."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(torch.cat([images, images.flip(3)]))


class OneForAll(Network):
    """One row of logits, however many images there are."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).mean(0, keepdim=True)


class Squeezing(Network):
    """Without the axis of the batch where that has one image."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (ByChance, "draws random numbers in eval mode"),
        (OverBatch, "change one another's logits"),
        (MeanOfBatch, "change one another's logits"),
        (Moving, "changes with every pass"),
        (Doubled, "one row of logits for each image; got 4 for 2 images"),
        (OneForAll, "one row of logits for each image; got 1 for 2 images"),
        (Squeezing, r"for several images, but not for one.*flatten\(1\)"),
    ],
)
@pytest.mark.parametrize("method", ["saliency", "rise", "lime", "grad_cam"])
def test_logits_that_no_map_may_rest_on_are_refused(kind, words, method, images):
    with pytest.raises(InputError, match=words):
        explain(kind().eval(), images, method, targets=1, **METHODS[method])
    with pytest.raises(InputError, match=words):
        predict(kind().eval(), images)


def test_noise_that_is_fixed_is_none():
    class Fixed(Network):
        def features(self, images: Tensor) -> Tensor:
            torch.manual_seed(5)
            return super().features(images + 0.1 * torch.randn(images.shape[1:]))

    assert values(explain(Fixed().eval(), torch.rand(2, 3, 16, 16), "saliency", targets=0)).any()


class Ending(Network):
    """Something is made of the logits at the end."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.end = end

    def forward(self, images: Tensor) -> Tensor:
        return self.end(super().forward(images))


def test_probabilities_in_the_place_of_logits_are_refused_and_the_ways_out_are_right(images):
    normalised = (images - 0.5) / 0.5
    for head, end, way_out in (
        ("softmax", nn.Softmax(1), lambda output: output.clamp(min=1e-12).log()),
        ("sigmoid", nn.Sigmoid(), lambda output: output.logit(1e-6)),
    ):
        network = Ending(end).eval()
        for call in (lambda model: predict(model, images), lambda model: explain(model, images, "rise", masks=4)):
            with pytest.raises(InputError, match=r"probabilities, not logits.*ibviz\.wrap"):
                call(wrapped(network, head=head))
        right = predict(wrapped(network, head=head, output=way_out), images)
        torch.testing.assert_close(right, network(normalised).detach(), rtol=1e-4, atol=1e-6)
    log = predict(wrapped(Ending(nn.LogSoftmax(1))), images)  # whose softmax is right
    torch.testing.assert_close(log, predict(wrapped(Network()), images))
    assert values(explain(wrapped(Ending(nn.Sigmoid()), head="none"), images, "saliency", targets=0)).any()


def test_names_are_as_many_as_outputs(images):
    for names in (NAMES[:2], (*NAMES, "e")):
        with pytest.raises(InputError, match=f"gives 4 outputs for each image, and {len(names)} class_names"):
            predict(wrapped(Network(), names), images)


def test_constants_of_bytes_are_refused():
    for constants, words in (
        ({"mean": (123.7, 116.3, 103.5), "std": (0.2,) * 3}, "divide those of bytes by 255"),
        ({"mean": (0.5,) * 3, "std": (58.4, 57.1, 57.4)}, "divide those of bytes by 255"),
    ):
        with pytest.raises(InputError, match=words):
            wrap(Network(), class_names=NAMES, size=16, **constants)


def test_outputs_that_are_no_numbers_are_refused(images):
    with pytest.raises(InputError, match="outputs of the network are not finite"):
        predict(Ending(nn.Threshold(1e9, float("inf"))).eval(), images)


def test_a_function_of_the_output_that_fails_is_named(images):
    with pytest.raises(InputError, match="the function given as output does not take what the network gives, Tensor"):
        predict(wrapped(Network(), output=lambda output: output.logits), images)


class Cropping(Network):
    """Sees the middle of its images alone."""

    def features(self, images: Tensor) -> Tensor:
        return super().features(images[:, :, 4:-4, 4:-4])


@pytest.mark.parametrize("method", ["grad_cam", "eigen_cam", "score_cam", "iba"])
def test_a_layer_behind_a_crop_has_no_map_of_the_image(method, images):
    options = METHODS.get(method, {"layer": "conv"})
    with pytest.raises(InputError, match="depends on the first 4 rows of pixels: this network crops its images"):
        explain(Cropping().eval(), images, method, targets=1, **options)
    on_pixels = values(explain(Cropping().eval(), images, "saliency", targets=1))
    assert on_pixels.any()
    assert not on_pixels[:, :4].any()


class Turning(Network):
    """Mirrors or turns its images before its first layer."""

    def __init__(self, turn) -> None:
        super().__init__()
        self.turn = turn

    def features(self, images: Tensor) -> Tensor:
        return super().features(self.turn(images))


@pytest.mark.parametrize(
    "turn", [lambda x: x.flip(3), lambda x: x.flip(2), lambda x: x.mT, lambda x: x.rot90(1, (2, 3))]
)
def test_a_layer_behind_a_turn_has_no_map_of_the_image(turn, images):
    with pytest.raises(InputError, match="of cells of layer 'conv' depend most on pixels elsewhere: this network mirr"):
        explain(Turning(turn).eval(), images, "grad_cam", targets=1, layer="conv")
    assert values(explain(Turning(turn).eval(), images, "saliency", targets=1)).any()


class MostlyClosed(Network):
    """Lets little but four cells pass, two at the left above the middle and two at the right below it."""

    def __init__(self, turn=lambda x: x) -> None:
        super().__init__()
        self.mix, self.turn = nn.Conv2d(6, 6, 3, 1, 1), turn
        opened = torch.full((8, 8), 1e-3)
        opened[3, :2] = opened[4, 6:] = 1.0
        self.register_buffer("opened", opened)

    def features(self, images: Tensor) -> Tensor:
        return self.mix(self.conv(self.turn(images)) * self.opened)


def test_a_layer_behind_attention_that_closes_most_cells_is_no_turn(images):
    network = MostlyClosed().eval()
    maps = values(explain(network, images, "grad_cam", targets=2, layer="mix"))
    with torch.no_grad():  # the head reads means over 64 cells, so that its weights are the gradients
        expected = torch.einsum("c,bchw->bhw", network.head.weight[2] / 64, network.features(images)).relu()
    torch.testing.assert_close(maps, expected)
    assert maps.flatten(1).any(1).all()
    for turn in (lambda x: x.mT, lambda x: x.flip(3)):
        with pytest.raises(InputError, match="mirrors, turns or reorders"):
            explain(MostlyClosed(turn).eval(), images, "grad_cam", targets=1, layer="mix")


def test_a_network_that_turns_its_images_back_is_explained(images):
    same = Network().eval()
    torch.manual_seed(0)
    expected = explain(same, images, "grad_cam", targets=1, layer="conv")
    again = Turning(lambda x: x.flip(3).flip(3)).eval()
    again.load_state_dict(same.state_dict())
    torch.testing.assert_close(explain(again, images, "grad_cam", targets=1, layer="conv"), expected)


def test_a_stride_that_leaves_out_the_last_pixels_is_no_crop():
    network = nn.Sequential(nn.Conv2d(3, 6, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 4)).eval()
    assert cam.grad_cam(network, torch.rand(2, 3, 19, 19), torch.tensor([0, 1]), layer="0").shape == (2, 4, 4)


def test_the_trial_is_made_once_for_each_kind_of_image(images):
    network, passes = Network().eval(), list[int]()
    network.register_forward_hook(lambda module, inputs, output: passes.append(len(output)))
    for some, expected in ((images, [2, 1, 2]), (images, [2]), (images[..., :8], [2, 1, 2])):
        passes.clear()
        ibviz.predict(network, some)
        assert passes == expected
