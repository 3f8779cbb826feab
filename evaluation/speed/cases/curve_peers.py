"""Deletion and insertion by TorchCAM, Quantus, pytorch-grad-cam (ROAD), and RISE's loop as published."""

import importlib
import warnings
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.speed.cases.curves import STEPS, Scene
from evaluation.speed.networks import MEAN
from evaluation.speed.records import Run
from ibviz.benchmark.throughput import MEMORY_FORMATS, in_format


class Extractor:
    """Hands TorchCAM the maps that are there already."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps

    def __call__(self, *_: Any, **__: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


def torchcam(given: Scene, *, equal: bool) -> Run:
    """TorchCAM's metric at 32 steps, in contiguous batches of 32 or as we run the network."""
    metric_class = importlib.import_module("torchcam.metrics").DeletionInsertionMetric
    name, size = (given.pace.memory_format, given.pace.batch_size) if equal else ("contiguous", 32)
    images = given.model.normalize(given.images).contiguous(memory_format=MEMORY_FORMATS[name])
    network = given.model.network

    def run() -> None:
        extractor = Extractor(network, given.maps)
        metric = metric_class(extractor, lambda logits: logits.softmax(1), steps=STEPS, batch_size=size)
        with in_format(network, name):
            metric.update(images, given.classes.tolist())

    return run


def values_of(given: Scene) -> Tensor:
    """The maps, a value per pixel."""
    return nn.functional.interpolate(given.maps.unsqueeze(1), given.side)


def quantus(given: Scene) -> Run:
    """Deletion alone, of one curve."""
    metric_class = importlib.import_module("quantus").PixelFlipping
    metric = metric_class(features_in_step=given.side, disable_warnings=True)
    arrays = [part.cpu().numpy() for part in (given.images, given.classes, values_of(given))]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(given.model, *arrays, batch_size=64)

    return run


def rise(given: Scene) -> Run:
    """Both curves as the paper's code runs them: one image at a time, one state a forward pass."""

    @torch.inference_mode()
    def run() -> None:
        values = values_of(given).flatten(1).cpu().numpy()
        blank = torch.tensor(MEAN, device=given.images.device).view(1, 3, 1, 1)
        for image, value, target in zip(given.images.split(1), values, given.classes.tolist(), strict=True):
            order, empty = np.flip(np.argsort(value)).copy(), blank.expand_as(image)
            for start, finish in ((image, empty), (empty, image)):
                state = start.clone()
                for step in range(STEPS + 1):
                    given.model(state).softmax(1)[0, target].cpu()
                    wanted = order[len(order) // STEPS * step : len(order) // STEPS * (step + 1)]
                    state.flatten(2)[..., wanted] = finish.flatten(2)[..., wanted]

    return run


def road(given: Scene) -> Run:
    """Nine shares of each image imputed, most relevant first."""
    metric = importlib.import_module("pytorch_grad_cam.metrics.road").ROADMostRelevantFirstAverage()
    values = values_of(given).squeeze(1).cpu().numpy()
    targets = [lambda output, target=target: output[target] for target in given.classes.tolist()]

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric(given.images, values, targets, given.model)

    return run
