from functools import partial
from typing import Any

import pytest
import reference
import timm
import torch
from networks import OneConv, TwoParts, bottlenecked, quadrants
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution import cam
from ibviz.attribution.cam_layers import choose_layer
from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain, values
from ibviz.attribution.trial import refuse_misplaced_cells
from ibviz.errors import InputError

close = torch.testing.assert_close
BY_GRADIENT = ["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "xgrad_cam"]
ON_GRIDS = [*BY_GRADIENT, "score_cam", "ablation_cam", "eigen_cam"]
TARGETS = torch.tensor([0, 2, 1, 0])
REGRESSION = {"samples": 20, "segments": 6}
FEW = {"rise": {"masks": 20}, "feature_ablation": {"segments": 6}, "lime": REGRESSION, "kernel_shap": REGRESSION}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ON_GRIDS)
def test_each_method_equals_its_paper_cell_by_cell(method, images):
    model, expected = TwoParts(), []
    with torch.no_grad():
        features = model.body(images)
    for image, grid, target in zip(images, features, TARGETS.tolist(), strict=True):
        if method == "score_cam":
            expected.append(reference.score_cam(model, image, grid, target))
        else:
            expected.append(getattr(reference, method)(model.head, grid, target))
    maps = METHODS[method](model, images, TARGETS, layer="between")
    close(maps, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_each_method_on_a_network_whose_maps_follow_by_hand():
    """Channels are red and green, both positive, class 0 is 3 times the first less the second: gradients 3 and -1."""
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    red, green, total = images[:, 0], images[:, 1], images.sum((2, 3))[..., None, None]
    pixels = images[:, :2].flatten(2)
    square = pixels @ pixels.transpose(1, 2)
    a, b, c = square[:, 0, 0], square[:, 0, 1], square[:, 1, 1]
    eigenvalue = (a + c) / 2 + ((a - c).square() / 4 + b.square()).sqrt()
    x, y = F.normalize(torch.stack([b, eigenvalue - a]), dim=0)[..., None, None]
    logit = 3 * total[:, 0] - total[:, 1]
    masks = [(one - one.amin((1, 2), True)) / (one.amax((1, 2), True) - one.amin((1, 2), True)) for one in (red, green)]
    scores = torch.stack([((3 * red - green) * mask).sum((1, 2)) for mask in masks]).softmax(0)[..., None, None]
    expected = {
        "grad_cam": (3 * red - green).relu(),
        "grad_cam_pp": 16 * 9 / (18 + 27 * total[:, 0]) * 3 * red,
        "hires_cam": 3 * red - green,
        "layer_cam": 3 * red,
        "xgrad_cam": (3 * red - green).relu(),
        "ablation_cam": (3 * total[:, 0] / logit * red - total[:, 1] / logit * green).relu(),
        "eigen_cam": x * red + y * green,
        "score_cam": scores[0] * red + scores[1] * green,
    }
    for method, maps in expected.items():
        close(METHODS[method](OneConv(), images, torch.tensor([0, 0]), layer="conv"), maps)


@pytest.mark.parametrize("layout", ["bhwc", "tokens"])
@pytest.mark.parametrize("method", [*ON_GRIDS, "guided_grad_cam"])
def test_the_layout_of_the_features_changes_nothing(method, layout, images):
    plain, other = (METHODS[method](TwoParts(kind), images, TARGETS, layer="between") for kind in ("bchw", layout))
    close(other, plain, rtol=1e-4, atol=1e-6)


def test_grad_cam_is_captums(images):
    from captum.attr import GuidedGradCam, LayerGradCam

    model = TwoParts()
    images.requires_grad_()
    direct = LayerGradCam(model, model.between).attribute(images, TARGETS, relu_attributions=True)
    assert isinstance(direct, Tensor)
    close(cam.grad_cam(model, images, TARGETS, layer="between"), direct[:, 0].detach())
    with pytest.warns(UserWarning, match="Setting"):
        guided = GuidedGradCam(model, model.between).attribute(images, TARGETS, interpolate_mode="bilinear")
    close(cam.guided_grad_cam(model, images, TARGETS, layer="between"), guided.abs().amax(1).detach())


def test_hires_cam_sums_to_the_logit_of_a_linear_end(images):
    body = nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU())
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(5 * 36, 3, bias=False))
    maps = cam.hires_cam(model, images, TARGETS, layer="0")
    close(maps.sum((1, 2)), model(images).detach().gather(1, TARGETS[:, None])[:, 0])


