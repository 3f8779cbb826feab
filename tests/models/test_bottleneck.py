"""Prices of the bottleneck beside the divergences that torch knows, and its layer beside its formula."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from ibviz.models.bottleneck import GaussianBottleneck, bits, kl_exact, kl_official

close = torch.testing.assert_close


@pytest.fixture
def latents():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=generator), torch.rand(5, 4, generator=generator) * 2 + 0.1


def test_the_exact_price_is_the_divergence_from_the_standard_normal(latents):
    mean, deviation = latents
    close(kl_exact(mean, deviation), kl_divergence(Normal(mean, deviation), Normal(0.0, 1.0)).sum(-1))


def test_the_authors_price_takes_the_exponential_for_the_deviation(latents):
    mean, deviation = latents
    close(kl_official(mean, deviation), kl_divergence(Normal(mean, deviation.exp()), Normal(0.0, 1.0)).sum(-1))


def test_a_deviation_that_underflows_has_a_finite_price():
    assert kl_exact(torch.zeros(1, 1), torch.zeros(1, 1)).isfinite().all()


def test_a_coin_is_a_bit():
    assert bits(math.log(2)) == 1.0


def test_the_layer_gives_mean_and_shifted_softplus():
    bottleneck, features = GaussianBottleneck(3, 2), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    projected = features @ bottleneck.project.weight.T + bottleneck.project.bias
    mean, deviation = bottleneck(features)
    close(mean, projected[:, :2])
    close(deviation, F.softplus(projected[:, 2:] - 5))
