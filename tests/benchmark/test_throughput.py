import pytest
import torch
from torch import nn

from ibviz.benchmark import throughput
from ibviz.benchmark.throughput import MEMORY_FORMATS, Pace, at_best_pace, fastest, in_format
from ibviz.metrics import CurveProtocol


class Counted(nn.Module):
    """Counts its passes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.passes = 0

    def forward(self, images):
        self.passes += 1
        return self.conv(images).mean((2, 3))


CPU = torch.device("cpu")


def test_the_least_time_an_image_wins(monkeypatch):
    times = {(4, True): 0.4, (16, True): 0.8, (64, True): 6.4, (4, False): 0.2, (16, False): 0.6, (64, False): 6.4}
    monkeypatch.setattr(throughput, "LONGEST_TRIAL", 9.0)
    monkeypatch.setattr(throughput, "_seconds", lambda _, images, __: times[len(images), images.is_contiguous()])
    assert fastest(Counted(), (8, 8), CPU) == Pace(16, "channels_last", 0.6 / 16)
    monkeypatch.setattr(throughput, "LONGEST_TRIAL", 0.3)  # no larger batch after one that took long
    assert fastest(Counted(), (8, 8), CPU) == Pace(16, "channels_last", 0.6 / 16)
    times[16, False] = 8.0
    assert fastest(Counted(), (8, 8), CPU) == Pace(4, "channels_last", 0.2 / 4)


def test_what_is_set_up_in_a_first_pass_is_not_timed(monkeypatch):
    """With a clock that the network moves: its first pass of a size takes long, as where kernels are chosen."""
    clock, met = [0.0], set()

    class Slow(Counted):
        def forward(self, images):
            clock[0] += 0.001 * len(images) + 9 * (len(images) not in met)
            met.add(len(images))
            return super().forward(images)

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    assert fastest(Slow().eval(), (8, 8), CPU).seconds == pytest.approx(0.001)
    assert met == {4, 16, 64}


def test_it_is_tried_once_for_each_size():
    network = Counted().eval()
    first = fastest(network, (8, 8), CPU)
    tried = network.passes
    assert fastest(network, (8, 8), CPU) == first
    assert network.passes == tried
    fastest(network, (8, 10), CPU)
    assert network.passes > tried


def test_the_network_is_left_as_it_was():
    for name, wanted in MEMORY_FORMATS.items():
        network = Counted().eval().to(memory_format=wanted)
        with torch.inference_mode():
            fastest(network, (8, 8), CPU)
        weight = network.conv.weight
        assert weight.is_contiguous(memory_format=wanted), name
        assert weight.grad is None
        assert not weight.is_inference()
        network(torch.rand(1, 3, 8, 8)).sum().backward()  # weights made in inference mode could not be trained


def test_a_format_lasts_as_long_as_its_block_also_after_an_error():
    network = Counted()
    try:
        with in_format(network, "channels_last"):
            assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
            raise RuntimeError
    except RuntimeError:
        assert network.conv.weight.is_contiguous()


def test_a_batch_size_of_the_protocol_is_kept():
    network, images = Counted().eval(), torch.rand(2, 3, 8, 8)
    fixed = CurveProtocol(colour=(0, 0, 0), batch_size=7)
    with at_best_pace(network, images, fixed) as (same, protocol):
        assert same is images
        assert protocol == fixed
    assert network.passes == 0
    with at_best_pace(network, images, CurveProtocol(colour=(0, 0, 0))) as (_, protocol):
        assert protocol.batch_size == fastest(network, (8, 8), CPU).batch_size
