"""State of a network that is left as it was, and ways to run one that maps must not depend on."""

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ibviz
from ibviz.attribution.methods import explain, predict, values
from ibviz.attribution.randomisation import randomise
from ibviz.errors import InputError, NoMapError
from ibviz.models.hooks import evaluating, unsealed

close = torch.testing.assert_close
TARGETS = torch.tensor([0, 2])
OPTIONS: dict[str, dict[str, object]] = {
    "saliency": {},
    "integrated_gradients": {"steps": 4},
    "smooth_grad": {"samples": 4},
    "guided_backprop": {},
    "deep_lift": {},
    "lrp": {},
    "rise": {"masks": 10},
    "lime": {"samples": 10, "segments": 4},
}
AT_LAYER = {"grad_cam": {}, "eigen_cam": {}, "ablation_cam": {}, "iba": {"steps": 2, "samples": 2}}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def parts() -> tuple[nn.Conv2d, nn.Conv2d, nn.Linear]:
    torch.manual_seed(0)
    return nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1), nn.Linear(6 * 256, 3)


class Plain(nn.Module):
    """Two convolutions, the second in a block of its own, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, second, self.head = parts()
        self.block = nn.Sequential(nn.ReLU(), second, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.middle(self.first(images)).flatten(1))

    def middle(self, features: Tensor) -> Tensor:
        return self.block(features)


def same_maps(model: nn.Module, plain: nn.Module, images: Tensor, layer: str = "block.1", prefix: str = "") -> None:
    everywhere = [(method, options, options) for method, options in OPTIONS.items()]
    at_layer = [(m, o | {"layer": prefix + layer}, o | {"layer": layer}) for m, o in AT_LAYER.items()]
    for method, options, same in everywhere + at_layer:
        expected = values(explain(plain, images, method, targets=TARGETS, **cast(Any, same)))
        close(
            values(explain(model, images, method, targets=TARGETS, **cast(Any, options))),
            expected,
            rtol=1e-4,
            atol=1e-6,
        )


class Merging(nn.Linear):
    """A low-rank addition that eval mode merges into the weight, and training mode takes out."""

    def __init__(self) -> None:
        super().__init__(6 * 256, 3)
        self.down, self.up = nn.Parameter(torch.randn(2, 6 * 256)), nn.Parameter(torch.randn(3, 2))
        self.merged, self.switched = False, 0

    def train(self, mode: bool = True) -> "Merging":
        super().train(mode)
        self.switched += 1
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * self.up.data @ self.down.data
            self.merged = not mode
        return self

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + (0 if self.merged else input @ self.down.T @ self.up.T)


@pytest.mark.parametrize("error", [False, True])
def test_layers_that_merge_by_mode_are_taken_apart_again(error, images):
    model = Plain()
    model.head = layer = Merging()
    before, logits = layer.weight.detach().clone(), model(images).detach()
    with pytest.raises(InputError) if error else torch.no_grad():
        if error:
            explain(model, images, "grad_cam", layer="nowhere")
        close(predict(model, images), logits.softmax(1))
        assert values(explain(model, images, "saliency")).any()
    assert (layer.training, layer.merged) == (True, False)
    assert torch.equal(layer.weight, before)
    assert torch.equal(model(images), logits)
    model.eval()
    merged, count = layer.weight.detach().clone(), layer.switched
    explain(model, images, "saliency")
    assert torch.equal(layer.weight, merged)
    assert layer.switched == count  # nothing to change, nothing called


class Frozen(nn.Sequential):
    """Its second part never trains, whatever it is told."""

    def train(self, mode: bool = True) -> "Frozen":
        super().train(mode)
        self[1].eval()
        return self


def test_mixed_modes_come_back(images):
    model = nn.Sequential(Frozen(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), nn.Dropout(), nn.Flatten(), nn.LazyLinear(3))
    model(images)
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    norm.train()  # against its parent's rule
    with evaluating(model):
        pass
    assert norm.training


class Keeping(Plain):
    def middle(self, features: Tensor) -> Tensor:
        self.features = features
        return self.block(features)


def normed(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
    model = Plain()
    cast(Any, model.block)[1] = norm(cast(Any, model.block)[1])
    return model


def tied() -> nn.Module:
    model = Plain()
    cast(Any, model.block).append(nn.Conv2d(6, 6, 3, 1, 1)).append(nn.ReLU())
    cast(Any, model.block)[3].weight = cast(Any, model.block)[1].weight
    return model


HOLDING: dict[str, Callable[[], nn.Module]] = {
    "kept features": Keeping,
    "weight_norm": lambda: normed(torch.nn.utils.weight_norm),
    "parametrized": lambda: normed(torch.nn.utils.parametrizations.weight_norm),
    "spectral": lambda: normed(torch.nn.utils.parametrizations.spectral_norm),
    "tied": tied,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("name", HOLDING)
def test_networks_that_hold_tensors_of_a_graph_or_share_weights(name, images):
    model = HOLDING[name]().eval()
    model(images)  # leaves a graph behind
    plain = tied() if name == "tied" else Plain()
    with torch.no_grad():  # what the layer computes with, however it is made
        cast(Any, plain.block)[1].weight.copy_(cast(Any, model).block[1].weight)
    same_maps(model, plain.eval(), images)


@pytest.mark.parametrize("name", ["parametrized", "spectral"])
def test_a_layer_and_what_makes_its_weight_are_randomised_together(name, images):
    rows = randomise(HOLDING[name](), images, "saliency", targets=TARGETS)
    assert [row.layer for row in rows] == ["head", "block.1", "first"]


class Checkpointed(Plain):
    """Keeps of its block the input alone when it trains or takes gradients."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant

    def middle(self, features: Tensor) -> Tensor:
        return cast(Tensor, checkpoint(self.block, features, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_parts_are_explained_as_if_they_were_not(reentrant, images):
    same_maps(Checkpointed(reentrant=reentrant).eval(), Plain().eval(), images)
    inputs = images.clone().requires_grad_()
    Checkpointed(reentrant=reentrant)(inputs).sum().backward()  # and checkpointing is on again
    close(inputs.grad, torch.autograd.grad(Plain()(inputs).sum(), inputs)[0])


@pytest.mark.parametrize("name", ["resnet10t", "densenet121"])
def test_checkpointing_of_libraries(name, images):
    torch.manual_seed(0)
    if name == "resnet10t":
        plain = timm.create_model(name, num_classes=3, zero_init_last=False).eval()
        model, layer = copy.deepcopy(plain), "layer3.0.conv2"
        cast(Any, model).set_grad_checkpointing(True)
    else:
        plain = torchvision.models.densenet121(num_classes=3).eval()
        model, layer = (
            torchvision.models.densenet121(num_classes=3, memory_efficient=True).eval(),
            "features.denseblock3",
        )
        model.load_state_dict(plain.state_dict())
    for method, options in {"guided_backprop": {}, "grad_cam": {"layer": layer}, "eigen_cam": {"layer": layer}}.items():
        expected = explain(plain, images, method, targets=TARGETS, **cast(Any, options))
        close(explain(model, images, method, targets=TARGETS, **cast(Any, options)), expected, rtol=1e-4, atol=1e-7)


SEALED: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "script": lambda model, images: torch.jit.script(model),
    "trace": lambda model, images: torch.jit.trace(model, images),
    "export": lambda model, images: torch.export.export(model, (images,)).module(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore:.*LeafSpec")
@pytest.mark.parametrize("name", SEALED)
def test_sealed_networks_give_maps_of_whole_passes_and_say_so(name, images):
    first, second, head = parts()
    plain = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), head).eval()
    model = SEALED[name](plain, images)
    face: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "class_names": "abc", "size": 32}
    for sealed in (model, ibviz.wrap(model, **face)):
        for method in ("saliency", "input_x_gradient"):
            close(explain(sealed, images, method, targets=TARGETS), explain(plain, images, method, targets=TARGETS))
        with pytest.raises(NoMapError, match=r"scripted, traced or exported.* original module.* saliency or rise"):
            explain(sealed, images, "grad_cam", targets=TARGETS, layer="0")
        if name == "export":
            with pytest.raises(InputError, match=r"does not take images \(1, 3, 32, 32\).* batches of any size"):
                explain(sealed, images[:1], "saliency")
        else:
            close(explain(sealed, images, "rise", masks=20), explain(plain, images, "rise", masks=20))


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*deprecated", "ignore:.*LeafSpec", "ignore:Converting a tensor to a Python boolean"
)
@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm2d(6), lambda: nn.Dropout()])
def test_networks_sealed_in_training_mode_are_refused_where_that_stays(name, layer, images):
    first, second, head = parts()
    model = nn.Sequential(first, layer(), second, nn.Flatten(), head).train()
    sealed = torch.jit.trace(model, images, check_trace=False) if name == "trace" else SEALED[name](model, images)
    assert isinstance(sealed, nn.Module)
    if name == "script":  # asks for the mode anew
        close(explain(sealed, images, "saliency", targets=TARGETS), explain(model, images, "saliency", targets=TARGETS))
    else:
        with pytest.raises(InputError, match=r"traced or exported in training mode.* call eval\(\) on the original"):
            explain(sealed, images, "saliency", targets=TARGETS)


