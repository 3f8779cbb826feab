"""A flipped bit anywhere in what a run wrote is named, or changes nothing."""

import random
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from benchmark.small import run_small, suite
from safetensors.torch import save_file

from ibviz import figures
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner import loop
from ibviz.benchmark.store import read_maps
from ibviz.errors import InputError
from ibviz.figures.sidecar import read_sidecar
from ibviz.files import locked, read_rows, write_rows
from ibviz.models.checkpoint import read_tensors, write_tensors
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe

CHEAP = suite("saliency", metrics=("sparseness",), native=False)


def flipped(content: bytes, tries: int, seed: int = 0) -> Iterator[bytes]:
    """The content with one random bit the other way round."""
    chance = random.Random(seed)
    for place in chance.sample(range(8 * len(content)), tries):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        yield bytes(changed)


def test_a_flipped_bit_in_weights_is_named(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.tensor(3), "half": torch.ones(3).bfloat16()}
    write_tensors(path, tensors, {"kind": "note", "of": [1, 2]})
    sound, header = read_tensors(path, "note")
    assert header == {"kind": "note", "of": [1, 2]}
    refused = 0
    for content in flipped(path.read_bytes(), 300):
        path.write_bytes(content)
        try:
            now, said = read_tensors(path, "note")
        except InputError:
            refused += 1
            continue
        assert now.keys() == sound.keys()
        assert all(torch.equal(now[name], sound[name]) for name in sound)
        assert {key: said.get(key) for key in header} == header
    assert refused > 250


def test_weights_without_a_digest_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"ibviz": '{"kind": "note"}'})
    assert read_tensors(tmp_path / "a.safetensors", "note")[0]["a"].tolist() == [1, 1]


def test_a_flipped_bit_in_rows_is_named(tmp_path):
    path = tmp_path / "log.parquet"
    write_rows(
        path, [{"epoch": 1, "loss": 0.5, "anchors": [0.1, 0.2]}, {"epoch": 2, "loss": float("nan"), "anchors": []}]
    )
    sound = repr(read_rows(path))
    for content in flipped(path.read_bytes(), 150):
        path.write_bytes(content)
        with suppress(InputError):
            assert repr(read_rows(path)) == sound


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("result")
    assert run_small(out, asked=CHEAP)
    return out


@pytest.mark.parametrize(
    "name", ["circumstances.json", "rows.parquet", "images.parquet", "predictions.parquet", "plan.json"]
)
def test_a_flipped_bit_in_a_result_is_named(result, tmp_path, name):
    shutil.copytree(result, tmp_path / "copy")
    before = read_results(result)
    for content in flipped((result / name).read_bytes(), 12):
        (tmp_path / "copy" / name).write_bytes(content)
        with suppress(InputError):
            now = read_results(tmp_path / "copy")
            assert now.circumstances == before.circumstances
            assert name == "circumstances.json"  # in which a blank may be another
    with pytest.raises(InputError, match=r"delete circumstances\.json there and resume|another folder"):
        run_small(tmp_path / "copy", asked=CHEAP, resume=True)


def test_a_damaged_part_and_a_damaged_map_are_computed_again(result, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "finish", lambda *_: None)
        run_small(tmp_path, asked=CHEAP)
    [shard, *_] = sorted((tmp_path / "maps").rglob("00000000-*.safetensors"))
    for path in (tmp_path / "parts/000000/rows.parquet", shard):
        path.write_bytes(next(flipped(path.read_bytes(), 1)))
    assert run_small(tmp_path, asked=CHEAP, resume=True)
    said = capsys.readouterr().err
    assert "parts/000000/rows.parquet has changed" in said
    assert shard.name in said
    assert (tmp_path / "rows.parquet").read_bytes() == (result / "rows.parquet").read_bytes()


@pytest.mark.parametrize("harm", ["flip", "remove"])
def test_a_part_whose_maps_are_damaged_or_gone_is_computed_again(result, tmp_path, monkeypatch, capsys, harm):
    with monkeypatch.context() as patched:
        patched.setattr(loop, "finish", lambda *_: None)
        run_small(tmp_path, asked=CHEAP)
    [shard] = sorted((tmp_path / "maps/quadrants/Saliency").glob("00000003-*.safetensors"))
    sound = shard.read_bytes()
    shard.unlink()
    if harm == "flip":
        shard.write_bytes(next(flipped(sound, 1)))
    assert run_small(tmp_path, asked=CHEAP, resume=True)
    assert "; done now" in capsys.readouterr().err
    assert shard.read_bytes() == sound
    assert (tmp_path / "rows.parquet").read_bytes() == (result / "rows.parquet").read_bytes()


def test_maps_of_a_result_do_not_move_up_where_a_file_of_them_is_gone(result, tmp_path):
    shutil.copytree(result, tmp_path / "copy")
    [shard] = sorted((tmp_path / "copy/maps/quadrants/Saliency").glob("00000003-*.safetensors"))
    shard.unlink()
    with pytest.raises(InputError, match=r"maps of 'Saliency' by 'quadrants' for 7 of its 10 images"):
        read_maps(tmp_path / "copy", "quadrants", "Saliency")


def test_a_damaged_checkpoint_is_named_and_training_goes_on_from_the_one_before(tmp_path, capsys):
    recipe = Recipe.model_validate({"data": {"limit": 32}, "model": {"latent": 4}, "training": {"epochs": 2}})
    train(recipe, tmp_path, report=lambda _: None)
    path = tmp_path / "checkpoint.safetensors"
    sound, model = path.read_bytes(), (tmp_path / "model.safetensors").read_bytes()
    damaged = bytearray(sound)
    damaged[-100] ^= 4
    path.write_bytes(bytes(damaged))
    train(recipe, tmp_path, resume=True, report=lambda _: None)
    assert "goes on from the one before, after epoch 1" in capsys.readouterr().err
    assert path.read_bytes() == sound
    assert (tmp_path / "model.safetensors").read_bytes() == model


def test_a_flipped_bit_in_a_sidecar_is_named(tmp_path):
    path = tmp_path / "a.json"
    figures.anchor_usage(torch.tensor([3, 1]), torch.tensor([0.1, 0.9])).save(tmp_path / "a.png", dpi=20)
    sound = read_sidecar(path)
    for content in flipped(path.read_bytes(), 100):
        path.write_bytes(content)
        with suppress(InputError):
            now = read_sidecar(path)
            assert {key: now.get(key) for key in sound} == sound


def test_a_folder_that_goes_away_is_an_error(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InputError, match="was removed or replaced while it was written to"), locked(folder):
        shutil.rmtree(folder)
