"""What cannot be trained, said before any work is done."""

from collections.abc import Sequence

import torch

from ibviz.config import InputConfig, Recipe
from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError
from ibviz.models.classifier import IBClassifier
from ibviz.training.supply import StreamedSet, sample


def check_images(recipe: Recipe, splits: Sequence[ImageSet | StreamedSet]) -> None:
    """Refuse images or labels that the recipe cannot be trained on."""
    height, width = sample(splits[0]).shape[2:]
    if height != width:
        raise InputError(f"images must be square; got {height} x {width}: set image_size under [data]")
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


def check_network(recipe: Recipe, model: IBClassifier, spec: InputConfig) -> None:
    """Refuse an image size that the backbone cannot take; the model is left in eval mode."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, spec.size, spec.size))
    except RuntimeError as error:
        raise InputError(
            f"backbone {recipe.model.backbone} cannot take images of {spec.size} pixels; set another image_size"
        ) from error
