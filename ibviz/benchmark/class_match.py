"""The classes of a data set matched to those of a model, so that labels count in the model's order."""

from collections.abc import Sequence

import torch

from ibviz.data.image_set import ImageSet
from ibviz.errors import InputError
from ibviz.models.loading import Classifier


def match_classes(images: ImageSet, model: Classifier) -> ImageSet:
    """Return the images with labels that count in the model's classes.

    Raises:
        InputError: The images have another size than the model takes, or classes that the model does not have.
    """
    theirs, ours = images.class_names, model.spec.class_names
    if images.images.shape[-2:] != model.spec.height_width:
        rows, columns = images.images.shape[-2:]
        raise InputError(
            f"the model takes images of {model.spec.size} pixels; the data has {rows}x{columns}: "
            f"set image_size = {model.spec.side} under [data]"
        )
    if same_classes(theirs, ours):
        return images
    missing = [name for name in theirs if name not in ours]
    if missing:
        raise InputError(
            f"{len(missing)} of the data's {len(theirs)} classes ({', '.join(missing[:3])}, ...) are none of the "
            f"model's ({', '.join(ours[:3])}, ...), which are {len(ours)}; they do not belong together"
        )
    numbers = torch.tensor([*(ours.index(name) for name in theirs), -1])  # the last entry is for the label -1
    return images._replace(labels=numbers[images.labels], class_names=ours)


def same_classes(theirs: Sequence[str], ours: Sequence[str]) -> bool:
    """Return True if two lists name the same classes in the same order, up to spelling.

    Lists of equal length are the same if the first has numbers for names, or if at least half of the names agree.

    >>> same_classes(["great_white_shark", "x"], ["great white shark", "y"]), same_classes(["0", "1"], ["cat", "dog"])
    (True, True)
    """
    if len(theirs) != len(ours):
        return False
    pairs = [(a.replace("_", " ").lower(), b.replace("_", " ").lower()) for a, b in zip(theirs, ours, strict=True)]
    numbered = list(theirs) == [str(number) for number in range(len(theirs))]
    return numbered or 2 * sum(a == b for a, b in pairs) >= len(pairs)
