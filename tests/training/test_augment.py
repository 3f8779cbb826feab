import torch
from torch.nn import functional as F  # noqa: N812

from ibviz.training.augment import augment


def test_each_image_is_one_of_the_crops_of_its_padded_self_mirrored_or_not():
    images = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    padded = F.pad(images, (2,) * 4, mode="reflect")
    augmented = augment(images, torch.Generator().manual_seed(1), padding=2, flip=True)
    crops = [padded[:, :, y : y + 6, x : x + 6] for y in range(5) for x in range(5)]
    candidates = torch.stack(crops + [crop.flip(-1) for crop in crops])
    match = (candidates == augmented).flatten(2).all(2)
    assert match.any(0).all()
    assert match.any(1).sum() > 30  # of 50 candidates, 64 draws reach most


def test_the_same_generator_gives_the_same_batch():
    images = torch.rand(8, 3, 6, 6)
    first, second = (augment(images, torch.Generator().manual_seed(3), padding=2, flip=True) for _ in range(2))
    assert torch.equal(first, second)


def test_without_padding_and_flip_nothing_changes():
    images = torch.rand(8, 3, 6, 6)
    assert torch.equal(augment(images, torch.Generator(), padding=0, flip=False), images)
