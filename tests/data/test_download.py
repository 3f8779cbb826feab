import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data.drawn import BIRDS, write_cub, write_voc
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.datasets import voc

from ibviz.data import download
from ibviz.data.config import DataConfig
from ibviz.data.download import fetch_file, fetched, unpack_archive
from ibviz.data.sources import load_images
from ibviz.errors import InputError


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it, and prints
        pass


class Ranged(Quiet):
    """Sends the rest of a file where a part is asked for, and hangs up after `CUT` bytes of any answer."""

    cut, sent = 10**9, 0

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        first = int(self.headers.get("Range", "bytes=0-")[6:-1])
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        piece = content[first:][: self.cut]
        Ranged.sent += len(piece)
        self.wfile.write(piece)


@pytest.fixture
def site(tmp_path, request) -> Iterator[tuple[Path, str]]:
    """A folder, and the address under which a server of this machine offers it."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = getattr(request, "param", Quiet)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def packed(source: Path, archive: Path) -> str:
    """Pack the contents of `source`; the MD5 of the archive."""
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as tar:
        for one in sorted(source.iterdir()):
            tar.add(one, one.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def cub(split: str, root: Path):
    settings = DataConfig(source="cub", validation_share=0.34)
    return load_images(settings, split, root)  # pyright: ignore[reportArgumentType]


def test_cub_is_downloaded_once_checked_and_unpacked(tmp_path, site, monkeypatch):
    folder, address = site
    write_cub(tmp_path / "made")
    md5 = packed(tmp_path / "made", folder / "CUB_200_2011.tgz")
    monkeypatch.setitem(download.ARCHIVES, "cub", (f"{address}/CUB_200_2011.tgz", md5))
    root = tmp_path / "root"
    assert cub("test", root).names == ("002.White_Bird/d.jpg",)
    (folder / "CUB_200_2011.tgz").unlink()  # so that a second download would fail
    assert len(cub("train", root).names) == 2
    assert sorted(one.name for one in root.iterdir()) == ["cub"]
    assert not list(root.rglob("*.tgz"))
    assert len(list((root / "cub" / "CUB_200_2011" / "images").rglob("*.jpg"))) == len(BIRDS)


def test_an_archive_that_arrives_damaged_is_never_taken_for_whole(tmp_path, site, monkeypatch):
    folder, address = site
    write_cub(tmp_path / "made")
    archive = folder / "CUB_200_2011.tgz"
    md5 = packed(tmp_path / "made", archive)
    monkeypatch.setitem(download.ARCHIVES, "cub", (f"{address}/CUB_200_2011.tgz", md5))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(InputError, match=r"CUB-200-2011 is not under .*root and its download failed: .*corrupted"):
            cub("test", tmp_path / "root")
        assert not (tmp_path / "root" / "cub").exists()
    archive.write_bytes(whole)
    assert len(cub("test", tmp_path / "root").names) == 1


@pytest.mark.parametrize(("site", "resumed"), [(Ranged, True), (Quiet, False)], indirect=["site"])
def test_a_download_that_was_cut_off_goes_on_where_the_server_can(tmp_path, site, resumed, monkeypatch):
    folder, address = site
    content = np.random.default_rng(0).bytes(2_500_000)  # more than two pieces
    (folder / "birds.tgz").write_bytes(content)
    file, wanted = tmp_path / "root" / "birds.tgz", (f"{address}/birds.tgz", hashlib.md5(content).hexdigest())
    if resumed:
        monkeypatch.setattr(Ranged, "sent", 0)
        monkeypatch.setattr(Ranged, "cut", 1_100_000)
        with pytest.raises(OSError, match=r"birds.tgz was cut off after 1100000 of 2500000 bytes"):
            fetch_file(*wanted, file)
        assert [one.name for one in file.parent.iterdir()] == [".birds.tgz.part"]
        monkeypatch.setattr(Ranged, "cut", 2_000_000)
    else:
        file.parent.mkdir()
        file.with_name(".birds.tgz.part").write_bytes(content[:1000])
    fetch_file(*wanted, file)
    assert file.read_bytes() == content
    assert [one.name for one in file.parent.iterdir()] == ["birds.tgz"]
    (folder / "birds.tgz").unlink()
    fetch_file(*wanted, file)  # is there
    if resumed:
        assert Ranged.sent == len(content)
        file.rename(file.with_name(".birds.tgz.part"))
        (folder / "birds.tgz").write_bytes(content[:-1])  # now another file, of which nothing is left to be sent
        for message in ("birds.tgz is corrupted", "was cut off"):
            with pytest.raises(OSError, match=message):
                fetch_file(wanted[0], "0", file)


def test_without_a_connection_the_error_says_where_it_looked_and_what_else_works(tmp_path, site, monkeypatch):
    monkeypatch.setitem(download.ARCHIVES, "cub", (f"{site[1]}/missing.tgz", "0"))
    message = (
        "not under .*root and its download failed: HTTP Error 404.*put CUB_200_2011/ with .*source parquet or folder"
    )
    with pytest.raises(InputError, match=message):
        cub("test", tmp_path / "root")


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_voc_comes_whole_from_the_archives_of_its_year(tmp_path, site, monkeypatch, year):
    """The test archive of 2007 is missing at first: nothing is taken for whole, and the other is not fetched again."""
    folder, address = site
    parts = {
        "2007": {"2007": ["train", "val", "trainval"], "2007-test": ["test"]},
        "2012": {"2012": ["train", "val", "trainval"]},
    }[year]
    archives = {}
    for key, lists in parts.items():
        made = tmp_path / "made" / key
        write_voc(made / "VOCdevkit" / f"VOC{year}", {name: ["one", "two"] for name in lists})
        md5 = packed(made, folder / f"{key}.tar")
        entry = voc.DATASET_YEAR_DICT[key] | {"url": f"{address}/{key}.tar", "filename": f"{key}.tar", "md5": md5}
        monkeypatch.setitem(voc.DATASET_YEAR_DICT, key, entry)
        archives[key] = (folder / f"{key}.tar").read_bytes()
    settings, root = DataConfig.model_validate({"source": f"voc{year}"}), tmp_path / "root"
    if year == "2007":
        (folder / "2007-test.tar").unlink()
        with pytest.raises(InputError, match=r"Pascal VOC 2007 is not under .*root and its download failed"):
            load_images(settings, "train", root)
        assert [one.name for one in root.iterdir()] == [".voc2007.part"]
        (folder / "2007-test.tar").write_bytes(archives["2007-test"])
        (folder / "2007.tar").unlink()
    assert load_images(settings, "test", root).names == ("one.jpg", "two.jpg")
    assert [one.name for one in root.iterdir()] == [f"voc{year}"]
    assert not list(root.rglob("*.tar"))


def coloured(count: int, side: int) -> np.ndarray:
    """Images n x h x w x 3 of noise."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_svhn_is_downloaded_and_its_ten_means_zero(tmp_path, site, monkeypatch):
    folder, address = site
    pixels = coloured(5, 32)
    savemat(folder / "t.mat", {"X": pixels.transpose(1, 2, 3, 0), "y": np.array([[1], [10], [9], [10], [2]])})
    md5 = hashlib.md5((folder / "t.mat").read_bytes()).hexdigest()
    monkeypatch.setitem(datasets.SVHN.split_list, "test", [f"{address}/t.mat", "test_32x32.mat", md5])
    test = load_images(DataConfig(source="svhn"), "test", tmp_path / "root")
    assert test.images.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert (test.labels.tolist(), test.class_names) == ([1, 0, 9, 0, 2], tuple("0123456789"))
    (tmp_path / "root" / "test_32x32.mat").write_bytes(b"cut off")
    (folder / "t.mat").unlink()
    with pytest.raises(InputError, match=r"svhn is not under .*root and its download failed: .*404"):
        load_images(DataConfig(source="svhn"), "test", tmp_path / "root")


