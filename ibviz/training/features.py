"""Features of a frozen stem, computed once and kept on disk: what a training reads in the place of images."""

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
from ibviz.data.streaming import Images
from ibviz.errors import InputError
from ibviz.files import remove_abandoned, replacing
from ibviz.models.after_gate import after_gate, below_gate, network_layer
from ibviz.models.classifier import IBClassifier
from ibviz.models.hooks import evaluating
from ibviz.progress import progress
from ibviz.training.augment import Crops
from ibviz.training.supply import Batch, Resident, Streamed

CHUNK = 64  # images that pass the stem at once


class Stored(NamedTuple):
    """A split as the outputs of a layer, float16 in a file that the system keeps in memory as far as it fits."""

    outputs: np.memmap  # (images, views, ...): views are the image and, if the recipe flips, its mirror image
    labels: Tensor
    device: torch.device

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield the outputs and labels of each part."""
        for rows in parts:
            outputs = torch.from_numpy(self.outputs[rows.cpu().numpy()])
            yield outputs.to(self.device), self.labels[rows.to(self.labels.device)]

    def inputs(self, outputs: Tensor, crops: Crops | None = None, *, padding: int = 0) -> Tensor:
        """Return what the layers behind the gate take: for each image the view that `crops` asks for."""
        del padding  # the recipe has none
        views = outputs[:, 0]
        if crops is not None and outputs.shape[1] == 2:
            views = torch.where(crops.mirrored.view(-1, *[1] * (views.ndim - 1)), outputs[:, 1], views)
        views = views.float()
        return views.contiguous(memory_format=torch.channels_last) if views.ndim == 4 else views


Supply = Resident | Streamed | Stored  # what gives a split batch by batch


def stored_features(
    model: IBClassifier,
    images: Images,
    supplied: Resident | Streamed,
    path: Path,
    *,
    flip: bool,
    accelerator: Accelerator,
) -> Stored:
    """Read the outputs of the gated layer for a split from `path`, or compute them and write them there.

    Beside the file lies one that says of which network, input and images they are; another network, crop or data set is
    refused with an `InputError`, and nothing is overwritten.

    Args:
        model: Classifier in whose network the layer lies.
        images: The split, which tells the data.
        supplied: The same split, as training would read it.
        path: File, ending in `.npy`.
        flip: Keep the mirror image of each image as well.
        accelerator: Its main process computes; the others wait.
    """
    key = _key(model, images, flip=flip)
    note = path.with_suffix(".json")
    with accelerator.main_process_first():
        if not note.exists():
            _compute(model, supplied, path, flip=flip)
            with replacing(note) as beside:
                beside.write_text(json.dumps(key, indent=1, sort_keys=True))
    held = _read(note)
    wrong = [name for name in key if held.get(name) != key[name]]
    if wrong:
        raise InputError(
            f"{path} holds features of another {', '.join(wrong)}: expected {key[wrong[0]]}, got "
            f"{held.get(wrong[0])}; give another folder with --features"
        )
    return Stored(np.load(path, mmap_mode="r"), supplied.labels, accelerator.device)


def _read(note: Path) -> dict[str, Any]:
    try:
        held = json.loads(note.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {note}: {error}; give another folder with --features") from error
    return held if isinstance(held, dict) else {}


def _key(model: IBClassifier, images: Images, *, flip: bool) -> dict[str, Any]:
    """Tell features apart: network with the weights below its gate, layer, input, data, views."""
    weights = hashlib.sha256()
    behind = {id(value) for value in after_gate(model).network.state_dict(keep_vars=True).values()}  # these may train
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
def _compute(model: IBClassifier, supplied: Resident | Streamed, path: Path, *, flip: bool) -> None:
    count, written, outputs = len(supplied.labels), 0, None
    remove_abandoned(path.parent)
    parts = torch.arange(count).split(CHUNK)
    with replacing(path) as beside, evaluating(model):
        for pixels, _ in progress(supplied.batches(parts), f"features, {path.stem}", total=len(parts)):
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
