import copy
import math
from collections import OrderedDict
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from networks import bottlenecked, quadrants
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.controls import centre, random_cells, uniform
from ibviz.attribution.methods import explain, one_class_each, values
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import WrappedClassifier, wrap
from ibviz.types import AttentionMap

close = torch.testing.assert_close
PIXELS, CELLS = (48, 48), (6, 6)
GRIDS = {"attention": (12, 12), "tokens": CELLS, "layer": CELLS, "pixels": PIXELS, "cell": (1, 1), "option": (8, 8)}
FEW: dict[str, dict[str, object]] = {  # draws enough for these tests
    "module_attention": {"module": "attention.head", "reading": "sigmoid"},
    "iba": {"steps": 2, "samples": 3, "layer": "network.stem"},
    "smooth_grad": {"samples": 5},
    "var_grad": {"samples": 5},
    "gradient_shap": {"samples": 5},
    "integrated_gradients": {"steps": 5, "tolerance": math.inf},  # untrained logits hardly change: a rough sum is none
    "occlusion": {"window": 16, "stride": 16},
    "rise": {"masks": 10},
    "feature_ablation": {"segments": 4},
    "lime": {"samples": 10, "segments": 4},
    "kernel_shap": {"samples": 10, "segments": 4},
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def network_for(method: str) -> nn.Module:
    """The trained network's kind, a transformer, or one without products of activations, for which two have no rule."""
    torch.manual_seed(0)
    if method in ("raw_attention", "attention_rollout", "gradient_rollout"):
        transformer = VisionTransformer(48, 8, 2, 2, 12, 24, num_classes=10)
        for parameter in transformer.parameters():  # those of the head are zero
            nn.init.normal_(parameter, 0, 0.3)
        return wrapped(OrderedDict(encoder=transformer, decoder=nn.Linear(10, 10)))
    if method not in ("deep_lift", "lrp", "score_cam", "ablation_cam"):
        return bottlenecked()
    stem = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    body = nn.Sequential(stem, nn.Conv2d(6, 8, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    return wrapped(OrderedDict(encoder=body, decoder=nn.Linear(72, 10)))


def wrapped(parts: OrderedDict[str, nn.Module]) -> WrappedClassifier:
    network = nn.Sequential(parts)
    return wrap(network, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=list("0123456789"), size=48)


def maps_of(model: nn.Module, images: Tensor, method: str, **options) -> Tensor:
    return values(explain(model, images, method, **FEW.get(method, {}), **options))


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def state(model: nn.Module, images: Tensor) -> tuple:
    modules = list(model.modules())
    hooks = [len(getattr(module, kind)) for module in modules for kind in HOOKS]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    weights = [(p.requires_grad, p.detach().double().sum().item()) for p in [*model.parameters(), *model.buffers()]]
    torches = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [])]
    dice = [one.tolist() for one in torches], np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002
    given = images.requires_grad, images.grad is None, images._version, images.detach().double().sum().item()
    return hooks, len(grads), [m.training for m in modules], [sorted(vars(m)) for m in modules], weights, dice, given


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_maps_on_its_grid_and_leaves_no_trace(method, images):
    model = network_for(method)
    next(model.children()).train()  # a mixed mode, to be found again
    before = state(model, images.requires_grad_())
    maps = maps_of(model, images, method)
    assert maps.shape == (5, *((12, 12) if method == "iba" else GRIDS[METHODS[method].grid]))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert state(model, images) == before
    assert maps.any()


@pytest.mark.parametrize("method", METHODS)
def test_batches_do_not_change_a_map(method, images):
    model, images = network_for(method).double(), images.double()  # in float32, other batches are rounded differently
    one, *others = (maps_of(model, images, method, batch_size=size) for size in (1, 2, 8))
    for other in others:  # 2: uneven chunks of the images, 8: few passes for all, uneven ones for their copies
        close(one, other, rtol=0, atol=1e-5 * one.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_no_pass_holds_more_images_than_the_batch(method, images):
    model, rows = network_for(method), [0]
    model.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    maps_of(model, images[:3], method, targets=torch.zeros(3, dtype=torch.long), batch_size=2)
    # DeepLIFT runs images and baselines together; a probe of rollouts holds two rows of noise and at least one more.
    more = {"deep_lift": 4, "raw_attention": 3, "attention_rollout": 3, "gradient_rollout": 3}
    assert max(rows) <= more.get(method, 2)


@pytest.mark.parametrize("method", METHODS)
def test_targets_matter_unless_the_method_says_it_is_free_of_them(method, images):
    function = partial(METHODS[method], network_for(method), images, **FEW.get(method, {}))
    first, second = (values(function(torch.full((5,), k))) for k in (0, 1))
    assert torch.equal(first, second) == METHODS[method].target_free


@pytest.mark.parametrize(("method", "passes"), {"uniform": 0, "edges": 0, "attention": 1, "hires_cam": 1}.items())
def test_classes_are_predicted_and_looked_at_only_where_they_count(method, passes, images):
    model, seen, options = bottlenecked(), list[int](), {"layer": "network.stem"} if method == "hires_cam" else {}
    maps_of(model, images, method, **options)  # with the trials of a network, once for each
    model.get_submodule("network.stem").register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    given = maps_of(model, images, method, targets=model(images).argmax(1), **options)
    assert len(seen) == 1 + passes
    assert torch.equal(maps_of(model, images, method, **options), given)
    assert len(seen) == 1 + 2 * passes + (not METHODS[method].target_free)


def test_targets_are_one_class_of_the_network_for_each_image(images):
    for targets in (torch.tensor([1]), torch.zeros(5), torch.zeros(5, 1, dtype=torch.long), torch.ones(5).bool()):
        with pytest.raises(InputError, match=r"whole numbers \(5,\), a class for each image; got torch"):
            one_class_each(targets, images)  # `explain` itself, whose annotation answers first in tests, calls it
    expected = explain(bottlenecked(), images, "hires_cam", targets=torch.full((5,), 3))
    close(explain(bottlenecked(), images, "hires_cam", targets=torch.full((5,), 3, dtype=torch.int32)), expected)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.target_free])