def test_stl10_is_downloaded_and_its_columns_become_rows(tmp_path, site, monkeypatch):
    folder, address = site
    made, pixels = tmp_path / "made" / "stl10_binary", coloured(4, 96)
    made.mkdir(parents=True)
    for split in ("train", "test"):
        (made / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (made / f"{split}_y.bin").write_bytes(bytes([1, 10, 3, 2]))
    (made / "unlabeled_X.bin").touch()
    (made / "class_names.txt").write_text("\n".join("abcdefghij"))
    monkeypatch.setattr(datasets.STL10, "tgz_md5", packed(made.parent, folder / "stl10_binary.tar.gz"))
    monkeypatch.setattr(datasets.STL10, "url", f"{address}/stl10_binary.tar.gz")
    for name in ("train_list", "test_list"):
        files = [made / file for file, _ in getattr(datasets.STL10, name)]
        sums = [[file.name, hashlib.md5(file.read_bytes()).hexdigest()] for file in files]
        monkeypatch.setattr(datasets.STL10, name, sums)
    test = load_images(DataConfig(source="stl10"), "test", tmp_path / "root")
    assert test.images.equal(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert (test.labels.tolist(), test.class_names) == ([0, 9, 2, 1], tuple("abcdefghij"))
    assert len(load_images(DataConfig(source="stl10"), "train", tmp_path / "root").labels) == 3  # one held out


def png(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(out, "PNG")
    return out.getvalue()


class Hub:
    """What the Hub's client does, on a dictionary: repository files by revision; `arriving` of them are written."""

    def __init__(self, files: dict[str, list[str]], arriving: int = 99) -> None:
        self.files, self.arriving, self.asked = files, arriving, []

    def list_repo_files(self, repository: str, *, repo_type: str, revision: str) -> list[str]:
        assert repo_type == "dataset"
        self.asked.append((repository, revision))
        return self.files[revision]

    def snapshot_download(
        self, repository: str, *, repo_type: str, revision: str, allow_patterns: list[str], local_dir: Path
    ) -> str:
        assert (repository, repo_type) == ("owner/pets", "dataset")
        for file in allow_patterns[: self.arriving]:
            assert file in self.files[revision]
            images = pa.array([{"bytes": png(one), "path": f"{one}.png"} for one in range(4)])
            (local_dir / file).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"image": images, "label": [0, 1, 0, 1]}), local_dir / file)
        (local_dir / ".cache").mkdir(exist_ok=True)
        return str(local_dir)


