"""Downloads that are complete or absent, with one clear error if they fail."""

import math
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ibviz.errors import InputError
from ibviz.files import in_turn
from ibviz.progress import progress, tell
from ibviz.reading import parsing

_PIECE = 10**6  # bytes read at a time
_TIMEOUT = 60  # seconds without a byte
CONVERTED = "refs/convert/parquet"  # branch on which the Hub converts every data set to Parquet
ARCHIVES = {  # address and MD5, as published
    "cub": (
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
    ),
}


@contextmanager
def failed(name: str, root: Path, expected: str) -> Iterator[None]:
    """Turn any error of a download into one `InputError` that names the folder, the reason and the alternatives."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the Hub's client raises what the HTTP library of its version raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{name} is not under {root} and its download failed: {reason}; try again, put {expected} there,"
            " or use the source parquet or folder"
        ) from error


def fetched(place: Path, fetch: Callable[[Path], None]) -> Path:
    """Return the folder `place`, after filling it by `fetch` if it does not exist.

    `fetch` writes to a hidden folder beside it, which is renamed to `place` once the download is complete. After a
    failure the hidden folder stays, so that the next attempt keeps the complete archives. A second process waits for
    the first.

    >>> import tempfile
    >>> place = fetched(Path(tempfile.mkdtemp()) / "pets", lambda beside: (beside / "cat.txt").touch())
    >>> [file.name for file in place.iterdir()]
    ['cat.txt']
    """
    if place.is_dir():
        return place
    with _alone(place):
        if not place.is_dir():  # nor has it come while this process waited
            beside = place.with_name(f".{place.name}.part")
            _refuse_link(beside)
            beside.mkdir(parents=True, exist_ok=True)
            fetch(beside)
            beside.replace(place)
    return place


def _alone(place: Path) -> AbstractContextManager[None]:
    """Let one process at a time download what will lie at `place`."""
    lock = place.with_name(f".{place.name}.lock")
    return in_turn(lock, lambda: tell(f"another process downloads {place}; this one waits for it"))


def _refuse_link(beside: Path) -> None:
    if beside.is_symlink():
        raise InputError(f"{beside} is a link, and a download would be written to where it leads; remove it")


def fetch_file(address: str, md5: str, path: Path) -> None:
    """Download a file unless it exists with this MD5; after a failure the next attempt resumes.

    The download goes to a hidden file beside, which is renamed to `path` once it is complete and has this MD5. If the
    server does not support ranges, the download starts again.
    """
    from torchvision.datasets.utils import check_integrity

    if check_integrity(str(path), md5):
        return
    with _alone(path):
        if not check_integrity(str(path), md5):
            _fetch_alone(address, md5, path)


def _fetch_alone(address: str, md5: str, path: Path) -> None:
    from torchvision.datasets.utils import check_integrity

    beside = path.with_name(f".{path.name}.part")
    _refuse_link(beside)
    beside.parent.mkdir(parents=True, exist_ok=True)
    if not check_integrity(str(beside), md5):
        _receive(address, beside)
    if not check_integrity(str(beside), md5):
        beside.unlink()
        raise OSError(f"what came from {address} is corrupted: its MD5 is not {md5}")
    beside.replace(path)


def _receive(address: str, path: Path) -> None:
    """Download the rest of the file at `address` that `path` does not hold yet."""
    held = path.stat().st_size if path.exists() else 0
    request = Request(address, headers={"User-Agent": "ibviz"} | ({"Range": f"bytes={held}-"} if held else {}))
    try:
        answer = urlopen(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # the file is complete; its MD5 is checked by the caller
        raise
    with answer:
        rest = int(answer.headers.get("Content-Length", 0))
        with path.open("ab" if answer.status == HTTPStatus.PARTIAL_CONTENT else "wb") as file:
            before = file.tell()
            pieces = iter(partial(answer.read, _PIECE), b"")
            for piece in progress(pieces, f"{address.rpartition('/')[2]}, MB", total=math.ceil(rest / _PIECE)):
                file.write(piece)
            if file.tell() < before + rest:
                raise OSError(f"{address} was cut off after {file.tell()} of {before + rest} bytes")


def fetch_archive(name: str, beside: Path) -> None:
    """Download an archive of `ARCHIVES`, check its MD5 and unpack it."""
    address, md5 = ARCHIVES[name]
    _fetch_and_unpack([(address, md5, beside / address.rpartition("/")[2])])


def fetch_voc(year: str, beside: Path) -> None:
    """Download the archives of Pascal VOC that torchvision knows: training and validation, and the test of 2007."""
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    entries = [DATASET_YEAR_DICT[key] for key in [year, *(["2007-test"] if year == "2007" else [])]]
    _fetch_and_unpack([(entry["url"], entry["md5"], beside / entry["filename"]) for entry in entries])


def _fetch_and_unpack(archives: list[tuple[str, str, Path]]) -> None:
    """Download archives, each given by address, MD5 and path, unpack them, and delete them once all are unpacked."""
    for archive in archives:
        fetch_file(*archive)
    for _, _, path in archives:
        unpack_archive(path)
    for _, _, path in archives:
        path.unlink()


def unpack_archive(archive: Path) -> None:
    """Unpack a tar archive into its folder; entries outside of it and special files are an `InputError`."""
    with parsing(f"cannot unpack {archive}", "remove it and try again"), tarfile.open(archive) as opened:
        opened.extractall(archive.parent, filter="data")


def fetch_parquet(repository: str, beside: Path) -> None:
    """Download the Parquet files of a data set on the Hugging Face Hub, OWNER/NAME or OWNER/NAME/FOLDER.

    A data set without Parquet files of its own is taken from the branch on which the Hub converts it.
    """
    from huggingface_hub import HfApi, snapshot_download

    owner, name, *folder = repository.split("/", 2)
    prefix = f"{folder[0]}/" if folder else ""
    for revision in ("main", CONVERTED):
        stored = HfApi().list_repo_files(f"{owner}/{name}", repo_type="dataset", revision=revision)
        wanted = [file for file in stored if file.startswith(prefix) and file.endswith(".parquet")]
        if wanted:
            break
    else:
        raise InputError(f"{repository} on the Hub has no Parquet files{f' under {prefix}' if prefix else ''}")
    snapshot_download(
        f"{owner}/{name}", repo_type="dataset", revision=revision, allow_patterns=wanted, local_dir=beside
    )
    missing = [file for file in wanted if not (beside / file).is_file()]
    if missing:  # without a connection, the client returns the files it has without an error
        raise OSError(f"{len(missing)} of {len(wanted)} files have not arrived, {missing[0]} first; try again")
    shutil.rmtree(beside / ".cache", ignore_errors=True)
