import pytest
import torch
from networks import OneConv, Quadrants, bottlenecked, quadrants
from torch import Tensor, nn

from ibviz.attribution.cam import choose_layer, grad_cam, spatial_layers
from ibviz.attribution.controls import centre, random_cells, uniform
from ibviz.attribution.methods import METHODS, explain
from ibviz.benchmark.evaluation import values
from ibviz.errors import InputError
from ibviz.types import AttentionMap

close = torch.testing.assert_close
GRIDS = {
    "attention": (12, 12),
    "attention_mean": (12, 12),
    "grad_cam": (6, 6),
    "integrated_gradients": (48, 48),
    "uniform": (1, 1),
    "centre": (48, 48),
    "random_cells": (8, 8),
}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def state(model: nn.Module) -> tuple:
    hooks = sum(len(m._forward_hooks) + len(m._backward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return hooks, len(grads), [module.training for module in model.modules()], torch.get_rng_state().tolist()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_finite_maps_on_its_grid_and_leaves_no_trace(method, images):
    model = bottlenecked()
    model.get_submodule("network.encoder").train()  # a mixed mode, to be found again
    before = state(model)
    maps = values(explain(model, images, method))
    assert maps.shape == (5, *GRIDS[method])
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()
    assert not maps.requires_grad
    assert state(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_batches_do_not_change_a_map(method, images):
    model, images = bottlenecked().double(), images.double()  # so that only the batching can make a difference
    one, many = (values(explain(model, images, method, batch_size=size)) for size in (1, 8))
    close(one, many, rtol=1e-5, atol=1e-5 * many.abs().max().item())  # these maps can be small


@pytest.mark.parametrize("method", METHODS)
def test_targets_matter_unless_the_method_says_it_is_free_of_them(method, images):
    model = bottlenecked()
    first, second = (values(explain(model, images, method, targets=torch.full((5,), k))) for k in (0, 1))
    assert torch.equal(first, second) == METHODS[method].target_free


@pytest.mark.parametrize("method", ["grad_cam", "integrated_gradients"])
def test_an_error_inside_leaves_no_trace_either(method, images):
    model = bottlenecked()
    before = state(model)
    with pytest.raises((IndexError, AssertionError, RuntimeError)):
        explain(model, images, method, targets=torch.full((5,), 99))
    assert state(model) == before


def test_attention_is_what_the_model_reports(images):
    model = bottlenecked()
    found = explain(model, images, "attention")
    assert isinstance(found, AttentionMap)
    seen = model.inspect(images).attention
    assert torch.equal(found.values(), seen.values())
    assert torch.equal(values(explain(model, images, "attention_mean")), seen.mean)


def test_grad_cam_equals_its_definition_by_hand():
    network = OneConv()
    images = torch.rand(2, 3, 4, 4)
    # Weights: the mean gradient of each channel, 3 and -1; then ReLU of the weighted sum of red and green.
    expected = (3 * images[:, 0] - images[:, 1]).relu()
    close(grad_cam(network, images, torch.tensor([0, 0]), layer="conv"), expected)


def test_grad_cam_works_without_gradients_around_it_and_on_a_frozen_network(images):
    model = bottlenecked()
    expected = values(explain(model, images, "grad_cam"))
    model.requires_grad_(False)
    with torch.no_grad():
        close(values(explain(model, images, "grad_cam")), expected)


def test_integrated_gradients_of_a_linear_network_are_weight_times_pixel():
    layer = nn.Linear(3 * 16, 2)
    network = nn.Sequential(nn.Flatten(), layer)
    images = torch.rand(3, 3, 4, 4)
    targets = torch.tensor([0, 1, 1])
    weight = layer.weight.detach()[targets].view(3, 3, 4, 4)
    close(values(explain(network, images, "integrated_gradients", targets=targets)), (weight * images).sum(1))


def test_integrated_gradients_sum_to_the_change_of_the_logit(images):
    model, images, targets = bottlenecked(anchors=None).double(), images.double(), torch.tensor([0, 1, 2, 3, 4])
    maps = values(explain(model, images, "integrated_gradients", targets=targets, steps=1024))
    with torch.no_grad():
        change = (model(images) - model(torch.zeros_like(images))).gather(1, targets[:, None]).squeeze(1)
    close(maps.sum((1, 2)).double(), change, rtol=0.01, atol=0)


def test_the_layer_is_the_last_to_finish_with_a_grid_of_four(images):
    assert spatial_layers(Quadrants(), torch.rand(1, 3, 16, 16)) == {"cells": (8, 8), "pool": (2, 2)}
    assert choose_layer(quadrants(), torch.rand(1, 3, 16, 16), None) == "network.cells"
    assert spatial_layers(bottlenecked(), images)["stem"] == (12, 12)


def test_an_unknown_layer_lists_the_grids():
    with pytest.raises(InputError, match=r"unknown layer 'layer4'; known: network\.cells \(8x8\), network\.pool"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "grad_cam", layer="layer4")


def test_unknown_methods_and_options_list_the_known():
    with pytest.raises(InputError, match="unknown method 'gradcam'; known: attention, attention_mean, centre"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "gradcam")
    with pytest.raises(InputError, match="unknown option of grad_cam 'layr'; known: layer"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "grad_cam", layr="x")


def test_a_network_without_attention_says_what_would_do():
    with pytest.raises(InputError, match=r"no trained attention; choose another method, such as grad_cam"):
        explain(quadrants(), torch.rand(1, 3, 16, 16), "attention")


def test_controls_know_nothing_of_the_network(images):
    nothing, targets = nn.Identity(), torch.zeros(5, dtype=torch.long)
    assert torch.equal(uniform(nothing, images, targets), torch.ones(5, 1, 1))
    bell = centre(nothing, images, targets)[0]
    assert torch.equal(bell, bell.flip(0))
    close(bell[23, 0] / bell[23, 23], torch.tensor(-0.5 * (2**2 - (2 / 47) ** 2)).exp())
    noise = random_cells(nothing, images, targets, grid=(3, 4), seed=1)
    assert torch.equal(noise[2:4], random_cells(nothing, images[2:4], targets[2:4], grid=(3, 4), seed=1))
    assert not torch.equal(noise, random_cells(nothing, images, targets, grid=(3, 4), seed=2))
    assert len(noise.unique()) == noise.numel()


@pytest.mark.parametrize("steps", ["x", 0])
def test_options_of_a_wrong_kind_are_refused(steps, images):
    with pytest.raises(InputError, match="options of integrated_gradients"):
        explain(bottlenecked(), images, "integrated_gradients", steps=steps)


class Tokens(nn.Module):
    """A patch embedding, then channels last, as in a Swin transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.patches(images).permute(0, 2, 3, 1)).mean((1, 2))


def test_channels_last_is_no_grid_and_a_first_layer_no_default():
    images = torch.rand(1, 3, 16, 16)
    assert spatial_layers(Tokens(), images) == {"patches": (4, 4)}
    with pytest.raises(InputError, match="first layer, patches, has a grid; name it"):
        explain(Tokens(), images, "grad_cam")
