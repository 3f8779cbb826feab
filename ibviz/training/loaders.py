"""Loaders that yield a split in batches: from the device, or read from disk ahead of time by workers."""

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import NamedTuple

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ibviz.data.image_set import ImageSet, to_float
from ibviz.data.image_stream import ImageData, ImageStream
from ibviz.errors import InputError
from ibviz.training.augment import Crops, augment
from ibviz.types import Images, Pixels

TrainingBatch = tuple[Tensor, Tensor]  # pixels, labels
_MAX_WORKERS = 8


class DeviceLoader(NamedTuple):
    """Loader of a split that is on the device, as uint8."""

    images: Tensor
    labels: Tensor

    def batches(self, parts: Sequence[Tensor]) -> Iterator[TrainingBatch]:
        """Yield pixels and labels of each part."""
        for rows in _on_device(self.images.device, parts):
            yield self.images[rows], self.labels[rows]

    def inputs(self, pixels: Pixels, crops: Crops | None = None, *, padding: int = 0) -> Images:
        """Return the input of the network: images in [0, 1], cropped and mirrored by `crops` if given."""
        return _pictures(pixels, crops, padding)


class StreamLoader(NamedTuple):
    """Loader of a split on disk, decoded ahead of time by workers; memory does not grow with its length."""

    images: ImageStream
    labels: Tensor
    device: torch.device

    def batches(self, parts: Sequence[Tensor]) -> Iterator[TrainingBatch]:
        """Yield pixels and labels of each part; unreadable images are left out."""
        pinned = self.device.type == "cuda"
        loader = DataLoader(
            _Parts(self.images, parts),
            batch_size=None,
            num_workers=worker_count(),
            multiprocessing_context=_context(),
            pin_memory=pinned,
            generator=torch.Generator(),  # otherwise it would draw from torch's global generator
        )
        try:
            for pixels, labels in loader:
                yield pixels.to(self.device, non_blocking=pinned), labels.to(self.device, non_blocking=pinned)
        except InputError:
            self.images.check()  # raises the error without the worker's traceback
            raise

    def inputs(self, pixels: Pixels, crops: Crops | None = None, *, padding: int = 0) -> Images:
        """Return the input of the network: images in [0, 1], cropped and mirrored by `crops` if given."""
        return _pictures(pixels, crops, padding)


def _pictures(pixels: Pixels, crops: Crops | None, padding: int) -> Images:
    images = to_float(pixels) if crops is None else augment(to_float(pixels), crops, padding=padding)
    return images.contiguous(memory_format=torch.channels_last)


class _Parts(Dataset[tuple[Tensor, Tensor]]):
    """Data set whose items are whole parts, so that a worker reads a part at once."""

    def __init__(self, images: ImageStream, parts: Sequence[Tensor]) -> None:
        self.images, self.parts = images, parts

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        return self.images.read(self.parts[number])


def _context() -> BaseContext | None:
    """Context in which workers start: from a server beside the threads of a process group, else the platform's own.

    Before Python 3.12 a forked worker waits for ever if a thread of the group, which runs outside of Python, holds the
    lock of the interpreter's list of threads at that moment.
    """
    grouped = dist.is_available() and dist.is_initialized()
    if not grouped or "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # imported once for all workers, if no server runs yet
    return context


def worker_count() -> int:
    """Number of reading workers: this process's part of the cores, which all processes of torchrun share."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # not on macOS
    return min(_MAX_WORKERS, max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def synchronise_faults(images: ImageData, accelerator: Accelerator) -> None:
    """Share between processes which images are corrupt; more than 1 % raises an error in all of them."""
    if isinstance(images, ImageStream) and accelerator.num_processes > 1:
        broken = accelerator.reduce(images.broken.to(accelerator.device, torch.int32), "sum")
        assert isinstance(broken, Tensor)
        images.broken |= broken.bool().cpu()
        images.check()


def _on_device(device: torch.device, parts: Sequence[Tensor]) -> Iterator[Tensor]:
    """Move the indices of all parts to the device at once; one copy per step would wait for the device each time."""
    yield from torch.cat(list(parts)).to(device).split([len(rows) for rows in parts])


def make_loader(images: ImageData, device: torch.device) -> DeviceLoader | StreamLoader:
    """Return a loader: on the device for a split in memory, streamed for a split on disk."""
    if isinstance(images, ImageSet):
        return DeviceLoader(images.images.to(device), images.labels.to(device))
    return StreamLoader(images, images.labels, device)