class InPlace(nn.Module):
    """What becomes of the features after the layer `conv`, in place as torchvision's networks do it, or not."""

    def __init__(self, *, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inplace = inplace
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace), nn.Linear(4 * 144, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        features = features.add_(images[:, :1]) if self.inplace else features + images[:, :1]
        return self.head(self.relu(features).flatten(1))


@pytest.mark.parametrize("method", [*ON_GRIDS, "guided_grad_cam"])
def test_layers_that_work_in_place_change_nothing(method, images):
    one, other = (METHODS[method](InPlace(inplace=inplace), images, TARGETS, layer="conv") for inplace in (True, False))
    close(one, other)


@pytest.mark.parametrize("way", ["bchw", "joined", "reshaped"])
def test_ablation_runs_the_layers_before_once_where_it_can(way, images):
    """`joined` meets a second branch after the layer, `reshaped` counts rows at the door: both need all rows."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rows, self.branch = 0, nn.Conv2d(3, 2, 3, 2, 1)
            self.body, self.head = nn.Conv2d(3, 9, 3, 2, 1), nn.Linear(11 * 36, 3)

        def forward(self, images: Tensor) -> Tensor:
            self.rows += len(images)
            other = self.branch(images) if way == "joined" else 0 * self.branch(images[:1]).detach()
            features = self.body(images)
            joined = torch.cat([features, other if way == "joined" else other.expand(len(features), -1, -1, -1)], 1)
            return self.head(joined.reshape(len(images) if way == "reshaped" else len(joined), -1))

    model = Network()
    refuse_misplaced_cells(model, images[:1], "body")  # looked at once
    model.rows = 0
    maps = cam.ablation_cam(model, images, TARGETS, layer="body")
    assert model.rows == 4 + 1 + 4 * (1 if way == "bchw" else 9)  # for the logits, to see which way, and of each image
    with torch.no_grad():
        features, other = model.body(images), model.branch(images) if way == "joined" else torch.zeros(4, 2, 6, 6)
    for k, target in enumerate(TARGETS.tolist()):
        close(
            maps[k],
            reference.ablation_cam(
                lambda f, k=k: model.head(torch.cat([f, other[k : k + 1]], 1).flatten(1)), features[k], target
            ),
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_rest_of_a_classifier_with_attention_takes_rows_of_its_stem(monkeypatch):
    model, images, seen = bottlenecked(), torch.rand(2, 3, 48, 48), list[int]()
    refuse_misplaced_cells(model, images[:1], "network.stem")  # looked at once
    model.get_submodule("network.stem").register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    once = cam.ablation_cam(model, images, torch.tensor([0, 1]), layer="network.stem")
    assert seen == [2, 1, 1, 1]
    monkeypatch.setattr(cam, "takes_rows", lambda *arguments: False)
    close(cam.ablation_cam(model, images, torch.tensor([0, 1]), layer="network.stem"), once, rtol=1e-4, atol=1e-6)


def test_the_layer_is_the_last_that_all_passes_with_a_grid_of_four(images):
    assert choose_layer(quadrants(), torch.rand(1, 3, 16, 16)) == "network.cells"
    assert choose_layer(TwoParts(), images) == "head.1"
    classes_last = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert choose_layer(classes_last, images) == "0"  # all maps would be the same in layers 1 and 2
    vit = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, embed_dim=24, num_heads=2, num_classes=5
    ).eval()
    assert choose_layer(vit, torch.rand(1, 3, 32, 32)) == "blocks.1"  # the class token passes by what follows
    maps = cam.grad_cam(vit, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert maps.shape == (2, 4, 4)
    assert maps.max() > 0


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_nothing_is_kept_for_gradients_before_the_layer(method, images):
    model, graph = TwoParts(), list[bool]()
    refuse_misplaced_cells(model, images[:1], "body")  # looked at once
    for module in (model.body, model.head):
        module.register_forward_pre_hook(lambda module, inputs: graph.append(torch.is_grad_enabled()))
    METHODS[method](model, images, TARGETS, layer="body")
    assert graph == [False, True]


@pytest.mark.parametrize("method", [*ON_GRIDS, "guided_grad_cam"])
def test_a_named_layer_costs_no_pass_to_find(method, images):
    """Score-CAM asks about a black image and 4 x 9 masked ones; Ablation-CAM whether rows multiply, then of each."""
    model, seen = TwoParts(), list[int]()
    refuse_misplaced_cells(model, images[:1], "body")  # looked at once
    model.body.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    METHODS[method](model, images, TARGETS, layer="body")
    expected = {"score_cam": [4, 1, 36], "ablation_cam": [4, 1, 1, 1, 1, 1], "guided_grad_cam": [4, 4]}
    assert seen == expected.get(method, [4])


@pytest.mark.parametrize("method", ["score_cam", "rise", "lime", "kernel_shap"])
def test_an_image_asked_about_for_two_targets_passes_once(method, images):
    model, rows = TwoParts(), list[int]()
    explained: Any = partial(METHODS[method], model, **FEW.get(method, {"layer": "body"}))
    refuse_misplaced_cells(model, images[:1], "body")  # looked at once
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    one = explained(images[[1]], TARGETS[[1]])
    single = sum(rows)
    rows.clear()
    together = explained(images[[1, 1]], TARGETS[[1, 2]])
    assert sum(rows) == single
    close(together[0], one[0], rtol=1e-4, atol=1e-6)
    close(together[1], explained(images[[1]], TARGETS[[2]])[0], rtol=1e-4, atol=1e-6)
    assert not torch.equal(together[0], together[1])


class Doubled(nn.Module):
    """A layer whose cells do not reach the output, beside one that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.unread, self.twice, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 3, 1), nn.Linear(3 * 144, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.twice(self.twice(images)) + 0 * self.unread(images)[:, :3]).flatten(1))