@pytest.fixture
def hub(monkeypatch):
    def install(files: dict[str, list[str]], arriving: int = 99) -> Hub:
        stub = Hub(files, arriving)
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: stub)
        monkeypatch.setattr("huggingface_hub.snapshot_download", stub.snapshot_download)
        return stub

    return install


def pets(root: Path, repository: str = "owner/pets", split: str = "test"):
    settings = DataConfig(source="hub", repository=repository)
    return load_images(settings, split, root)  # pyright: ignore[reportArgumentType]


OWN = ["README.md", "data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "small/test.parquet"]


def test_a_hub_data_set_is_fetched_once_by_its_name(tmp_path, hub):
    stub = hub({"main": OWN[:3]})
    assert pets(tmp_path).names == ("0.png", "1.png", "2.png", "3.png")
    assert len(pets(tmp_path, split="train").labels) == 3  # one held out
    assert stub.asked == [("owner/pets", "main")]
    files = [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*")) if file.is_file()]
    assert files == [f"owner--pets/{name}" for name in sorted(OWN[1:3])]


def test_a_folder_of_a_hub_data_set_is_fetched_alone(tmp_path, hub):
    hub({"main": OWN})
    assert len(pets(tmp_path, "owner/pets/small").labels) == 4
    assert [file.name for file in tmp_path.rglob("*.parquet")] == ["test.parquet"]


def test_a_set_without_parquet_comes_from_the_branch_of_converted_files(tmp_path, hub):
    stub = hub({"main": ["pets.zip"], "refs/convert/parquet": ["default/test/0000.parquet"]})
    assert len(pets(tmp_path).labels) == 4
    assert [revision for _, revision in stub.asked] == ["main", "refs/convert/parquet"]
    hub({"main": [], "refs/convert/parquet": []})
    with pytest.raises(InputError, match="owner/other on the Hub has no Parquet files"):
        pets(tmp_path, "owner/other")


def test_a_hub_download_cut_off_is_never_taken_for_whole(tmp_path, hub):
    """Without a connection the client returns a folder that holds a part as if it were all."""
    hub({"main": OWN[:3]}, arriving=1)
    with pytest.raises(
        InputError, match=r"owner/pets of the Hugging Face Hub is not under .*1 of 2 files have not arrived"
    ):
        pets(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [".owner--pets.part"]
    hub({"main": OWN[:3]})
    assert len(pets(tmp_path).labels) == 4


def test_the_hubs_own_error_is_passed_on_when_offline(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"owner/pets of the Hugging Face Hub is not under .*download failed: .*offline"
    ):
        pets(tmp_path)
    assert not (tmp_path / "owner--pets").exists()


@pytest.mark.parametrize("repository", [None, "pets", "owner/../pets", "owner/pets/", "/pets", "owner/pets/.."])
def test_a_repository_that_is_no_name_is_refused(tmp_path, repository):
    with pytest.raises(InputError, match="source hub needs repository = OWNER/NAME or OWNER/NAME/FOLDER; got"):
        load_images(DataConfig(source="hub", repository=repository), "test", tmp_path)


def test_what_is_there_is_not_fetched(tmp_path):
    def never(_: Path) -> None:
        raise AssertionError

    assert fetched(tmp_path, never) == tmp_path


def leading_out(canary: Path) -> dict[str, tarfile.TarInfo]:
    """Members of an archive that would lie, or lead, outside of its folder."""
    up, absolute, link, hard = (tarfile.TarInfo(name) for name in ("../canary", str(canary), "out", "out"))
    link.type, link.linkname = tarfile.SYMTYPE, str(canary.parent)
    hard.type, hard.linkname = tarfile.LNKTYPE, "../canary"
    pipe = tarfile.TarInfo("pipe")
    pipe.type = tarfile.FIFOTYPE
    return {"above": up, "at the root": absolute, "a link": link, "a hard link": hard, "a pipe": pipe}


@pytest.mark.parametrize("kind", ["above", "at the root", "a link", "a hard link", "a pipe"])
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(tmp_path, kind):
    canary, folder = tmp_path / "canary", tmp_path / "in"
    canary.write_text("alive")
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.addfile(leading_out(canary)[kind], io.BytesIO(b""))
    with suppress(InputError):  # a path at the root is made one inside the folder
        unpack_archive(folder / "a.tar")
    assert canary.read_text() == "alive"
    assert not any(path.is_symlink() or path.is_fifo() for path in folder.rglob("*"))


def test_an_archive_that_is_none_is_one_clear_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"cannot unpack .*a\.tar"):
        unpack_archive(tmp_path / "a.tar")


def test_a_second_download_waits_for_the_first_and_takes_what_it_brought(tmp_path, capsys):
    begun, may_end, fetches = threading.Event(), threading.Event(), []

    def fetch(beside: Path) -> None:
        fetches.append(beside)
        begun.set()
        assert may_end.wait(60)
        (beside / "cat.txt").write_text("whole")

    def bring() -> None:
        assert (fetched(tmp_path / "pets", fetch) / "cat.txt").read_text() == "whole"

    both = [threading.Thread(target=bring) for _ in range(2)]
    both[0].start()
    assert begun.wait(60)
    both[1].start()
    said = ""
    while both[1].is_alive() and "waits for it" not in said:
        said += capsys.readouterr().err
    may_end.set()
    for each in both:
        each.join(60)
    assert f"another process downloads {tmp_path / 'pets'}; this one waits for it" in said
    assert len(fetches) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_failed_download_gives_the_turn_to_the_next(tmp_path):
    def fail(beside: Path) -> None:
        raise OSError("no connection")

    with pytest.raises(OSError, match="no connection"):
        fetched(tmp_path / "pets", fail)
    assert [path.name for path in tmp_path.iterdir()] == [".pets.part"]
    assert fetched(tmp_path / "pets", lambda beside: None).is_dir()
