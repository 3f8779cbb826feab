"""Streamed sets whose images are known, some of them broken."""

from collections.abc import Iterator
from functools import partial

import torch
from PIL import Image

from ibviz.data.image_set import ImageSet
from ibviz.data.image_stream import ImageStream
from ibviz.data.listing import Listing, Part, Sample
from ibviz.data.objects import View
from ibviz.errors import InputError


def on_disk(images: ImageSet, broken: tuple[int, ...] = (), *, size: int = 48) -> ImageStream:
    """A streamed set made of one in memory, some of whose images are broken."""

    def opened(row: int) -> Image.Image:
        if row in broken:
            raise InputError(f"{images.names[row]} is broken")
        return Image.fromarray(images.images[row].permute(1, 2, 0).numpy())

    def samples(rows: torch.Tensor) -> Iterator[Sample]:
        return (Sample(partial(opened, row)) for row in rows.tolist())

    listing = Listing(images.labels, images.class_names, images.names, samples)
    return ImageStream(Part(listing, torch.arange(len(images.labels))), View(size))
