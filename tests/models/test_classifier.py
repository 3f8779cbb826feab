import pytest
import torch

from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig, ObjectiveConfig
from ibviz.models.objective import Objective, codebook_loss, commitment_loss

close = torch.testing.assert_close
SPEC = InputConfig(size=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), class_names=("a", "b", "c"))


def build(**choices) -> IBClassifier:
    torch.manual_seed(0)
    return IBClassifier(ModelConfig.model_validate({"latent": 8, "anchors": 5} | choices), SPEC)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))


def test_eval_is_deterministic_and_quantises_the_mean(images):
    model = build().eval()
    seen = model.inspect(images)
    assert torch.equal(seen.logits, model(images))
    assert seen.gate.index is not None
    assert seen.attention.index is not None
    assert seen.attention.anchors is not None
    assert torch.equal(seen.gate.index[0], seen.attention.index)
    nearest = (seen.attention.mean[..., None] - seen.attention.anchors).abs().argmin(-1)
    assert torch.equal(seen.attention.index, nearest)


def test_samples_follow_their_generator_and_average_to_the_draws(images):
    model = build().eval()
    draws = [model.inspect(images, samples=(3, 2), generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(draws[0].logits, draws[1].logits)
    assert not torch.equal(draws[0].logits, draws[2].logits)
    assert draws[0].gate.values.shape == (3, 4, 12, 12)
    assert torch.equal(draws[0].attention.mean, model.inspect(images).attention.mean)


def test_many_samples_of_attention_have_the_stated_mean_and_deviation(images):
    seen = build().eval().inspect(images[:1], samples=(4000, 1), generator=torch.Generator().manual_seed(0))
    error = seen.attention.deviation.max().item() / 4000**0.5
    close(seen.gate.values.mean(0), seen.attention.mean, rtol=0, atol=6 * error)
    close(seen.gate.values.std(0), seen.attention.deviation, rtol=0.1, atol=0)


def test_normalisation_is_the_first_layer(images):
    model = build()
    expected = (images - torch.tensor(SPEC.mean).view(3, 1, 1)) / torch.tensor(SPEC.std).view(3, 1, 1)
    close(model.normalize(images), expected)


@pytest.mark.parametrize(("gate", "formula"), [("residual", lambda f, a: f * (1 + a)), ("mul", lambda f, a: f * a)])
def test_gate_multiplies_the_features(images, gate, formula):
    model = build(gate=gate, anchors=None).eval()
    features = model.get_submodule("network.stem")(model.normalize(images))
    attention, _ = model.attention(features)
    latent, _ = model.bottleneck(model.get_submodule("network.encoder")(formula(features, attention[:, None])))
    close(model(images), model.decoder(latent))


def test_quantiser_losses_move_one_side_each():
    values, anchors = torch.tensor([0.2, 0.7], requires_grad=True), torch.tensor([0.0, 1.0], requires_grad=True)
    codebook_loss(values, anchors).backward()
    assert values.grad is None
    close(anchors.grad, torch.tensor([-0.2, 0.3]))  # d/dv mean (v - a)^2 = 2 (v - a) / 2
    anchors.grad = None
    commitment_loss(values, anchors).backward()
    assert anchors.grad is None
    close(values.grad, torch.tensor([0.2, -0.3]))


def test_total_is_the_weighted_sum(images):
    model, config = build(), ObjectiveConfig(beta=0.3, codebook=0.7, commitment=0.2)
    losses = Objective(model, config)(images, torch.tensor([0, 1, 2, 0]), torch.randn)
    expected = losses.cross_entropy + 0.3 * losses.rate + 0.7 * losses.codebook + 0.2 * losses.commitment
    close(losses.total, expected)
    assert losses.codebook > 0
    close(losses.codebook, losses.commitment)


def test_a_continuous_model_has_no_anchors_and_no_quantiser_loss(images):
    model = build(anchors=None)
    losses = Objective(model, ObjectiveConfig())(images, torch.tensor([0, 1, 2, 0]), torch.randn)
    assert losses.codebook == losses.commitment == 0
    seen = model.eval().inspect(images)
    assert seen.attention.index is None
    assert torch.equal(seen.attention.values(), seen.attention.mean)
