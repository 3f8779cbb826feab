"""The authors' networks, their noise and their outputs against ours."""

import argparse
import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ibviz.errors import InputError
from ibviz.models.bottleneck import bits, kl_exact, kl_official
from ibviz.models.classifier import IBClassifier, Inspection
from ibviz.models.config import InputConfig, ModelConfig, ObjectiveConfig
from ibviz.models.loading import load
from ibviz.models.objective import Objective
from ibviz.models.official import convert, from_official, load_official

PLAIN = InputConfig(
    size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), class_names=tuple("0123456789")
)  # cases are normalised
close = torch.testing.assert_close


def vgg_state(parity: Path) -> dict[str, Tensor]:
    """Weights by rule from their names, batch norm statistics from the file."""
    spec = importlib.util.spec_from_file_location("fill", parity / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    shapes = json.loads((parity / "keys/vgg32_aib_qt_10_20.json").read_text())["keys"]
    buffers = load_file(parity / "vgg32_aib_qt.cases.safetensors")
    weights = {k: s for k, s in shapes.items() if not k.endswith(("running_mean", "running_var", "tracked"))}
    state = {key: torch.from_numpy(value) for key, value in fill.fill(weights).items()}
    return state | {k.removeprefix("buffers/"): v for k, v in buffers.items() if k.startswith("buffers/")}


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    return shared / "parity"


@pytest.fixture
def vgg(parity: Path) -> IBClassifier:
    state = vgg_state(parity)
    count = torch.tensor(0)
    norms = {k.replace("running_mean", "num_batches_tracked"): count for k in state if k.endswith("running_mean")}
    return from_official(state | norms, PLAIN)


@pytest.fixture
def wrn(parity: Path) -> IBClassifier:
    return from_official(load_file(parity / "wrn_small_aib_qt.weights.safetensors"), PLAIN)


def read_case(path: Path, name: str) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        return {k.removeprefix(f"{name}/"): file.get_tensor(k) for k in file.keys() if k.startswith(f"{name}/")}  # noqa: SIM118


def run_case(model: IBClassifier, case: dict[str, Tensor]) -> Inspection:
    count = len(case["x"])
    attention = case["eps_att"].view(-1, count, 16, 16)
    latent = case["eps_z"].view(-1, len(attention) * count, case["eps_z"].shape[-1])
    noise = iter((attention, latent))

    def recorded(shape: tuple[int, ...]) -> Tensor:
        drawn = next(noise)
        assert drawn.shape == shape
        return drawn

    return model.decide(case["x"], (len(attention), len(latent)), recorded)


def check_activations(seen: Inspection, case: dict[str, Tensor]) -> None:
    """Every stored activation to 1e-5 relative."""
    assert seen.gate.index is not None
    pairs = {
        "att_mu": seen.attention.mean.flatten(1),
        "att_sigma": seen.attention.deviation.flatten(1),
        "att_sample": seen.gate.values.flatten(2),
        "z_mu": seen.latent_mean.flatten(0, 1),
        "z_sigma": seen.latent_deviation.flatten(0, 1),
        "logits": seen.logits,
    }
    for name, ours in pairs.items():
        scale = case[name].abs().max().item()
        close(ours, case[name], rtol=1e-5, atol=1e-5 * scale, msg=lambda text, name=name: f"{name}: {text}")


def check_losses(model: IBClassifier, seen: Inspection, case: dict[str, Tensor], beta: float) -> None:
    """Each term and the total, which the authors count in bits but for the quantiser's terms."""
    config = ObjectiveConfig(beta=beta, kl="official", codebook=0.4 * math.log(2), commitment=0.1 * math.log(2))
    losses = Objective(model, config).losses(seen, case["y"])
    expected = {"vq": losses.codebook, "commit": losses.commitment, "kl_official_nats": losses.rate}
    for name, ours in expected.items():
        close(ours, case[name], rtol=1e-5, atol=0, msg=lambda text, name=name: f"{name}: {text}")
    close(bits(losses.total.item()), case["total"].item(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["eval_s1", "eval_s4", "train_s1"])
def test_vgg32_gives_the_authors_activations_and_losses(vgg: IBClassifier, parity: Path, name: str):
    case = read_case(parity / "vgg32_aib_qt.cases.safetensors", name)
    vgg.train(name.startswith("train"))
    seen = run_case(vgg, case)
    check_activations(seen, case)
    assert seen.gate.index is not None
    assert torch.equal(seen.gate.index.flatten(0, 1).flatten(1), case["att_index"])
    anchors = seen.attention.anchors
    assert anchors is not None
    close(anchors[seen.gate.index].flatten(2), case["att_quantized"], rtol=1e-5, atol=1e-7)
    check_losses(vgg, seen, case, beta=0.01 * 0.5)
    close(seen.rate.mean(), case["kl_exact_nats"], rtol=1e-5, atol=0)
    cross_entropy = Objective(vgg, ObjectiveConfig()).losses(seen, case["y"]).cross_entropy
    close(bits(cross_entropy.item()), case["ce_bits"].item(), rtol=1e-5, atol=0)


def test_vgg32_gives_the_authors_gradients(vgg: IBClassifier, parity: Path):
    """In float64: on processors without AVX-512, float32 gradients of this network are off by 0.3 % from rounding."""
    case = read_case(parity / "vgg32_aib_qt.cases.safetensors", "train_s1")
    exact = {key: value.double() if value.is_floating_point() else value for key, value in case.items()}
    config = ObjectiveConfig(beta=0.005, kl="official", codebook=0.4 * math.log(2), commitment=0.1 * math.log(2))
    total = Objective(vgg.double().train(), config).losses(run_case(vgg, exact), case["y"]).total
    (total / math.log(2)).backward()
    names = dict(zip(convert(vgg_state(parity)), vgg_state(parity), strict=True))
    ours = {names[key]: parameter.grad for key, parameter in vgg.named_parameters()}
    checked = 0
    for key, theirs in case.items():
        kind, _, name = key.partition("/")
        if kind not in {"grad", "grad_norm"}:
            continue
        grad = ours[name]
        assert grad is not None
        norm = case[f"grad_norm/{name}"].item()
        # A bias before a batch norm has no gradient but rounding: compare it on the scale of its layer's weight.
        layer = case.get("grad_norm/" + name.removesuffix("bias") + "weight", torch.tensor(norm)).item()
        if kind == "grad":
            assert (grad.view_as(theirs) - theirs).norm().item() <= 2e-5 * max(norm, layer), name
        else:  # of more layers, in the rounding of the authors' float32: up to 1.3e-4
            assert abs(grad.norm().item() - norm) <= 2e-4 * max(norm, layer), name
        checked += 1
    assert checked == 129


@pytest.mark.parametrize("name", ["eval_ns1", "eval_ns4"])
def test_wide_resnet_gives_the_authors_activations_and_losses(wrn: IBClassifier, parity: Path, name: str):
    case = read_case(parity / "wrn_small_aib_qt.cases.safetensors", name)
    seen = run_case(wrn, case)
    check_activations(seen, case)
    assert seen.gate.index is not None
    assert seen.attention.anchors is not None
    close(seen.attention.anchors[seen.gate.index].flatten(2), case["att_quantized"], rtol=1e-5, atol=1e-7)
    check_losses(wrn, seen, case, beta=0.01)


@pytest.mark.parametrize("kl", [kl_exact, kl_official])
def test_kl_of_a_dimension_equals_its_formula(kl):
    mean, deviation = torch.tensor([[0.3, -1.2]]), torch.tensor([[0.5, 1.7]])
    scale = deviation if kl is kl_exact else deviation.exp()
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(torch.distributions.Normal(mean, scale), prior).sum(-1)
    close(kl(mean, deviation), expected)


def test_a_deviation_that_underflows_has_a_finite_price():
    assert kl_exact(torch.zeros(1, 2), torch.tensor([[0.0, 1e-45]])).isfinite().all()


def test_weights_of_another_network_are_refused_by_name():
    with pytest.raises(InputError, match=r"layer9\.weight, \.\.\.\) are of none of the authors' networks"):
        convert({"layer9.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"extra\.weight is no tensor of the authors' network"):
        convert({"features.28.weight": torch.zeros(1), "extra.weight": torch.zeros(1)})


# Key list: backbone, anchors, latents, classes, hidden convolutions of the attention head, parameters of the network
# as the method counts them (without the WRN-50-2's unused layer).
RELEASED = {
    "vgg32_aib_10": ("vgg32", None, 256, 10, 0, 20_040_789),
    "vgg32_aib_100": ("vgg32", None, 256, 100, 0, 20_063_919),
    "vgg32_aib_qt_10_20": ("vgg32", 20, 256, 10, 0, 20_040_809),
    "vgg32_aib_qt_100_50": ("vgg32", 50, 256, 100, 0, 20_063_969),
    "wrn32_aib_10": ("wrn28_10", None, 512, 10, 0, 65_004_500),
    "wrn32_aib_100": ("wrn28_10", None, 512, 100, 0, 65_109_260),
    "wrn32_aib_qt_10_50": ("wrn28_10", 50, 512, 10, 0, 65_004_550),
    "wrn32_aib_qt_100_20": ("wrn28_10", 20, 512, 100, 0, 65_109_280),
    "cub_vgg": ("vgg16", None, 256, 200, 0, 17_196_307),
    "cub_vgg_qt": ("vgg16", 20, 256, 200, 3, 24_275_751),
    "cub_wrn": ("wrn50_2", None, 256, 200, 0, 130_726_675 - 20_736_000),
    "cub_wrn_qt": ("wrn50_2", 20, 256, 200, 0, 130_726_695 - 20_736_000),
}


def released_state(parity: Path, name: str) -> dict[str, Tensor]:
    """Tensors of the right names and shapes; scalars expanded, so that 130 million cost nothing."""
    shapes = json.loads((parity / f"keys/{name}.json").read_text())["keys"]
    return {key: torch.tensor(0.5).expand(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}


def test_every_key_list_is_known(parity: Path):
    assert {path.stem for path in (parity / "keys").glob("*.json")} == set(RELEASED)


@pytest.mark.parametrize("name", RELEASED)
def test_every_released_network_is_converted_whole(parity: Path, name: str):
    backbone, anchors, latent, classes, depth, count = RELEASED[name]
    state = released_state(parity, name)
    spec = PLAIN.model_copy(update={"class_names": tuple(map(str, range(classes)))})
    model = from_official(state, spec)
    config = model.config
    assert (config.backbone, config.anchors, config.latent, config.head_depth) == (backbone, anchors, latent, depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    with pytest.raises(InputError, match=f"the weights are not those of a {backbone} of the authors"):
        from_official({key: value for key, value in state.items() if key != "att_module_std.0.bias"}, spec)


@pytest.mark.parametrize("backbone", ["vgg16", "wrn50_2"])
def test_the_cub_networks_give_what_the_authors_modules_give(backbone: str):
    """Literal forward passes from the tensors under the authors' names."""
    names, alias, literally, depth = CUB[backbone]
    spec = PLAIN.model_copy(update={"class_names": tuple(map(str, range(7)))})
    with torch.device("meta"):
        model = IBClassifier(ModelConfig(backbone=backbone, anchors=4, latent=6, head_depth=depth), spec)
    draws = torch.Generator().manual_seed(0)
    ours = {key: value for key, value in model.state_dict().items() if not key.startswith("normalize.")}
    state = {_old_name(key, names): _drawn(value, draws) for key, value in ours.items()}
    state["emb.weight"] = torch.linspace(0, 1, 4)[None]
    state |= {key.replace(*alias): value for key, value in state.items() if alias and key.startswith(alias[0])}
    back, images = from_official(state, spec), torch.rand(1, 3, 64, 64, generator=draws)
    assert len(back.inspect(images).attention.values().unique()) > 1
    close(back(images), literally(state, images), rtol=1e-4, atol=1e-5)


def _old_name(key: str, names: dict[str, str]) -> str:
    new = next(new for new in names if key.startswith(new))
    return names[new] + key.removeprefix(new)


def _drawn(like: Tensor, draws: torch.Generator) -> Tensor:
    """Kernels that keep the size of what they read, and statistics, scales and offsets around 1."""
    if not like.is_floating_point():
        return torch.tensor(0)
    uniform = torch.rand(like.shape, generator=draws)
    return uniform + 0.5 if like.ndim < 2 else (uniform - 0.5) * (12 / like[0].numel()) ** 0.5


def vgg_of_the_authors(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """Deterministic pass: the mean attention quantised, the latent mean decoded."""
    f = images
    for index in range(29):
        if f"features.{index}.weight" in state:
            f = F.conv2d(f, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
        elif index in (4, 9, 16, 23):
            f = F.max_pool2d(f, 2)
    hidden = f
    for index in (0, 2, 4, 6):
        weight, bias = state[f"att_module_mu.{index}.weight"], state[f"att_module_mu.{index}.bias"]
        hidden = F.conv2d(hidden, weight, bias, padding=1)
        hidden = hidden.relu() if index < 6 else hidden.sigmoid()
    return decoded(state, F.adaptive_avg_pool2d(gated(state, f, hidden), 3).flatten(1), "encode.2")


def wrn_of_the_authors(state: dict[str, Tensor], images: Tensor) -> Tensor:
    """The same for the wide ResNet, whose attention is read by a fourth stage of its own, at stride 1."""
    f = F.max_pool2d(normed(state, "bn1", F.conv2d(images, state["conv1.weight"], stride=2, padding=3)).relu(), 3, 2, 1)
    for name, blocks, stride in (("layer1", 3, 1), ("layer2", 4, 2), ("layer3", 6, 2)):
        f = stage(state, name, f, blocks, stride)
    read = stage(state, "att_module_mu.0", f, 3, 1)
    mean = F.conv2d(read, state["att_module_mu.1.weight"], state["att_module_mu.1.bias"], padding=1).sigmoid()
    return decoded(state, stage(state, "encode.0", gated(state, f, mean), 3, 2).mean((2, 3)), "encode.3")


def stage(state: dict[str, Tensor], name: str, f: Tensor, blocks: int, stride: int) -> Tensor:
    for block in range(blocks):
        at, step, inner, beside = f"{name}.{block}", 1 if block else stride, f, f
        for index, (width, pace) in enumerate(((0, 1), (1, step), (0, 1)), 1):
            inner = F.conv2d(inner, state[f"{at}.conv{index}.weight"], stride=pace, padding=width)
            inner = normed(state, f"{at}.bn{index}", inner)
            inner = inner.relu() if index < 3 else inner
        if not block:
            beside = F.conv2d(f, state[f"{at}.downsample.0.weight"], stride=step)
            beside = normed(state, f"{at}.downsample.1", beside)
        f = (inner + beside).relu()
    return f


def normed(state: dict[str, Tensor], name: str, f: Tensor) -> Tensor:
    mean, variance, scale, offset = (
        state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (f - mean) / (variance + 1e-5).sqrt() * scale + offset


def gated(state: dict[str, Tensor], f: Tensor, mean: Tensor) -> Tensor:
    anchors = state["emb.weight"][0]
    return f * (1 + anchors[(mean[..., None] - anchors).square().argmin(-1)])


def decoded(state: dict[str, Tensor], pooled: Tensor, layer: str) -> Tensor:
    encoded = F.linear(pooled, state[f"{layer}.weight"], state[f"{layer}.bias"])
    mean = encoded[:, : encoded.shape[1] // 2]
    inner = F.linear(mean, state["decode.0.weight"], state["decode.0.bias"]).relu()
    return F.linear(inner, state["decode.2.weight"], state["decode.2.bias"])


SHARED = {
    "attention.head.": "att_module_mu.",
    "attention.scale.": "att_module_std.0.",
    "decoder.": "decode.",
    "quantizer.anchors": "emb.weight",
}
# Our names and the authors'; a module that theirs register twice; the literal pass; hidden layers of the head.
CUB = {
    "vgg16": (SHARED | {"network.stem.": "features.", "bottleneck.project.": "encode.2."}, (), vgg_of_the_authors, 3),
    "wrn50_2": (
        SHARED | {"network.stem.": "", "network.encoder.layer4.": "encode.0.", "bottleneck.project.": "encode.3."},
        ("att_module_mu.0.", "att_layer4."),
        wrn_of_the_authors,
        0,
    ),
}


def test_files_of_the_authors_open_in_each_of_their_wrappings(wrn: IBClassifier, parity: Path, tmp_path: Path):
    state = load_file(parity / "wrn_small_aib_qt.weights.safetensors")
    moved = {key: tensor + 1 if key == "conv1.weight" else tensor for key, tensor in state.items()}
    contents = {
        "bare.pth": state,
        "wide.pth.tar": {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        "flags.tar": {"model_states": {"net": state, "net_ema": moved}, "args": argparse.Namespace(lr=0.1)},
    }
    images = torch.rand(1, 3, 32, 32)
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        model = load(tmp_path / name)
        assert isinstance(model, IBClassifier)
        assert model.spec.mean == (0.4914, 0.4822, 0.4465)
        mean, std = (torch.tensor(part).view(3, 1, 1) for part in (model.spec.mean, model.spec.std))
        close(model(images), wrn((images - mean) / std))
    averaged = load_official(tmp_path / "flags.tar", PLAIN, weights="net_ema")
    close(averaged.get_parameter("network.stem.0.weight"), moved["conv1.weight"])


class Anything:
    def __reduce__(self) -> tuple:
        return (print, ("code was run",))


def test_files_that_could_run_code_are_refused_with_the_reason(tmp_path: Path, capsys):
    torch.save({"state_dict": {}, "extra": Anything()}, tmp_path / "code.tar")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    torch.save({"state_dict": {"layer9.weight": torch.zeros(1)}}, tmp_path / "foreign.pth")
    for name, reason in {
        "code.tar": r"could run any code, so it is not opened \(it asks for print\).*save its state_dict alone",
        "text.pth": "is no PyTorch file",
        "other.pth": r"holds no weights where the authors' files have them .* it has \['epoch'\]",
        "foreign.pth": "of none of the authors' networks",
    }.items():
        with pytest.raises(InputError, match=reason):
            load(tmp_path / name)
    assert "code was run" not in capsys.readouterr().out