def test_weights_made_in_inference_mode_are_named(images):
    with torch.inference_mode():
        model = Plain()
    with pytest.raises(InputError, match=r"weights were made or loaded under torch.inference_mode"):
        explain(model, images, "saliency")


def test_networks_spread_over_devices_or_processes_are_refused_and_others_not(images):
    plain = Plain().eval()
    same_maps(nn.DataParallel(plain), plain, images, prefix="module.")
    spread = nn.DataParallel(plain)
    spread.device_ids = [0, 1]
    with pytest.raises(InputError, match=r"DataParallel spreads .* give what it wraps, model.module"):
        explain(spread, images, "saliency")


class Stubborn(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self.training = True
        return self


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(4, track_running_stats=False), lambda: Stubborn(4)])
def test_images_that_would_change_one_another_are_refused(norm, images):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm(), nn.Flatten(), nn.Linear(3600, 3))
    before = copy.deepcopy(model.state_dict())
    for call in (lambda: explain(model, images, "rise"), lambda: predict(model, images)):
        with pytest.raises(InputError, match=r"batch norm '1' .*images of a batch change one another"):
            call()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    per_image = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(3600, 3))
    assert values(explain(per_image, images, "saliency")).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_is_the_networks_alone(dtype, images):
    class Drawing(Plain):
        def middle(self, features: Tensor) -> Tensor:
            seen.append(torch.ones(1).dtype)
            return super().middle(features)

    seen, model = list[torch.dtype](), Drawing().eval()
    expected = {method: values(explain(model, images, method, **cast(Any, o))) for method, o in OPTIONS.items()}
    seen.clear()
    torch.set_default_dtype(dtype)
    try:
        found = {method: values(explain(model, images, method, **cast(Any, o))) for method, o in OPTIONS.items()}
        with pytest.raises(InputError):
            explain(model, images, "grad_cam", layer="nowhere")
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(seen) == {dtype}
    for method, maps in expected.items():
        assert torch.equal(found[method], maps), method