@pytest.mark.parametrize("method", [*BY_GRADIENT, "ablation_cam", "guided_grad_cam", "iba"])
def test_a_layer_on_which_nothing_depends_is_an_error(method, images):
    with pytest.raises(InputError, match=r"the output does not depend on what layer unread holds .*leave layer out"):
        explain(Doubled(), images, method, layer="unread")


@pytest.mark.parametrize("method", ON_GRIDS)
def test_a_layer_that_runs_twice_is_an_error(method, images):
    with pytest.raises(InputError, match=r"layer twice runs more than once in a pass; name one|unknown layer .twice."):
        explain(Doubled(), images, method, layer="twice")


def test_a_layer_without_a_grid_lists_those_that_have_one(images):
    for layer, message in (
        ("layer4", "unknown layer 'layer4'"),
        ("head.3", r"head.3 gives \(1, 3\), which holds no grid .*: body"),
    ):
        with pytest.raises(InputError, match=message):
            explain(TwoParts(), images, "layer_cam", layer=layer)
    flat = nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(InputError, match=r"no layer has a grid of 4 x 4 cells; name one .* 0 \(2x2\)"):
        explain(flat, images, "score_cam")


class Cut(nn.Module):
    def __init__(self, way: str = "no_grad") -> None:
        super().__init__()
        self.network, self.way = TwoParts(), way

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.way != "no_grad"):
            logits = self.network(images)
        return logits.detach() if self.way == "detach" else logits


BY_PIXELS = [
    "saliency",
    "input_x_gradient",
    "integrated_gradients",
    "smooth_grad",
    "var_grad",
    "gradient_shap",
    "guided_backprop",
    "deep_lift",
    "lrp",
]


@pytest.mark.parametrize(
    ("method", "way"),
    [
        *((method, way) for method in ["guided_grad_cam", *BY_PIXELS] for way in ("detach", "no_grad")),
        *((method, "detach") for method in BY_GRADIENT),
    ],
)
def test_a_network_cut_off_from_gradients_says_which_methods_work(method, way, images):
    with pytest.raises(InputError, match=r"cut by detach.* score_cam, occlusion or rise"):
        explain(Cut(way), images, method)


@pytest.mark.parametrize("method", [*ON_GRIDS, "occlusion", *FEW])
def test_methods_without_gradients_before_a_layer_work_on_a_network_that_has_them_off(method, images):
    """Those that take the gradient after their layer switch it on there."""
    options: dict[str, Any] = {"layer": "between"} if method in ON_GRIDS else FEW.get(method, {})
    expected = values(explain(TwoParts(), images, method, targets=TARGETS, **options))
    inside: dict[str, Any] = options | ({"layer": "network.between"} if method in ON_GRIDS else {})
    close(values(explain(Cut(), images, method, targets=TARGETS, **inside)), expected)
    if method in ON_GRIDS:
        assert values(explain(Cut(), images, method)).isfinite().all()  # at a layer chosen without gradients


class Checkered(nn.Module):
    """Features finer than the image: its red, and a checkerboard, of which the image's size leaves one grey."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fine, self.features, self.head = nn.Upsample(scale_factor=2), nn.Identity(), nn.Linear(2 * 24 * 24, 3)

    def forward(self, images: Tensor) -> Tensor:
        red = self.fine(images[:, :1])
        checks = (torch.arange(24)[:, None] + torch.arange(24)) % 2
        return self.head(self.features(torch.cat([red, checks.expand_as(red)], 1)).flatten(1))


def test_a_channel_that_is_constant_on_the_image_shows_nothing(images):
    model, red, checks = Checkered(), images[:, :1], (torch.arange(24)[:, None] + torch.arange(24)) % 2
    low, high = red.amin((2, 3), keepdim=True), red.amax((2, 3), keepdim=True)
    states = (images * (red - low) / (high - low), torch.zeros_like(images))
    with torch.no_grad():
        logits = torch.cat([model(one).gather(1, TARGETS[:, None]) for one in states], 1)
    shown, black = logits.softmax(1).T[..., None, None]
    expected = shown * nn.Upsample(scale_factor=2)(red).squeeze(1) + black * checks
    close(cam.score_cam(model, images, TARGETS, layer="features"), expected, rtol=1e-4, atol=1e-6)


def test_what_is_rounding_follows_the_size_of_the_logits(images):
    """Large logits whose last digits depend on how many rows pass together, as those of some kernels do."""
    model = Doubled()
    model.register_forward_hook(lambda *given: 1e4 * (1 + 1e-6 * len(given[2])) * given[2])
    with pytest.raises(InputError, match="the output does not depend on what layer unread holds"):
        explain(model, images[:3], "ablation_cam", layer="unread")  # 3 rows, then 4: one without each channel
