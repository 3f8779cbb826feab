"""Guided backprop, DeepLIFT and LRP on what a network computes, whether modules or functions compute it."""

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain
from ibviz.errors import InputError
from ibviz.models.loading import wrap

close = torch.testing.assert_close
TARGETS = torch.tensor([0, 2])
BY_RULES = ("guided_backprop", "deep_lift", "lrp")


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def run(method: str, model: nn.Module, images: Tensor) -> Tensor:
    return cast(Tensor, METHODS[method](model, images, TARGETS))


class Computes(nn.Module):
    """A convolution, what a function makes of its output, and a linear layer."""

    def __init__(self, function: Callable[[Tensor], Tensor], *, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.LazyLinear(3, bias=bias)
        self.function = function
        self(torch.zeros(1, 3, 12, 12))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.function(self.conv(images)).flatten(1))


class GuidedReLU(torch.autograd.Function):
    """Passes the positive part of the gradient where the input is positive (Springenberg 2015)."""

    @staticmethod
    def forward(ctx, features):
        ctx.save_for_backward(features)
        return features.clamp(min=0)

    @staticmethod
    def backward(ctx, *gradients):
        [features], [gradient] = ctx.saved_tensors, gradients
        return gradient.clamp(min=0) * (features > 0)


def guided_by_hand(model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """With another `F.relu`, which modules call as well, on a copy that works out of place."""
    inputs = images.clone().requires_grad_()
    with monkeypatch.context() as patch:
        patch.setattr(F, "relu", lambda features, inplace=False: GuidedReLU.apply(features))
        model(inputs).gather(1, TARGETS[:, None]).sum().backward()
    return cast(Tensor, inputs.grad).abs().amax(1)


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "F.relu_": lambda features: F.relu(features, inplace=True),
    "method": lambda features: features.relu(),
    "clamp": lambda features: features.clamp(min=0),
    "clamp_min": lambda features: features.clamp_min(0),
    "clamp by a tensor": lambda features: features.clamp(min=torch.zeros_like(features)),
    "clamp_ by a tensor": lambda features: features.clone().clamp_(min=torch.zeros_like(features)),
    "threshold": lambda features: F.threshold(features, 0.0, 0.0),
    "hardtanh": lambda features: F.hardtanh(features, 0.0, 100.0),
    "leaky": lambda features: F.leaky_relu(features, 0.0),
}


@pytest.mark.parametrize("name", RELUS)
def test_guided_backprop_knows_a_relu_under_every_name(name, images):
    guided = Computes(cast(Any, GuidedReLU.apply))
    inputs = images.clone().requires_grad_()
    guided(inputs).gather(1, TARGETS[:, None]).sum().backward()
    close(run("guided_backprop", Computes(RELUS[name]), images), cast(Tensor, inputs.grad).abs().amax(1))


def scenes() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def family(name: str) -> nn.Module:
    torch.manual_seed(0)
    library, _, bare = name.rpartition("/")
    quiet = {"init_weights": False, "aux_logits": False} if bare == "googlenet" else {}
    create: Callable[..., nn.Module] = timm.create_model if library else torchvision.models.get_model
    model = create(bare, num_classes=4, **quiet).eval()
    for module in model.modules():  # random ones are all but zero after a few layers
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(cast(Tensor, module.running_mean), 0, 0.1)
    return model


@pytest.mark.parametrize("name", ["densenet121", "squeezenet1_1", "googlenet", "shufflenet_v2_x0_5", "timm/dla34"])
def test_guided_backprop_of_families_with_and_without_modules(name, monkeypatch):
    model, images = family(name), scenes()
    expected = guided_by_hand(copy.deepcopy(model), images, monkeypatch)
    close(run("guided_backprop", model, images), expected, rtol=1e-3, atol=1e-4 * expected.max().item())


FAMILIES = [
    "resnet18",
    "squeezenet1_1",
    "googlenet",
    "shufflenet_v2_x0_5",
    "mobilenet_v2",
    "timm/dla34",
    "timm/repvgg_a0",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_deep_lift_of_families_adds_up_for_every_image(name):
    model, images = family(name).double(), scenes().double()
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images))).gather(1, TARGETS[:, None])[:, 0]
    maps = run("deep_lift", model, images)
    close(maps.sum((1, 2)).double(), change, rtol=0, atol=1e-6 * maps.abs().sum((1, 2)).max().item())


@pytest.mark.parametrize("name", FAMILIES)
def test_relevance_of_families_without_constants_adds_up_to_the_logit(name):
    model, images = family(name).double(), scenes().double()
    with torch.no_grad():
        for key, values in model.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                values.zero_()
        logits = model(images).gather(1, TARGETS[:, None])[:, 0]
    maps = run("lrp", model, images)
    close(maps.sum((1, 2)).double(), logits, rtol=0, atol=1e-6 * maps.abs().sum((1, 2)).max().item())


