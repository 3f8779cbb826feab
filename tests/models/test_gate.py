"""Gates against their formulas, the price of capacity against a numerical divergence, networks cut at their gate."""

import math

import pytest
import torch
from torch import nn
from torchvision import models

from ibviz.errors import InputError
from ibviz.models.after_gate import after_gate, below_gate, parameters_after_gate
from ibviz.models.attach import attach
from ibviz.models.attention import gaussian, smooth
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig, ModelConfig, ObjectiveConfig
from ibviz.models.gate import ChannelStatistics, FeatureGate, capacity
from ibviz.models.loading import wrap
from ibviz.models.objective import Objective
from ibviz.training.recipe import Recipe

close = torch.testing.assert_close
NAMES = ("a", "b", "c")
SPEC = InputConfig(size=48, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), class_names=NAMES)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def wrapped(network: nn.Module) -> nn.Module:
    return wrap(network, mean=(0.5,) * 3, std=(0.5,) * 3, class_names=NAMES, size=64)


def test_statistics_of_the_first_batches_are_those_of_all_their_cells():
    kept, batches = ChannelStatistics(2), [3 * noise(4, 2, 3, 3, seed=seed) + 1 for seed in range(5)]
    for batch in batches:
        kept.update(batch)
    close(kept.mean, torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0))
    each = torch.stack([batch.transpose(0, 1).flatten(1).std(1, correction=0) for batch in batches])
    close(kept.deviation, each.mean(0))


def test_a_late_batch_counts_for_a_hundredth():
    kept = ChannelStatistics(1)
    kept.batches.fill_(500)
    kept.update(torch.full((1, 1, 2, 2), 10.0))
    close(kept.mean, torch.tensor([0.1]))
    close(kept.deviation, torch.tensor([0.99]))


@pytest.mark.parametrize("kind", ["mean", "noise"])
def test_a_closed_cell_shows_the_mean_feature_and_an_open_one_itself(kind):
    gate, features = FeatureGate(kind, 2), noise(3, 2, 4, 4)
    gate.gated(features, torch.rand(1, 3, 4, 4), lambda shape: torch.zeros(shape))
    attention = torch.rand(2, 3, 4, 4)
    mean = features.mean((0, 2, 3)).view(2, 1, 1)
    expected = [a[:, None] * features + (1 - a[:, None]) * mean for a in attention]
    close(gate.eval().gated(features, attention), torch.cat(expected))


def test_the_noise_gate_draws_noise_of_the_features_own_size_in_training_alone():
    gate, features = FeatureGate("noise", 2), noise(200, 2, 4, 4) * torch.tensor([1.0, 5.0]).view(2, 1, 1) + 2
    attention = torch.full((1, 200, 4, 4), 0.25)
    generator = torch.Generator().manual_seed(1)
    seen = gate.gated(features, attention, lambda shape: torch.randn(shape, generator=generator))
    rest = (seen - 0.25 * features) / 0.75  # what stands for the closed part
    close(rest.mean((0, 2, 3)), features.mean((0, 2, 3)), rtol=0, atol=0.3)
    close(rest.std((0, 2, 3)), features.std((0, 2, 3)), rtol=0.05, atol=0)
    correlation = torch.corrcoef(torch.stack([rest.flatten(), (features - features.mean()).flatten()]))[0, 1]
    assert abs(correlation) < 0.05  # it tells nothing of the features
    close(gate.eval().gated(features, attention), gate.gated(features, attention))


def test_capacity_is_the_divergence_of_a_noisy_unit_from_noise():
    signal, deviations = torch.randn(200_000, generator=torch.Generator().manual_seed(0)), []
    signal /= signal.square().mean().sqrt()  # features of unit variance
    for attention in (0.1, 0.5, 0.9):
        passed = torch.distributions.Normal(attention * signal, torch.tensor(1 - attention))
        deviations.append(torch.distributions.kl_divergence(passed, torch.distributions.Normal(0.0, 1.0)).mean())
    close(capacity(torch.tensor([0.1, 0.5, 0.9])), torch.stack(deviations), rtol=1e-3, atol=1e-5)
    assert capacity(torch.tensor(1.5)).isfinite()  # sampled attention may be above 1


@pytest.mark.parametrize("kind", ["residual", "mul", "mean", "noise"])
def test_a_model_keeps_its_gate_in_the_checkpoint_and_opens_as_asked(kind):
    config = ModelConfig.model_validate({"gate": kind, "open_at_start": 0.8, "anchors": None})
    model, images = IBClassifier(config, SPEC), torch.rand(4, 3, 48, 48)
    close(model.inspect(images).attention.mean, torch.full((4, 12, 12), 0.8))
    other = IBClassifier(config, SPEC)
    other.load_state_dict(model.state_dict())
    close(other.eval()(images), model.eval()(images))


