"""Images of a file, a folder or Parquet files as a model sees them, and what its centre crop leaves out."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from warnings import warn

import torch
from PIL import Image

from ibviz.data.config import DataConfig
from ibviz.data.decode import read_image
from ibviz.data.folder import IMAGE_SUFFIXES, image_files
from ibviz.data.image_set import ImageSet, skipped
from ibviz.data.listing import Listing, Part, Sample, decoded, writable
from ibviz.data.listing import load_part as decode
from ibviz.data.objects import View
from ibviz.data.sources import find_part, view_of
from ibviz.digests import digest_files
from ibviz.errors import InputError
from ibviz.models.config import InputConfig
from ibviz.models.loading import Classifier
from ibviz.types import Grid


class SourceImages(NamedTuple):
    """Images as a model sees them; for image files also their heights and widths, and their digests, by name."""

    images: ImageSet
    sizes: dict[str, Grid]
    digests: dict[str, str]


def read_source(source: Path, model: Classifier, limit: int | None) -> SourceImages:
    """Read the images at `source`, resized to the model's input, with labels and objects if Parquet files hold them.

    Images of a folder that cannot be read are left out, listed in a warning and in `faults`.
    """
    spec = model.spec
    folder = os.path.isdir(source)
    paths = image_files(source) if folder else [source]
    if not paths and list(source.rglob("*.parquet")):
        config = DataConfig(source="parquet", image_size=spec.side, resize=spec.resize)
        part = find_part(config, "test", source)
        return SourceImages(decode(part._replace(rows=part.rows[:limit]), view_of(config)), {}, {})
    if not paths:
        raise InputError(f"{source} holds no images ({', '.join(IMAGE_SUFFIXES)}) and no Parquet files")
    paths = paths[:limit]
    sizes: dict[str, Grid] = {}
    given = decoded(_files(paths, sizes), View(spec.side, spec.resize), show=folder)
    if not given.names:
        first, *others = given.faults
        raise InputError(first.reason + f"; {len(others)} others cannot be read either" * bool(others))
    if given.faults:
        warn(skipped(given.faults), UserWarning, stacklevel=2)
    digests = {writable(path.name): digest_files(path.parent, [path.name])[path.name] for path in paths}
    return SourceImages(given, sizes, {name: digests[name] for name in given.names})


def _files(paths: Sequence[Path], sizes: dict[str, Grid]) -> Part:
    """Return image files without labels as a split that is not decoded yet; decoding fills in their sizes."""
    names = tuple(writable(path.name) for path in paths)

    def read(row: int) -> Image.Image:
        image = read_image(paths[row])
        sizes[names[row]] = (image.height, image.width)
        return image

    listing = Listing(
        torch.full((len(paths),), -1), (), names, lambda rows: (Sample(partial(read, row)) for row in rows.tolist())
    )
    return Part(listing, torch.arange(len(paths)))


def cropped_share(size: Grid, spec: InputConfig) -> float:
    """Return the share of an image of `size` that resizing and centre crop leave out.

    >>> square = InputConfig(size=8, mean=(0.5,), std=(0.5,), class_names=("a", "b"))
    >>> cropped_share((10, 20), square), cropped_share((10, 10), square)
    (0.5, 0.0)
    """
    crop, (height, width) = spec.height_width, size
    scale = (spec.resize or min(crop)) / min(crop) * max(crop[0] / height, crop[1] / width)
    kept = min(1.0, crop[0] / (scale * height)) * min(1.0, crop[1] / (scale * width))
    return 1 - kept


def crop_note(names: Sequence[str], sizes: dict[str, Grid], spec: InputConfig) -> str:
    """Return a sentence on what the centre crop leaves out of some images; nothing if it leaves out nothing.

    >>> square = InputConfig(size=8, mean=(0.5,), std=(0.5,), class_names=("a", "b"))
    >>> crop_note(["a.png"], {"a.png": (10, 20)}, square)
    'The network does not see 50\xa0% of the picture, outside the centre crop.'
    """
    most = max((cropped_share(sizes[name], spec) for name in names if name in sizes), default=0.0)
    if round(most, 2) == 0:
        return ""
    share = f"{'up to ' if len(names) > 1 else ''}{most:.0%}".replace("%", "\u00a0%")
    return f"The network does not see {share} of {'a' if len(names) > 1 else 'the'} picture, outside the centre crop."