class Joined(nn.Module):
    """A residual sum, poolings and activations as functions, all with biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.first(images))
        pooled = F.avg_pool2d(features + self.second(features), 2)
        return self.head(F.gelu(F.max_pool2d(pooled, 2)).mean((2, 3)))


def shared_out(layer: Callable[[Tensor], Tensor], inputs: Tensor, relevance: Tensor) -> Tensor:
    """The rule of Bach (2015): each input's part of every output, among them in proportion to that part."""
    shares = torch.zeros_like(inputs)
    with torch.no_grad():
        outputs, constant = layer(inputs), layer(torch.zeros_like(inputs))
        for place in range(inputs[0].numel()):
            alone = torch.zeros_like(inputs).flatten(1)
            alone[:, place] = inputs.flatten(1)[:, place]
            part = layer(alone.view_as(inputs)) - constant
            shares.view(len(inputs), -1)[:, place] = (part * relevance / outputs).flatten(1).sum(1)
    return shares


def test_lrp_is_the_rule_applied_layer_by_layer(images):
    images = images[..., :8, :8]
    model = Joined()
    with torch.no_grad():
        features = F.relu(model.first(images))
        branch = model.second(features)
        pooled = F.avg_pool2d(features + branch, 2)
        largest, places = F.max_pool2d(pooled, 2, return_indices=True)
        active = F.gelu(largest)
        means = active.mean((2, 3))
        logits = model.head(means)
        onehot = F.one_hot(TARGETS, 3).float()
        relevance = shared_out(model.head, means, onehot * logits)
        relevance = shared_out(lambda cells: cells.mean((2, 3)), active, relevance)
        relevance = F.max_unpool2d(relevance, places, [2, 2])
        relevance = shared_out(lambda cells: F.avg_pool2d(cells, 2), features + branch, relevance)
        share = relevance / (features + branch)
        relevance = features * share + shared_out(model.second, features, branch * share)
        expected = shared_out(model.first, images, torch.where(features > 0, relevance, 0.0)).sum(1)
    close(run("lrp", model, images), expected, rtol=1e-3, atol=1e-5)


def test_lrp_starts_behind_the_networks_own_normalisation(images):
    layer = nn.Linear(3 * 144, 3)
    network = nn.Sequential(nn.Flatten(), layer)
    model = wrap(network, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), class_names="abc", size=12)
    expected = (model.normalize(images) * layer.weight[TARGETS].view(2, 3, 12, 12)).sum(1).detach()
    close(run("lrp", model, images), expected)


SMOOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": F.softplus,
    "silu in place": lambda features: F.silu(features, inplace=True),
    "hardswish": F.hardswish,
    "elu": F.elu,
    "square": lambda features: features**2,
    "root": lambda features: (features.abs() + 1).sqrt(),
    "relu twice": lambda features: F.relu(F.relu(features) - 0.1),
    "overwritten": lambda features: [features.sigmoid(), features.mul_(0.0)][0],
}


@pytest.mark.parametrize("name", SMOOTH)
def test_deep_lift_rescales_every_activation(name, images):
    """With a linear layer before and behind, the multiplier of each unit is known: change behind over change before."""
    model, images = Computes(SMOOTH[name]).double(), images.double()  # a ratio of small differences
    with torch.no_grad():
        before, black = model.conv(images), model.conv(torch.zeros_like(images))
        change = SMOOTH[name](before.clone()) - SMOOTH[name](black.clone())
        multiplier = change / (before - black) * model.head.weight[TARGETS].view_as(before)
        expected = (images * F.conv_transpose2d(multiplier, model.conv.weight, padding=1)).sum(1)
    close(run("deep_lift", model, images).double(), expected, rtol=1e-4, atol=1e-6)


def test_deep_lift_gives_the_change_of_overlapping_pools_to_their_maxima(images):
    model = Computes(lambda features: F.max_pool2d(features, 3, 2, 1))
    with torch.no_grad():
        before, black = (F.pad(model.conv(one), (1,) * 4, value=-torch.inf) for one in (images, 0 * images))
        multipliers, weight = torch.zeros_like(before), model.head.weight[TARGETS].view(2, 4, 6, 6)
        for image, channel, row, column in torch.cartesian_prod(*map(torch.arange, (2, 4, 6, 6))).tolist():
            window = (image, channel, slice(2 * row, 2 * row + 3), slice(2 * column, 2 * column + 3))
            now, then = before[window], black[window]
            larger = now if now.max() >= then.max() else then
            place = int(larger.argmax())
            ratio = (now.max() - then.max()) / (now.flatten()[place] - then.flatten()[place])
            multipliers[window].view(3, 3)[place // 3, place % 3] += weight[image, channel, row, column] * ratio
        multipliers = multipliers[..., 1:-1, 1:-1]
        expected = (images * F.conv_transpose2d(multipliers, model.conv.weight, padding=1)).sum(1)
    close(run("deep_lift", model, images), expected, rtol=1e-4, atol=1e-6)


class Mine(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features):
        ctx.save_for_backward(features)
        return features.relu()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] * (ctx.saved_tensors[0] > 0)