def test_a_class_that_the_network_lacks_is_refused(method, images):
    for wrong in (-1, 10):
        with pytest.raises(InputError, match=rf"targets must be classes, 0 to 9 of this model; got .*{wrong}.*; leave"):
            maps_of(network_for(method), images, method, targets=torch.tensor([wrong, 1, 1, 1, 1]))


def test_nothing_to_explain_is_refused(images):
    with pytest.raises(InputError, match=r"expected images, .* got 0 and 16"):
        explain(bottlenecked(), images[:0], "grad_cam")
    with pytest.raises(InputError, match="a batch_size of at least 1; got 5 and 0"):
        explain(bottlenecked(), images, "grad_cam", batch_size=0)


class Broken(nn.Module):
    """Fails in one of its passes."""

    def __init__(self, module: nn.Module, passes: int) -> None:
        super().__init__()
        self.module, self.passes = module, passes
        self.seen = [0]  # the same list in a copy

    def __deepcopy__(self, memo: dict) -> "Broken":
        other = Broken(copy.deepcopy(self.module, memo), self.passes)
        other.seen = self.seen
        return other

    def forward(self, features: Tensor) -> Tensor:
        self.seen[0] += 1
        if self.seen[0] > self.passes:
            raise KeyError("broken")
        return self.module(features)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.control])
def test_an_error_inside_leaves_no_trace_either(method, images):
    for passes in range(4):  # before, while and after layers are looked for
        model = network_for(method)
        owner = model if isinstance(model, IBClassifier) else model.get_submodule("network")
        owner.add_module("decoder", Broken(owner.get_submodule("decoder"), passes))
        before = state(model, images)
        with pytest.raises(KeyError, match="broken") if passes == 0 else suppress(KeyError):
            maps_of(model, images, method, targets=torch.zeros(5, dtype=torch.long))
        assert state(model, images) == before


