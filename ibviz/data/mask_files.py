"""Masks of objects as images: one PNG per image beside a folder of images, or the bytes of one per object."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from ibviz.data.decode import decode, read_file
from ibviz.data.listing import Indices, Listing, Sample
from ibviz.data.objects import Box, Objects, annotate
from ibviz.errors import InputError
from ibviz.types import Masks

SUFFIX = "-masks"  # after the name of the folder of images
MASK_LAYOUT = f"ROOT{SUFFIX}/ with a PNG for each image of ROOT/ at the same place, such as ROOT{SUFFIX}/test/cat/1.png"


def mask_folder(root: Path) -> Path:
    """Return the folder of the masks of the images in `root`, which lies beside it.

    >>> mask_folder(Path("photos")).name
    'photos-masks'
    """
    whole = Path(os.path.abspath(root))
    return whole.with_name(whole.name + SUFFIX)


def with_masks(listing: Listing, folder: Path) -> Listing:
    """Return a listing of image files whose objects are the masks in `folder`; an image without one has no object.

    Raises:
        InputError: There is no mask for any image.
    """
    files = [(folder / name).with_suffix(".png") for name in listing.names]
    if not any(file.exists() for file in files):
        raise InputError(f"no mask such as {files[0]}; expected {MASK_LAYOUT}: put them there or leave masks out")
    labels = listing.labels.tolist()

    def samples(rows: Indices) -> Iterator[Sample]:
        for row, sample in zip(rows.tolist(), listing.samples(rows), strict=True):
            yield sample._replace(objects=partial(_object, files[row], labels[row]))

    return listing._replace(samples=samples)


def _object(file: Path, label: int, image: Image.Image) -> Objects:
    """Return the object of class `label` that a mask marks; none if there is no such file."""
    masks = read_masks([read_file(file)] if os.path.exists(file) else [], image, str(file))
    return annotate(image, extents(masks), [label] * len(masks), masks=masks)


def read_masks(encoded: Sequence[bytes], image: Image.Image, name: str) -> Masks:
    """Decode the masks of an image, one file per object: a pixel belongs to the object if it is not black.

    Raises `InputError` for a mask that is no image, or has another size than the image.
    """
    width, height = image.size
    masks = torch.zeros(len(encoded), height, width, dtype=torch.bool)
    for place, content in enumerate(encoded):
        mask = decode(content, name)
        if mask.size != image.size:
            raise InputError(
                f"{name}: a mask has {mask.width}x{mask.height} pixels, its image {width}x{height}; "
                "write it in the size of the stored image"
            )
        masks[place] = torch.from_numpy(np.asarray(mask).any(-1))
    return masks


def extents(masks: Bool[Tensor, "b h w"]) -> list[Box]:
    """Return the box around each mask; without area if a mask is empty.

    >>> mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    >>> mask[0, 1:3, 2:6] = True
    >>> extents(mask)
    [(2.0, 1.0, 6.0, 3.0)]
    """
    boxes: list[Box] = []
    for mask in masks:
        rows, columns = (mask.any(side).nonzero().flatten().tolist() or [0, -1] for side in (1, 0))
        boxes.append((float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)))
    return boxes
