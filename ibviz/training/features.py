"""Features of a frozen stem, computed once and stored on disk, to train on instead of images."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from ibviz.data.image_set import ImageSet, to_float
from ibviz.data.image_stream import ImageData
from ibviz.errors import InputError
from ibviz.files import remove_abandoned, replacing
from ibviz.models.after_gate import after_gate, below_gate, network_layer
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.progress import progress
from ibviz.training.augment import Crops
from ibviz.training.loaders import DeviceLoader, StreamLoader, TrainingBatch

_CHUNK_SIZE = 64  # images that pass the stem at once


class FeatureLoader(NamedTuple):
    """Loader of a split's features: the outputs of a layer in a memory-mapped float16 file."""

    outputs: np.memmap  # (images, views, ...); the views are the image and, if the recipe flips, its mirror image
    labels: Tensor
    device: torch.device

    def batches(self, parts: Sequence[Tensor]) -> Iterator[TrainingBatch]:
        """Yield the outputs and labels of each part."""
        for rows in parts:
            outputs = torch.from_numpy(self.outputs[rows.cpu().numpy()])
            yield outputs.to(self.device), self.labels[rows.to(self.labels.device)]

    def inputs(self, outputs: Tensor, crops: Crops | None = None, *, padding: int = 0) -> Tensor:
        """Return the input of the layers after the gate: for each image the view given by `crops`."""
        del padding  # a recipe with stored features has no padding
        views = outputs[:, 0]
        if crops is not None and outputs.shape[1] == 2:
            views = torch.where(crops.mirrored.view(-1, *[1] * (views.ndim - 1)), outputs[:, 1], views)
        views = views.float()
        return views.contiguous(memory_format=torch.channels_last) if views.ndim == 4 else views


Loader = DeviceLoader | StreamLoader | FeatureLoader  # yields a split in batches


def cached_features(
    model: IBClassifier,
    images: ImageData,
    loader: DeviceLoader | StreamLoader,
    path: Path,
    *,
    flip: bool,
    accelerator: Accelerator,
) -> FeatureLoader:
    """Read the outputs of the gated layer for a split from `path`, or compute them and write them there.

    A JSON file next to it records network, input and data. Nothing is overwritten.

    Args:
        model: Classifier with the gated layer.
        images: The split, by which the data is identified.
        loader: Loader of the same split.
        path: File name, ending in `.npy`.
        flip: Also store the mirror image of each image.
        accelerator: Its main process computes; the others wait.

    Returns:
        A loader of the features.

    Raises:
        InputError: The file holds features of another network, layer, input or data set.
    """
    key = _key(model, images, flip=flip)
    note = path.with_suffix(".json")
    with accelerator.main_process_first():
        if not note.exists():
            _compute(model, loader, path, flip=flip)
            with replacing(note) as beside:
                beside.write_text(json.dumps(key, indent=1, sort_keys=True))
    held = _read(note)
    wrong = [name for name in key if held.get(name) != key[name]]
    if wrong:
        raise InputError(
            f"{path} holds features of another {', '.join(wrong)}: expected {key[wrong[0]]}, got "
            f"{held.get(wrong[0])}; give another folder with --features"
        )
    return FeatureLoader(np.load(path, mmap_mode="r"), loader.labels, accelerator.device)


def _read(note: Path) -> dict[str, Any]:
    try:
        held = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {note}: {error}; give another folder with --features") from error
    return held if isinstance(held, dict) else {}


def _key(model: IBClassifier, images: ImageData, *, flip: bool) -> dict[str, Any]:
    """Return the facts that identify features: network with the weights before its gate, layer, input, data, views."""
    weights = hashlib.sha256()
    behind = {id(value) for value in after_gate(model).network.state_dict(keep_vars=True).values()}  # may be trained
    for name, value in model.network.state_dict(keep_vars=True).items():
        if id(value) not in behind:
            weights.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    data = hashlib.sha256(str((images.names, images.labels.tolist())).encode())
    if isinstance(images, ImageSet):
        data.update(images.images.numpy().tobytes())
    spec = model.spec
    return {
        "network": f"{model.config.backbone} {weights.hexdigest()[:16]}",
        "layer": network_layer(model),
        "input": f"{spec.size} px, mean {spec.mean}, deviation {spec.std}",
        "data": f"{len(images.labels)} images {data.hexdigest()[:16]}",
        "mirrored": flip,
    }


@torch.inference_mode()
def _compute(model: IBClassifier, loader: DeviceLoader | StreamLoader, path: Path, *, flip: bool) -> None:
    count, written, outputs = len(loader.labels), 0, None
    remove_abandoned(path.parent)
    parts = torch.arange(count).split(_CHUNK_SIZE)
    with replacing(path) as beside, evaluating(model):
        for pixels, _ in progress(loader.batches(parts), f"features, {path.stem}", total=len(parts)):
            views = [below_gate(model, view) for view in _views(pixels, flip=flip)]
            block = torch.stack(views, dim=1).half().cpu()
            if not block.isfinite().all():
                raise InputError(
                    f"features of {network_layer(model)} are beyond the range of float16: leave cache_features out"
                )
            if outputs is None:
                outputs = np.lib.format.open_memmap(beside, "w+", np.float16, (count, *block.shape[1:]))
            outputs[written : written + len(block)] = block.numpy()
            written += len(block)
        if written < count:
            raise InputError(
                f"{count - written} images could not be read; take them out of the data, or leave cache_features out"
            )
        assert outputs is not None
        outputs.flush()


def _views(pixels: Tensor, *, flip: bool) -> list[Tensor]:
    images = to_float(pixels).contiguous(memory_format=torch.channels_last)
    return [images, images.flip(3)] if flip else [images]