@pytest.mark.parametrize("method", METHODS)
def test_autocast_gives_float32(method, images):
    with torch.autocast("cpu", torch.bfloat16):
        maps = maps_of(network_for(method), images[:2], method)
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()


def exact(model: nn.Module) -> nn.Module:
    """The network in float32 also under autocast, which then can only round what a method does itself."""

    def exactly(function: Any, *arguments: Any, **options: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return function(*arguments, **options)

    for name in ("forward", "inspect"):
        if hasattr(model, name):
            setattr(model, name, partial(exactly, getattr(model, name)))
    return model


def convolutional() -> WrappedClassifier:
    """Without linear layers, whose gradient is a product of matrices, rounded even where the layers were not."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3, 4, 1), nn.ReLU(), nn.Conv2d(6, 10, 3, 2, 1))
    return wrapped(OrderedDict(encoder=body, decoder=nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "gradient_rollout"])  # see `convolutional`
def test_autocast_does_not_round_what_a_method_does_itself(method, images):
    model = exact(convolutional() if METHODS[method].by_gradient else network_for(method))
    expected = maps_of(model, images[:2], method)
    with torch.autocast("cpu", torch.bfloat16):
        close(maps_of(model, images[:2], method), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_what_holds_outside_does_not_matter_nor_frozen_weights(method, images):
    model, targets = network_for(method), torch.tensor([0, 1])
    expected = maps_of(model, images[:2], method, targets=targets)
    model.requires_grad_(False)
    for around in (torch.no_grad, torch.inference_mode):
        with around():
            found = maps_of(model, images[:2].clone(), method, targets=targets.clone())  # made inside as well
        close(found.clone(), expected)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.control])
def test_weights_that_are_not_finite_are_one_clear_error(method, images):
    model = network_for(method)
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    with pytest.raises(InputError, match="not finite: look for NaN"):
        maps_of(model, images, method)


def test_attention_is_what_the_model_reports(images):
    model = bottlenecked()
    found = explain(model, images, "attention")
    assert isinstance(found, AttentionMap)
    seen = model.inspect(images).attention
    assert torch.equal(found.values(), seen.values())
    assert torch.equal(values(explain(model, images, "attention_mean")), seen.mean)


def test_an_unknown_layer_lists_the_grids():
    with pytest.raises(InputError, match=r"layer 'layer4'; layers with a grid: network\.cells \(8x8\), network\.pool"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "grad_cam", layer="layer4")


def test_unknown_methods_and_options_list_the_known():
    with pytest.raises(InputError, match="unknown method 'gradcam'; known: ablation_cam, attention, attention_mean"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "gradcam")
    with pytest.raises(InputError, match="unknown option of Grad-CAM 'layr'; known: layer"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "grad_cam", layr="x")


def test_a_network_without_attention_says_what_would_do():
    with pytest.raises(InputError, match=r"no trained attention; choose another method, such as grad_cam"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "attention")


def test_controls_know_nothing_of_the_network(images):
    nothing = nn.Identity()
    assert torch.equal(uniform(nothing, images), torch.ones(5, 1, 1))
    bell = centre(nothing, images)[0]
    assert torch.equal(bell, bell.flip(0))
    close(bell[23, 0] / bell[23, 23], torch.tensor(-0.5 * (2**2 - (2 / 47) ** 2)).exp())
    noise = random_cells(nothing, images, grid=(3, 4), seed=1)
    assert torch.equal(noise[2:4], random_cells(nothing, images[2:4], grid=(3, 4), seed=1))
    assert not torch.equal(noise, random_cells(nothing, images, grid=(3, 4), seed=2))
    assert len(noise.unique()) == noise.numel()


@pytest.mark.parametrize("steps", ["x", 0])
def test_options_of_a_wrong_kind_are_refused(steps, images):
    with pytest.raises(InputError, match="options of Integrated gradients"):
        explain(bottlenecked(), images, "integrated_gradients", steps=steps)