class Pair(nn.Module):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return features, features.mean((2, 3))


def test_a_layer_that_gives_a_tuple_is_refused_as_such(images):
    class Network(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def middle(self, features: Tensor) -> Tensor:
            return self.block(self.pair(features)[0])

    for method in AT_LAYER:
        with pytest.raises(InputError, match="layer pair gives a tuple; name one that runs once and gives a tensor: "):
            explain(Network(), images, method, layer="pair")
        assert values(explain(Network(), images, method, layer="first")).isfinite().all()


def test_threads_take_turns_on_a_network(images):
    class Slow(Plain):
        def middle(self, features: Tensor) -> Tensor:
            inside.append(threading.get_ident())
            pause.wait(0.02)
            return super().middle(features)

    inside, pause, model, found = list[int](), threading.Event(), Slow().train(), dict[int, Tensor]()
    expected = values(explain(model, images, "score_cam", targets=TARGETS, layer="block.1"))
    inside.clear()

    def work(number: int) -> None:
        found[number] = values(explain(model, images, "score_cam", targets=TARGETS, layer="block.1"))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns = [thread for thread, before in zip(inside, [0, *inside], strict=False) if thread != before]
    assert len(turns) == len(set(turns)) == 3
    assert all(torch.equal(maps, expected) for maps in found.values())
    assert all(module.training for module in model.modules())


def attached(network: nn.Module, layer: str) -> nn.Module:
    face: dict[str, Any] = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "class_names": "abc", "size": 32}
    return ibviz.attach(ibviz.wrap(network, **face), layer=layer, anchors=3, bottleneck=4)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of PyTorch's, in passes without
