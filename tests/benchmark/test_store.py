"""Maps come back as they were, to the precision that is promised, and only those that were asked for."""

import numpy as np
import pytest
import torch
from networks import bottlenecked

from ibviz.attribution.methods import explain
from ibviz.benchmark.store import find_shard, pack, read_maps, read_shard, unpack, write_shard
from ibviz.errors import InputError
from ibviz.types import AttentionMap

MODEL, METHOD = "net/a", "Grad-CAM, last layer"
OF = {"model": MODEL, "method": METHOD}


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def plain(explanation: object) -> torch.Tensor:
    assert isinstance(explanation, torch.Tensor)
    return explanation


def test_quantised_attention_comes_back_exactly_with_its_levels(tmp_path):
    seen = explain(bottlenecked(), images(), "attention")
    assert isinstance(seen, AttentionMap)
    write_shard(tmp_path, pack(seen), start=0, of=OF)
    back = read_maps(tmp_path, MODEL, METHOD)
    assert isinstance(back, AttentionMap)
    for one, other in ((back.index, seen.index), (back.anchors, seen.anchors), (back.values(), seen.values())):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert back.deviation.isnan().all()


@pytest.mark.parametrize("scale", [1e-38, 1e-12, 1.0, 1e12, 1e38])
def test_continuous_maps_are_numpys_float16_up_to_a_power_of_two_whatever_their_scale(scale):
    """An oracle of another library: the same map at the scale of 1, rounded by NumPy."""
    drawn = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))
    scaled = drawn * scale
    power = 2.0 ** -np.floor(np.log2(scaled.abs().amax((1, 2), keepdim=True).double().numpy()))
    rounded = (scaled.double().numpy() * power).astype(np.float16).astype(np.float64) / power
    torch.testing.assert_close(plain(unpack(pack(scaled))).double(), torch.from_numpy(rounded), rtol=1e-7, atol=0)


def test_what_is_read_is_a_fixed_point(tmp_path):
    """Stored, read and stored again: the same bytes, so no number depends on how often a map was on disk."""
    drawn = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))
    path = write_shard(tmp_path, pack(drawn), start=0, of=OF)
    again = write_shard(tmp_path / "again", pack(read_maps(tmp_path, MODEL, METHOD)), start=0, of=OF)
    assert again.name == path.name
    assert again.read_bytes() == path.read_bytes()


def test_order_signs_and_zeros_survive_and_tiny_gradients_do_not_vanish():
    drawn = torch.tensor([[[-3e-9, 0.0, 1e-9, 4e-14]], [[0.0, 0.0, 0.0, 0.0]]])
    back = plain(unpack(pack(drawn)))
    assert torch.equal(back.sign(), drawn.sign())
    assert torch.equal(back.argsort(stable=True), drawn.argsort(stable=True))


def test_maps_that_are_one_and_the_same_are_kept_once():
    bell = torch.rand(48, 48).expand(64, -1, -1)
    shard = pack(bell)
    assert shard.tensors["maps"].shape == (1, 48, 48)
    assert plain(unpack(shard)).shape == (64, 48, 48)


def test_a_slice_reads_only_the_shards_that_hold_it(tmp_path):
    maps = torch.arange(7.0)[:, None, None].expand(-1, 2, 2)
    for start, stop in ((0, 3), (3, 6), (6, 7)):
        write_shard(tmp_path, pack(maps[start:stop]), start=start, of=OF)
    for some in (slice(None), slice(2, 5), slice(4), slice(1, 7, 2), slice(-2, None)):
        assert torch.equal(plain(read_maps(tmp_path, MODEL, METHOD, some)), maps[some])
    found = find_shard(tmp_path, MODEL, METHOD, 3)
    assert found is not None
    found.write_bytes(found.read_bytes()[:-1] + b"?")  # reading it would be an error
    assert torch.equal(plain(read_maps(tmp_path, MODEL, METHOD, slice(0, 3))), maps[:3])
    with pytest.raises(InputError, match="was changed"):
        read_maps(tmp_path, MODEL, METHOD, slice(0, 4))


def test_a_missing_map_is_nan_and_its_neighbours_are_whole(tmp_path):
    present = torch.tensor([True, False, True])
    seen = explain(bottlenecked(), images(), "attention")
    write_shard(tmp_path, pack(seen, present), start=0, of=OF)
    back = plain(read_maps(tmp_path, MODEL, METHOD))
    assert isinstance(seen, AttentionMap)
    assert torch.equal(back[present], seen.values()[present])
    assert back[1].isnan().all()


def test_a_shard_that_was_changed_is_refused(tmp_path):
    path = write_shard(tmp_path, pack(torch.rand(2, 3, 3)), start=0, of=OF)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match="was changed after it was written"):
        read_shard(path)


def test_maps_that_are_not_there_come_with_those_that_are(tmp_path):
    write_shard(tmp_path, pack(torch.rand(2, 3, 3)), start=0, of=OF)
    with pytest.raises(InputError, match=r"no maps of 'LIME' by 'net/a'.*there are: net/a: Grad-CAM, last layer"):
        read_maps(tmp_path, "net/a", "LIME")
    write_shard(tmp_path, pack(torch.rand(2, 3, 3)), start=0, of={"model": "..", "method": "."})
    assert plain(read_maps(tmp_path, "..", ".")).shape == (2, 3, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"maps"}
