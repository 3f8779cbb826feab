"""Checks that data and network can be trained, before any work is done."""

from collections.abc import Sequence

import torch

from ibviz.data.image_stream import ImageData, ImageStream
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig
from ibviz.training.recipe import Recipe, TrainingConfig


def is_large_enough(images: int, config: TrainingConfig) -> bool:
    """Return True if a batch of this size can be trained on: batch norm needs two images per pass.

    >>> [is_large_enough(images, TrainingConfig(accumulate=2)) for images in (3, 4)]
    [False, True]
    """
    return images >= 2 * config.accumulate


def check_training_images(recipe: Recipe, splits: Sequence[ImageData], *, processes: int) -> None:
    """Refuse images or labels on which the recipe cannot be trained, or not with this number of processes."""
    width = image_side(splits[0])
    unlabelled = sum(int((split.labels < 0).sum()) for split in splits)
    if unlabelled:
        raise InputError(f"{unlabelled} training or validation images have no label (-1); leave them out of the data")
    config, count = recipe.training, len(splits[0].labels)
    if config.crop_padding >= width:
        raise InputError(f"training.crop_padding must be below the image's {width} pixels; got {config.crop_padding}")
    sizes = min(config.batch_size, count), count % config.batch_size  # of full batches, and of the last
    trained = [size for size in sizes if is_large_enough(size, config)]
    if not trained:
        raise InputError(
            f"a batch needs two images a pass; got {count} images in batches of {config.batch_size},"
            f" training.accumulate {config.accumulate}"
        )
    if min(trained) < (needed := processes * config.accumulate):
        raise InputError(
            f"{processes} processes need {needed} images a batch; of {count} images in batches of {config.batch_size}"
            f" one has {min(trained)}: start fewer processes or choose another batch_size"
        )


def image_side(images: ImageData) -> int:
    """Return the side of the images in pixels; they must be square."""
    if isinstance(images, ImageStream):
        return images.size
    height, width = images.images.shape[2:]
    if height != width:
        raise InputError(f"images must be square; got {height} x {width}: set image_size under [data]")
    return width


def check_network(recipe: Recipe, model: IBClassifier, spec: InputConfig) -> None:
    """Refuse an image size that the backbone cannot take; the model is left in eval mode."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, len(spec.mean), *spec.height_width))
    except RuntimeError as error:
        raise InputError(
            f"backbone {recipe.model.backbone} cannot take images of {spec.size} pixels; set another image_size"
        ) from error
