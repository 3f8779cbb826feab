"""Downloads: whole or not there, and one clear error when they fail."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ibviz.errors import InputError

CONVERTED = "refs/convert/parquet"  # where the Hub keeps every data set as Parquet
ARCHIVES = {  # address and MD5, as published
    "cub": (
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
    ),
}


@contextmanager
def failed(name: str, root: Path, expected: str) -> Iterator[None]:
    """Turn what a download raises into one error that says where it looked and what else works."""
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
    """The folder `place`, filled by `fetch` first if it is not there.

    `fetch` works in a hidden folder beside, which becomes `place` only when all of it has arrived. After a failure it
    stays, so that the next try goes on with the archives that are whole.

    >>> import tempfile
    >>> place = fetched(Path(tempfile.mkdtemp()) / "pets", lambda beside: (beside / "cat.txt").touch())
    >>> [file.name for file in place.iterdir()]
    ['cat.txt']
    """
    if not place.is_dir():
        beside = place.with_name(f".{place.name}.part")
        beside.mkdir(parents=True, exist_ok=True)
        fetch(beside)
        beside.replace(place)
    return place


def fetch_archive(name: str, beside: Path) -> None:
    """Download an archive of `ARCHIVES`, check its sum, unpack it."""
    from torchvision.datasets.utils import download_and_extract_archive  # noqa: PLC0415 - slow to import

    address, md5 = ARCHIVES[name]
    download_and_extract_archive(address, beside, md5=md5, remove_finished=True)


def fetch_voc(year: str, beside: Path) -> None:
    """Download the archives of a year with torchvision: train and validation, and the test of 2007."""
    from torchvision.datasets import VOCDetection  # noqa: PLC0415 - slow to import

    for image_set in ["trainval", *(["test"] if year == "2007" else [])]:
        VOCDetection(beside, year=year, image_set=image_set, download=True)
    for archive in beside.glob("*.tar"):
        archive.unlink()


def fetch_parquet(repository: str, beside: Path) -> None:
    """Download the Parquet files of a data set on the Hugging Face Hub, OWNER/NAME or OWNER/NAME/FOLDER.

    A set whose own files are of another kind comes from the branch on which the Hub converts all of them.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415 - slow to import

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
    if missing:  # without a connection the client takes what is there for the whole
        raise OSError(f"{len(missing)} of {len(wanted)} files have not arrived, {missing[0]} first; try again")
    shutil.rmtree(beside / ".cache", ignore_errors=True)