def test_smoothed_attention_is_the_weighted_mean_of_each_neighbourhood():
    kernel, raw = gaussian(0.8), noise(1, 1, 4, 5)
    expected = torch.zeros(4, 5)
    for row in range(4):
        for column in range(5):
            total = weight = 0.0
            for i in range(4):
                for j in range(5):
                    if abs(i - row) <= 2 and abs(j - column) <= 2:  # 1.6, rounded up
                        w = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * 0.8**2))
                        total, weight = total + w * raw[0, 0, i, j].item(), weight + w
            expected[row, column] = total / weight
    close(smooth(raw, kernel)[0, 0], expected)
    torch.manual_seed(0)
    plain, smoothed = (IBClassifier(ModelConfig(smoothing=sigma, anchors=None), SPEC).eval() for sigma in (0.0, 0.8))
    smoothed.load_state_dict(plain.state_dict())
    features = plain.get_submodule("network.stem")(plain.normalize(torch.rand(1, 3, 48, 48)))
    close(
        smoothed.attention(features)[0], smooth(plain.attention(features)[0].logit()[:, None], kernel)[:, 0].sigmoid()
    )


def test_a_head_with_batch_norm_at_its_end_opens_as_well():
    model = IBClassifier(ModelConfig(backbone="wrn10_2", open_at_start=0.7), SPEC).eval()
    close(model.inspect(torch.rand(1, 3, 48, 48)).attention.mean, torch.full((1, 24, 24), 0.7))


def test_the_price_is_on_what_entered_the_network_and_reaches_the_attention_alone():
    model = IBClassifier(ModelConfig(anchors=3, gate="noise", latent=4), SPEC)
    config = ObjectiveConfig(attention_price=0.5, capacity=0.2)
    labels = torch.tensor([0, 1])
    seen = model.inspect(torch.rand(2, 3, 48, 48))
    losses = Objective(model, config).losses(seen, labels, 0.25)
    free = Objective(model, ObjectiveConfig()).losses(seen, labels)
    assert model.quantizer is not None
    anchors, index = model.quantizer.anchors.detach(), seen.gate.index
    opened = anchors[index]
    close(losses.attention, opened.mean())
    close(losses.capacity, capacity(opened).mean())
    close(losses.total, free.total + 0.25 * (0.5 * opened.mean() + 0.2 * capacity(opened).mean()))
    losses.attention.backward()
    reached = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert "attention" in reached
    assert reached.isdisjoint({"quantizer", "bottleneck", "decoder"})


NETWORKS = {
    "layer3": lambda: models.resnet18(num_classes=3),
    "features.13": lambda: models.mobilenet_v2(num_classes=3),
    "encoder.layers.encoder_layer_1": lambda: models.VisionTransformer(64, 16, 4, 2, 32, 64, num_classes=3),
}


@pytest.mark.parametrize("layer", NETWORKS)
def test_a_network_cut_at_its_gate_gives_the_same_logits_and_gradients(layer):
    torch.manual_seed(0)
    model = attach(wrapped(NETWORKS[layer]()), layer=layer, bottleneck=3)
    images = torch.rand(2, 3, 64, 64)
    rest, stored = after_gate(model), below_gate(model, images)
    close(rest(stored), model(images), rtol=1e-5, atol=1e-6)
    name = "attention.head.0.weight"
    for classifier, inputs in ((model, images), (rest, stored)):
        classifier(inputs).square().sum().backward()
    gradient = model.get_parameter(name).grad  # of both, which share it
    model.zero_grad()
    model(images).square().sum().backward()
    once = model.get_parameter(name).grad
    assert once is not None
    close(gradient, 2 * once, rtol=1e-4, atol=1e-6)


def test_only_the_layers_behind_the_gate_are_trained_behind_it():
    model = attach(wrapped(models.resnet18(num_classes=3)), layer="layer3", bottleneck=3)
    behind = {id(parameter) for parameter in parameters_after_gate(model)}
    names = {name.split(".")[2] for name, value in model.network.named_parameters() if id(value) in behind}
    assert {name for name, _ in model.network.named_parameters() if "layer4" in name}
    assert names <= {part for part, _ in model.get_submodule("network.body.layer4").named_children()}
    assert len(behind) == len(list(model.get_submodule("network.body.layer4").parameters()))


class Bypassed(nn.Module):
    """A network in which a way leads past `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(3, 4, 8, stride=8), nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        return self.fc((features + self.middle(features)).mean((2, 3)))


class Branching(Bypassed):
    """A network whose steps depend on its values, which a trace cannot follow."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.middle(self.first(images))
        return self.fc(features.mean((2, 3)) if features.mean() > 0 else features.amax((2, 3)))


@pytest.mark.parametrize(("kind", "words"), [(Bypassed, "a way leads past layer middle"), (Branching, "be followed")])
def test_a_network_that_cannot_be_cut_is_refused(kind, words):
    torch.manual_seed(0)
    model = attach(wrapped(kind()), layer="middle", bottleneck=3)
    with pytest.raises(InputError, match=words):
        after_gate(model)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": {"open_at_start": 1.0}}, "open_at_start"),
        ({"objective": {"capacity": 0.5}}, "prices what passes the noise"),
        ({"training": {"cache_features": True}}, "cache_features keeps what frozen layers"),
        ({"training": {"trainable": "tail"}}, "needs model.pretrained"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Recipe.model_validate(given)
