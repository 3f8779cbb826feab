import io
import os
import pickle
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.drawn import write_cub
from PIL import Image
from torch.utils.data import DataLoader

from ibviz.data import parquet
from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet
from ibviz.data.image_stream import ImageStream, input_statistics
from ibviz.data.sources import load_images, load_split
from ibviz.errors import InputError

COUNT = 300


def config(source: str, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"source": source, "image_size": 16, "stream": True} | changes)


def png(number: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module", params=["folder", "parquet"])
def stored(request, tmp_path_factory) -> tuple[str, Path]:
    """300 different images of two classes in a test split; rows in groups of 7 over two files."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "folder":
        for number in range(COUNT):
            folder = root / "test" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:03d}.png").write_bytes(png(number))
    else:
        for part in (range(100), range(100, COUNT)):
            images = pa.array([{"bytes": png(one), "path": f"{one:03d}.png"} for one in part])
            table = pa.table({"image": images, "label": [one % 2 for one in part]})
            pq.write_table(table, root / f"test-{part.start}.parquet", row_group_size=7)
    return request.param, root


def opened(stored: tuple[str, Path], **changes: object) -> tuple[ImageStream, ImageSet]:
    source, root = stored
    stream = load_split(config(source, **changes), "test", root)
    assert isinstance(stream, ImageStream)
    return stream, load_images(config(source, **changes), "test", root)


def test_rows_far_apart_in_one_row_group_are_read(stored, monkeypatch):
    monkeypatch.setattr("ibviz.data.parquet._ROWS_AT_ONCE", 2)  # groups of 7 rows: some batches have no wanted row
    stream, whole = opened(stored)
    rows = torch.tensor([0, 6])
    assert stream.read(rows)[0].equal(whole.images[rows])


@pytest.mark.parametrize("indices", [[0, 1, 2], [299, 5, 150, 99, 100], [7, 3, 7, 7], []])
def test_a_stream_reads_what_memory_holds_in_any_order(stored, indices):
    stream, whole = opened(stored, resize=18)
    rows = torch.tensor(indices, dtype=torch.int64)
    pixels, labels = stream.read(rows)
    assert pixels.equal(whole.images[rows])
    assert labels.equal(whole.labels[rows])
    assert (stream.names, stream.class_names, len(stream)) == (whole.names, whole.class_names, COUNT)
    assert stream.labels.equal(whole.labels)
    assert stream.faults == ()


def test_a_stream_takes_the_same_rows_for_each_split(stored):
    source, root = stored
    settings = config("folder", validation_share=0.2, limit=50)
    if source == "folder":
        for split, count in (("train", 50), ("validation", 54)):
            stream = load_split(settings, split, root / "test")  # pyright: ignore[reportArgumentType]
            whole = load_images(settings, split, root / "test")  # pyright: ignore[reportArgumentType]
            assert isinstance(stream, ImageStream)
            assert stream.names == whole.names
            assert len(stream) == count


def test_a_stream_crops_to_boxes_as_memory_does(tmp_path):
    write_cub(tmp_path)
    settings = config("cub", crop="box", resize=20, validation_share=0.3)
    stream, whole = load_split(settings, "train", tmp_path), load_images(settings, "train", tmp_path)
    assert isinstance(stream, ImageStream)
    assert stream.read(torch.arange(len(stream)))[0].equal(whole.images)


class Batches(torch.utils.data.Dataset):
    """As a training loop would wrap a stream: one item a batch."""

    def __init__(self, stream: ImageStream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream) // 50

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.stream.read(torch.arange(50 * index, 50 * index + 50))


def broken_folder(root: Path, count: int) -> list[str]:
    """300 images of which `count`, spread over the set, are cut in half."""
    (root / "test" / "a").mkdir(parents=True)
    bad = [f"{number:03d}.png" for number in range(0, COUNT, COUNT // count)][:count]
    for number in range(COUNT):
        name, content = f"{number:03d}.png", png(number)
        (root / "test" / "a" / name).write_bytes(content[: len(content) // 2] if name in bad else content)
    return [f"a/{name}" for name in bad]


def test_corrupt_images_met_by_workers_are_known_to_the_process_that_started_them(tmp_path):
    bad = broken_folder(tmp_path, 3)
    stream = load_split(config("folder"), "test", tmp_path)
    assert isinstance(stream, ImageStream)
    loader = DataLoader(Batches(stream), batch_size=None, num_workers=2)
    batches = list(loader)
    assert sum(len(pixels) for pixels, _ in batches) == sum(len(labels) for _, labels in batches) == COUNT - 3
    assert [fault.name for fault in stream.faults] == bad
    assert "cannot decode" in stream.faults[0].reason
    whole = load_images(config("folder"), "test", tmp_path)
    assert torch.cat([pixels for pixels, _ in batches]).equal(whole.images)
    assert whole.faults == stream.faults


def test_a_pickled_stream_marks_in_the_same_memory(tmp_path):
    """What a worker started by spawn receives."""
    broken_folder(tmp_path, 3)
    stream = load_split(config("folder"), "test", tmp_path)
    assert isinstance(stream, ImageStream)
    copy = pickle.loads(ForkingPickler.dumps(stream))
    copy.read(torch.arange(50))
    assert [fault.name for fault in stream.faults] == ["a/000.png"]


def test_more_than_one_in_a_hundred_stops_memory_and_stream(tmp_path):
    broken_folder(tmp_path, 4)
    message = (
        r"4 of 300 images cannot be read, more than 1%: cannot decode .*a/000\.png.*a/075\.png.*a/150\.png.*; \.\.\."
    )
    with pytest.raises(InputError, match=message):
        load_images(config("folder"), "test", tmp_path)
    stream = load_split(config("folder"), "test", tmp_path)
    assert isinstance(stream, ImageStream)
    assert len(stream.read(torch.arange(200))[0]) == 197  # three so far
    with pytest.raises(InputError, match=message):
        stream.read(torch.arange(200, COUNT))


def test_statistics_of_a_stream_are_exact_when_it_is_short_and_of_a_sample_by_seed_when_it_is_long(stored, monkeypatch):
    stream, whole = opened(stored)
    read, honest = [], pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *given, **more: read.extend(more["row_groups"]) or honest(*given, **more)
    )
    assert input_statistics(stream) == input_statistics(whole)
    assert len(read) in ([0] if stored[0] == "folder" else range(44, 49))  # once; twice where a batch ends in a group
    monkeypatch.setattr("ibviz.data.image_stream._STATISTICS_IMAGES", 100)
    few = torch.randperm(COUNT, generator=torch.Generator().manual_seed(5))[:100]
    expected = (whole.images[few].numpy() / 255).mean((0, 2, 3))
    mean, _ = input_statistics(stream, seed=5)
    torch.testing.assert_close(torch.tensor(mean), torch.tensor(expected).float(), atol=6e-5, rtol=0)
    assert mean != input_statistics(whole)[0]


def test_what_cannot_be_streamed_says_so(tmp_path):
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "0.png").write_bytes(png(0))
    with pytest.raises(InputError, match=r"need image_size under \[data\]"):
        load_split(config("folder", image_size=None), "test", tmp_path)
    with pytest.raises(InputError, match="digits are drawn into memory: leave stream out"):
        load_split(config("digits", image_size=None), "test", None)


MEMORY = """
import multiprocessing, os, sys, torch
from pathlib import Path
from ibviz.data.config import DataConfig
from ibviz.data.sources import load_split
from ibviz.training import loaders

def held_by(process):  # MiB, without pages of files (libraries), which the system takes and gives back as it likes
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024

def resident():  # of this process and of each worker
    workers = sorted(worker.pid for worker in multiprocessing.active_children())
    return torch.tensor([held_by(process) for process in (os.getpid(), *workers)])

loaders.worker_count = lambda: 2
config = DataConfig(source="folder", image_size=64, stream=True)
stream = load_split(config, "test", Path(sys.argv[1]))
loaded = loaders.make_loader(stream, torch.device("cpu")).batches(torch.randperm(len(stream)).split(64))
for _ in range(19):
    next(loaded)
seen = torch.stack([resident() for _ in loaded])  # batches on their way come and go: what stays is in the least
growth = seen[-20:].amin(0) - seen[:20].amin(0)
print(seen.shape[1], 19 + len(seen), growth.max().item())
begun = resident()
held = torch.ones(4000, 3, 64, 64, dtype=torch.uint8)
print((resident() - begun).item())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc")
def test_loading_5000_images_holds_a_constant_amount_of_memory(tmp_path):
    """5,000 take 59 MiB, of which 2,560 lie between first and last look. The gauge must see the 47 MiB of 4,000."""
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    encoded = []
    for number in range(25):
        out = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 16)).save(out, "JPEG")
        encoded.append(out.getvalue())
    for number in range(5000):
        (folder / f"{number:04d}.jpg").write_bytes(encoded[number % 25])
    command = [sys.executable, "-c", MEMORY, tmp_path]
    environment = os.environ | dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), "65536")
    environment |= {"MALLOC_ARENA_MAX": "1"}  # what is freed goes back: how a heap is cut up differs from run to run
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment
    )
    processes, batches, streamed, held = map(float, done.stdout.split())
    assert (processes, batches) == (3, 79)
    assert held > 40
    assert streamed < 4


def test_a_row_group_that_holds_fewer_rows_than_it_says_is_named(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": b"x"}] * 3}), tmp_path / "a.parquet")
    columns = parquet.Columns("image", "label", None, None)
    short = parquet.Group(tmp_path / "a.parquet", 0, 0, 5)
    with pytest.raises(InputError, match=r"a.parquet is damaged: its row group 0 says that it has 5 rows, and holds 3"):
        list(parquet._batches((short,), columns, [0, 4]))