UNRULED: dict[str, tuple[Callable[[Tensor], Tensor], str, tuple[str, ...]]] = {
    "product": (lambda f: f * torch.sigmoid(f), "Mul of activations with each other", ("deep_lift", "lrp")),
    "gate": (lambda f: f.relu() * f.mean((2, 3), keepdim=True).sigmoid(), "Mul of act", ("deep_lift", "lrp")),
    "division": (lambda f: f / f.norm(dim=1, keepdim=True), "Div", ("deep_lift", "lrp")),
    "attention": (lambda f: f.flatten(2) @ f.flatten(2).mT, "Bmm of activations", ("deep_lift", "lrp")),
    "softmax": (lambda f: f.softmax(1), "Softmax", ("deep_lift", "lrp")),
    "log softmax": (lambda f: F.log_softmax(f, 1), "LogSoftmax", ("deep_lift", "lrp")),
    "layer norm": (lambda f: F.layer_norm(f, (12, 12)), "NativeLayerNorm", ("deep_lift", "lrp")),
    "batch": (lambda f: F.batch_norm(f, None, None, training=True), "statistics of the batch", ("deep_lift", "lrp")),
    "not 0 at 0": (torch.sigmoid, "Sigmoid", ("lrp",)),
    "sorted": (lambda f: f.sort(1).values, "Sort", ("deep_lift", "lrp")),
    "own": (lambda f: cast(Tensor, Mine.apply(f)), "a function of its own", BY_RULES),
    "mask": (lambda f: f * (f > 0), "mul with a value of the images that carries no", BY_RULES),
    "where": (lambda f: torch.where(f > 0, f, 0.0), "where with a value", BY_RULES),
    "filled": (lambda f: f.masked_fill(f < 0, 0.0), "masked_fill with a value", BY_RULES),
    "larger": (lambda f: torch.maximum(f, torch.zeros_like(f)), "Maximum", BY_RULES),
    "halves": (lambda f: (f.relu() + f.abs()) / 2, "Abs", ("guided_backprop",)),
    "part": (lambda f: [f, f[:, :2].relu_()][0], "CopySlices", BY_RULES),
    "detached": (lambda f: f + f.detach().square(), "add with a value", ("deep_lift", "lrp")),
}


@pytest.mark.parametrize("name", UNRULED)
def test_what_has_no_rule_is_refused_in_words(name, images):
    function, message, methods = UNRULED[name]
    for method in methods:
        with pytest.raises(InputError, match=rf"{method} does not fit this network: .*{message}.*; choose "):
            run(method, Computes(function), images)


def test_constants_in_the_shape_of_the_images_hide_nothing(images):
    model = Computes(lambda features: F.relu(features * torch.full_like(features, 2.0) + features.new_ones(1, 4, 1, 1)))
    for method in BY_RULES:
        close(run(method, model, images), run(method, Computes(lambda f: F.relu(f * 2 + 1)), images))


def test_a_network_without_relus_has_no_guided_backprop(images):
    with pytest.raises(InputError, match="this network has none; choose saliency"):
        run("guided_backprop", Computes(torch.tanh), images)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/lcnet_050", "Mul of activations"),  # squeeze and excitation
        ("timm/poolformer_s12", "NativeGroupNorm"),
        ("mobilenet_v3_small", "Mul of activations"),
    ],
)
def test_families_that_do_not_fit_are_refused(name, words):
    model, images = family(name), scenes()
    for method in ("deep_lift", "lrp"):
        with pytest.raises(InputError, match=rf"no rule .*{words}.*choose integrated_gradients"):
            run(method, model, images)


class Compiled(nn.Module):
    """Networks with compiled parts of every kind."""

    def __init__(self, part: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
        self.body = torch.compile(body, backend="eager") if part == "layer" else body
        if part == "in place":
            body.compile(backend="eager")
        self.end = torch.compile(self.last, backend="eager") if part == "function" else self.last
        self.head = nn.Linear(4, 3)

    def last(self, features: Tensor) -> Tensor:
        return self.head(F.relu(features).mean((2, 3)))

    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.body(images))


@pytest.mark.parametrize("part", ["layer", "in place", "function"])
def test_compiled_parts_are_explained_as_written(part, images):
    model, plain = Compiled(part), Compiled("none")
    with torch.no_grad():
        model(images)  # compiled without hooks
    explain(model, images, "saliency", targets=TARGETS)
    layer = "body._orig_mod.2" if part == "layer" else "body.2"
    for method in (*BY_RULES, "saliency", "grad_cam", "eigen_cam"):
        options, same = [{"layer": name} if "cam" in method else {} for name in (layer, "body.2")]
        expected = explain(plain, images, method, targets=TARGETS, **cast(Any, same))
        close(explain(model, images, method, targets=TARGETS, **cast(Any, options)), expected)
    assert torch._dynamo.eval_frame._stance.stance == "default"
