"""A training step of VGG-32 with quantised attention beside a straightforward loop and beside its own limit.

Three loops train the same network on the same random images, a step each in turn:
  ours             the step of `ibviz train`: pixels on the device, crops and flips there, noise, objective, optimizer
  straightforward  DataLoader, transforms image by image, float32, the same objective, torch's SGD as it comes
  limit            forward and backward of the bare network on one float batch, cross-entropy alone, no optimizer
Ours and the limit run in bfloat16, as the recipes, or in float32. `training/memory` takes a step of every recipe, each
in a process of its own.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from evaluation.speed.growth.child import in_child
from evaluation.speed.records import Case, Contestant, Row, Run, Settings
from evaluation.speed.timing import peak_memory, raced, words_of
from ibviz.data.image_set import to_float
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig
from ibviz.models.objective import Objective
from ibviz.settings import read_toml
from ibviz.training import loop
from ibviz.training.distributed import batch_shards
from ibviz.training.loaders import DeviceLoader
from ibviz.training.recipe import Recipe
from ibviz.training.run import start

RECIPES = Path(__file__).parents[2] / "recipes"
CLASSES = tuple("0123456789")
SIDE, BATCH, DIGITS_SIDE = 32, 32, 48


def spec_of(size: int) -> InputConfig:
    return InputConfig(size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=CLASSES)


def pixels_of(count: int, size: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def accelerator_on(device: torch.device) -> Accelerator:
    return Accelerator(cpu=device.type == "cpu")


def ours(recipe: Recipe, size: int, accelerator: Accelerator) -> Run:
    """One step of the loop itself."""
    run = start(recipe, Path(), spec_of(size), accelerator)
    run.objective.train()
    batch, passes = recipe.training.batch_size, recipe.training.accumulate
    labels = torch.arange(8 * batch) % len(CLASSES)
    resident = DeviceLoader(pixels_of(8 * batch, size).to(accelerator.device), labels.to(accelerator.device))
    held = batch_shards(batch, process=0, processes=1, passes=passes)

    def step() -> None:
        order = torch.randint(8 * batch, (batch,))
        batches = resident.batches([share.rows(order) for share in held])
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            one_pass = partial(loop._pass, run, inputs=resident.inputs, price=torch.tensor(1.0), seed=0)
            loop._step(run, batches, held, one_pass)

    return step


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, pixels: torch.Tensor) -> None:
        from torchvision import transforms

        self.pictures = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in pixels]
        crop = transforms.RandomCrop(pixels.shape[-1], padding=4, padding_mode="reflect")
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return cast(torch.Tensor, self.transform(self.pictures[index])), index % len(CLASSES)


def straightforward(recipe: Recipe, size: int, device: torch.device) -> Run:
    """One step of what one would write first."""
    config = recipe.training
    objective = Objective(IBClassifier(recipe.model, spec_of(size)), recipe.objective).to(device).train()
    optimizer = torch.optim.SGD(objective.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    loader = DataLoader(Pictures(pixels_of(8 * config.batch_size, size)), config.batch_size, shuffle=True)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()

    def step() -> None:
        images, labels = (part.to(device) for part in next(batches))
        optimizer.zero_grad()
        losses = objective(images, labels, lambda shape: torch.randn(shape, device=device))
        losses.total.backward()
        optimizer.step()

    return step


def limit(recipe: Recipe, size: int, device: torch.device) -> Run:
    """Nothing but the network on one batch."""
    model = IBClassifier(recipe.model, spec_of(size)).to(device).train().to(memory_format=torch.channels_last)
    images = to_float(pixels_of(recipe.training.batch_size, size)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = (torch.arange(len(images)) % len(CLASSES)).to(device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bf16"):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        model.zero_grad()

    return step


def compare(precision: str, case: Case, settings: Settings) -> list[Row]:
    device = settings.device
    given = {
        "data": {"source": "cifar10"},
        "model": {"backbone": "vgg32", "latent": 256},
        "training": {"batch_size": BATCH, "precision": precision, "flip": True, "lr": 1e-3},
    }
    recipe = Recipe.model_validate(given)
    contestants = [
        Contestant("ibviz train", "ours", ours(recipe, SIDE, accelerator_on(device)), BATCH),
        Contestant("straightforward loop, float32", "rival", straightforward(recipe, SIDE, device), BATCH),
        Contestant("bare network", "limit", limit(recipe, SIDE, device), BATCH),
    ]
    return raced(case, "vgg32", contestants, settings, unit="image")


def memory(case: Case, settings: Settings) -> list[Row]:
    """Peak of two training steps of every recipe: the optimizer's state comes with the first."""
    rows = []
    for path in sorted(RECIPES.glob("*.toml")):
        try:
            cost = in_child("training_step", recipe=str(path), device=settings.device.type)
            row = Row(case.name, path.stem, "ours", seconds=[cost.seconds], unit="process", memory=cost.memory)
        except RuntimeError as error:
            row = Row(case.name, path.stem, "ours", unit="process", note=words_of(error))
        rows.append(row)
    return rows


def training_step(recipe: str, device: str) -> float:
    """Two steps of a recipe with random weights, in a process of its own; returns the peak in MiB.

    On a CPU all of the process counts, on a GPU its tensors.
    """
    read = read_toml(Path(recipe), Recipe)
    read = read.model_copy(update={"model": read.model.model_copy(update={"pretrained": False})})
    step = ours(read, read.data.image_size or DIGITS_SIDE, accelerator_on(torch.device(device)))
    step()
    step()
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else peak_memory()


CASES = [
    Case("training/vgg32_bf16", partial(compare, "bf16")),
    Case("training/vgg32_float32", partial(compare, "no")),
    Case("training/memory", memory, by_name_only=True),
]
