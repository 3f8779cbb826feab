"""The authors' networks, their noise and their outputs against ours."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ibviz.config import InputConfig, ObjectiveConfig
from ibviz.errors import InputError
from ibviz.models.bottleneck import bits, kl_exact, kl_official
from ibviz.models.classifier import IBClassifier, Inspection, Noise
from ibviz.models.objective import Objective
from ibviz.models.official import convert, from_official

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
    return model.decide(model.stem(model.normalize(case["x"])), Noise(attention, latent))


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
    case = read_case(parity / "vgg32_aib_qt.cases.safetensors", "train_s1")
    config = ObjectiveConfig(beta=0.005, kl="official", codebook=0.4 * math.log(2), commitment=0.1 * math.log(2))
    total = Objective(vgg.train(), config).losses(run_case(vgg, case), case["y"]).total
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
            assert (grad.view_as(theirs) - theirs).norm().item() <= 1e-4 * max(norm, layer), name
        else:
            assert abs(grad.norm().item() - norm) <= 1e-4 * max(norm, layer), name
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
    with pytest.raises(InputError, match=r"layer4\.0\.conv1\.weight is not a tensor"):
        convert({"layer4.0.conv1.weight": torch.zeros(1)})