@pytest.mark.parametrize("reentrant", [True, False])
def test_attention_inside_a_checkpointed_part_is_refused_and_outside_learns(reentrant, images):
    network = Checkpointed(reentrant=reentrant)
    weights = copy.deepcopy(network.state_dict())
    with pytest.raises(InputError, match=r"layer block.1 runs inside a part that is checkpointed.*switch"):
        attached(network, "block.1")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    model, plain = attached(network, "first").train(), attached(Plain(), "first").train()
    plain.load_state_dict(model.state_dict())
    for one in (model, plain):
        torch.manual_seed(0)
        F.cross_entropy(one(images), TARGETS).backward()
    for (name, parameter), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        close(parameter.grad, other.grad, msg=name)


def test_checkpointing_switched_on_after_attachment_is_refused_in_training(images):
    network = timm.create_model("resnet10t", num_classes=3)
    model = attached(network, "layer2.0.conv1").train()
    model(images).sum().backward()
    cast(Any, network).set_grad_checkpointing(True)
    with pytest.raises(InputError, match=r"layer layer2.0.conv1 runs inside a part that is checkpointed.*timm"):
        model(images)


@pytest.mark.parametrize("place", ["whole", "part"])
def test_attention_for_a_compiled_network_is_refused(place):
    network: Any = Plain()
    if place == "part":
        network.block = torch.compile(network.block, backend="eager")
    compiled = torch.compile(network, backend="eager") if place == "whole" else network
    with pytest.raises(InputError, match=r"compiled code leaves attention out; attach to the network as it was"):
        attached(cast(nn.Module, compiled), "first")


def test_buffers_that_a_pass_changes_are_as_before():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(12, 2)
            self.passes: Tensor
            self.last: Tensor
            self.register_buffer("passes", torch.zeros(()))
            self.register_buffer("last", torch.zeros(0))

        last: Tensor

        def forward(self, images: Tensor) -> Tensor:
            self.passes += 1
            self.last.resize_(len(images)).fill_(1)
            return self.head(images.flatten(1))

    model = Counting()
    explain(model, torch.rand(2, 3, 2, 2), "saliency")
    assert model.get_buffer("passes") == 0
    assert model.get_buffer("last").shape == (0,)


def test_the_default_device_is_the_networks_alone():
    class Making(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.devices = nn.Linear(12, 2), set[str]()

        def forward(self, images: Tensor) -> Tensor:
            self.devices.add(torch.zeros(1).device.type)
            return self.head(images.flatten(1))

    model, images = Making(), torch.rand(2, 3, 2, 2)
    expected = values(explain(model, images, "rise", masks=4))
    model.devices.clear()
    torch.set_default_device("meta")
    try:
        found = values(explain(model, images, "rise", masks=4))
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    assert torch.equal(values(found), values(expected))
    assert model.devices == {"meta"}


def test_what_is_no_module_is_refused():
    for network in (lambda images: images, [nn.Linear(12, 2)], None, nn.Linear):
        with pytest.raises(InputError, match=r"expected a network, a torch.nn.Module; got"):
            unsealed(network)  # `explain` itself, whose annotation answers first in tests, calls it
