"""Batches by row number: from a split that lies on the device, or read from disk by workers ahead of time."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ibviz.data.image_set import ImageSet
from ibviz.types import Labels, Pixels

Rows = Int[Tensor, " k"]
Batch = tuple[Tensor, Tensor]  # pixels, labels
MAX_WORKERS = 8
SAMPLE = 512  # images looked at where a split is too large to look at all


@runtime_checkable
class StreamedSet(Protocol):
    """A split that stays on disk; `read` leaves out images that are broken."""

    labels: Labels
    class_names: tuple[str, ...]
    names: Sequence[str]

    def __len__(self) -> int:
        """Images, broken ones included."""
        ...

    def read(self, indices: Rows) -> tuple[Pixels, Labels]:
        """Decode the images at `indices`."""
        ...


class Resident(NamedTuple):
    """A split on the device, as uint8."""

    images: Tensor
    labels: Tensor

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Pixels and labels of each part."""
        for rows in _on(self.images.device, parts):
            yield self.images[rows], self.labels[rows]


class Streamed(NamedTuple):
    """A split that workers decode ahead of the device; memory does not grow with its length."""

    images: StreamedSet
    labels: Tensor
    device: torch.device

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Pixels and labels of each part, as far as they can be read."""
        pinned = self.device.type == "cuda"
        loader = DataLoader(
            _Reads(self.images, parts),
            batch_size=None,
            num_workers=min(MAX_WORKERS, len(os.sched_getaffinity(0))),
            pin_memory=pinned,
            generator=torch.Generator(),  # else it would draw from torch's own
        )
        for pixels, labels in loader:
            yield pixels.to(self.device, non_blocking=pinned), labels.to(self.device, non_blocking=pinned)


class _Reads(Dataset[tuple[Tensor, Tensor]]):
    """Each item is a whole part, so that a worker reads it at once."""

    def __init__(self, images: StreamedSet, parts: Sequence[Tensor]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images.read(self.parts[number])


def _on(device: torch.device, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Parts on the device, moved at once: a copy for each step would wait for the device."""
    yield from torch.cat(list(parts)).to(device).split([len(rows) for rows in parts])


def supply(images: ImageSet | StreamedSet, device: torch.device) -> Resident | Streamed:
    """Put a split on the device, or stream it there batch by batch if it stays on disk."""
    if isinstance(images, ImageSet):
        return Resident(images.images.to(device), images.labels.to(device))
    return Streamed(images, images.labels, device)


def sample(images: ImageSet | StreamedSet) -> Pixels:
    """Pixels that speak for a split: all of one in memory, evenly spaced ones of one on disk."""
    if isinstance(images, ImageSet):
        return images.images
    count = len(images)
    return images.read(torch.linspace(0, count - 1, min(SAMPLE, count)).long())[0]
