import torch
from torch.nn import functional as F

from ibviz.training.augment import augment, draw_crops


def augmented_with(images: torch.Tensor, seed: int, *, padding: int, flip: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(images, draw_crops(len(images), generator, padding=padding, flip=flip), padding=padding)


def test_each_image_is_one_of_the_crops_of_its_padded_self_mirrored_or_not():
    images = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, (2,) * 4, mode="reflect")
    augmented = augmented_with(images, 1, padding=2, flip=True)
    crops = [padded[:, :, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    candidates = torch.stack(crops + [crop.flip(-1) for crop in crops])
    match = (candidates == augmented).flatten(2).all(2)
    assert match.any(0).all()
    assert match.any(1).sum() > 30  # of 50 candidates, 64 draws reach most


def test_the_same_generator_gives_the_same_batch():
    images = torch.rand(8, 3, 6, 6)
    first, second = (augmented_with(images, 3, padding=2, flip=True) for _ in range(2))
    assert torch.equal(first, second)


def test_without_padding_and_flip_nothing_changes():
    images = torch.rand(8, 3, 6, 6)
    assert torch.equal(augmented_with(images, 0, padding=0, flip=False), images)
