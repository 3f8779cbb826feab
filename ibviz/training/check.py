"""What cannot be trained, said before any work is done."""

from collections.abc import Sequence

import torch

from ibviz.config import InputConfig, Recipe
from ibviz.data.streaming import Images, ImageStream
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier


def check_images(recipe: Recipe, splits: Sequence[Images]) -> None:
    """Refuse images or labels that the recipe cannot be trained on."""
    width = side(splits[0])
    unlabelled = sum(int((split.labels < 0).sum()) for split in splits)
    if unlabelled:
        raise InputError(f"{unlabelled} training or validation images have no label (-1); leave them out of the data")
    config, count = recipe.training, len(splits[0].labels)
    if config.crop_padding >= width:
        raise InputError(f"training.crop_padding must be below the image's {width} pixels; got {config.crop_padding}")
    if min(config.batch_size, count) < 2 * config.accumulate:
        raise InputError(
            f"a batch needs two images a pass; got {count} images in batches of {config.batch_size},"
            f" training.accumulate {config.accumulate}"
        )


def side(images: Images) -> int:
    """Pixels a side of the images, which must be square."""
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
            model.eval()(torch.zeros(1, 3, spec.size, spec.size))
    except RuntimeError as error:
        raise InputError(
            f"backbone {recipe.model.backbone} cannot take images of {spec.size} pixels; set another image_size"
        ) from error
