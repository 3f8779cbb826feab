"""Batches by row number: from a split that lies on the device, or read from disk by workers ahead of time."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ibviz.data.image_set import ImageSet, to_float
from ibviz.data.streaming import Images, ImageStream
from ibviz.errors import InputError
from ibviz.training.augment import Crops, augment
from ibviz.types import Images as Pictures
from ibviz.types import Pixels

TrainingBatch = tuple[Tensor, Tensor]  # pixels, labels
_MAX_WORKERS = 8


class DeviceLoader(NamedTuple):
    """A split on the device, as uint8."""

    images: Tensor
    labels: Tensor

    def batches(self, parts: Sequence[Tensor]) -> Iterator[TrainingBatch]:
        """Pixels and labels of each part."""
        for rows in _on(self.images.device, parts):
            yield self.images[rows], self.labels[rows]

    def inputs(self, pixels: Pixels, crops: Crops | None = None, *, padding: int = 0) -> Pictures:
        """Return what the network takes: the images, cropped and mirrored as `crops` says."""
        return _pictures(pixels, crops, padding)


class StreamLoader(NamedTuple):
    """A split that workers decode ahead of the device; memory does not grow with its length."""

    images: ImageStream
    labels: Tensor
    device: torch.device

    def batches(self, parts: Sequence[Tensor]) -> Iterator[TrainingBatch]:
        """Pixels and labels of each part, as far as they can be read."""
        pinned = self.device.type == "cuda"
        loader = DataLoader(
            _Reads(self.images, parts),
            batch_size=None,
            num_workers=worker_count(),
            pin_memory=pinned,
            generator=torch.Generator(),  # else it would draw from torch's own
        )
        try:
            for pixels, labels in loader:
                yield pixels.to(self.device, non_blocking=pinned), labels.to(self.device, non_blocking=pinned)
        except InputError:
            self.images.check()  # says it without the worker's traceback
            raise

    def inputs(self, pixels: Pixels, crops: Crops | None = None, *, padding: int = 0) -> Pictures:
        """Return what the network takes: the images, cropped and mirrored as `crops` says."""
        return _pictures(pixels, crops, padding)


def _pictures(pixels: Pixels, crops: Crops | None, padding: int) -> Pictures:
    images = to_float(pixels) if crops is None else augment(to_float(pixels), crops, padding=padding)
    return images.contiguous(memory_format=torch.channels_last)


class _Reads(Dataset[tuple[Tensor, Tensor]]):
    """Each item is a whole part, so that a worker reads it at once."""

    def __init__(self, images: ImageStream, parts: Sequence[Tensor]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images.read(self.parts[number])


def worker_count() -> int:
    """Processes that read for this one: its part of the cores, which those that torchrun started on a machine share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # macOS has none
    return min(_MAX_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def synchronise_faults(images: Images, accelerator: Accelerator) -> None:
    """Tell every process which images any of them found corrupt; more than 1 % is an error in all of them alike."""
    if isinstance(images, ImageStream) and accelerator.num_processes > 1:
        met = accelerator.reduce(images.broken.to(accelerator.device, torch.int32), "sum")
        assert isinstance(met, Tensor)
        images.broken |= met.bool().cpu()
        images.check()


def _on(device: torch.device, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Parts on the device, moved at once: a copy for each step would wait for the device."""
    yield from torch.cat(list(parts)).to(device).split([len(rows) for rows in parts])


def make_loader(images: Images, device: torch.device) -> DeviceLoader | StreamLoader:
    """Put a split on the device, or stream it there batch by batch if it stays on disk."""
    if isinstance(images, ImageSet):
        return DeviceLoader(images.images.to(device), images.labels.to(device))
    return StreamLoader(images, images.labels, device)
