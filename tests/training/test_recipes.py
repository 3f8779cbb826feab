"""Recipes in `evaluation/`: their networks take their images; those that need a GPU train on a few here."""

from pathlib import Path

import pytest
import torch

from ibviz.data.image_set import ImageSet
from ibviz.models.checkpoint import load_model
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig
from ibviz.settings import read_toml
from ibviz.training import loop
from ibviz.training.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "evaluation/recipes"
CLASSES = {"cifar100": 100, "cub": 200, "tiny_imagenet": 200}
GRIDS = {"vgg32": 2, "wrn28_10": 2, "vgg16": 16, "wrn50_2": 16, "digits": 4, "torchvision/resnet18": 8}  # pixels a cell


def side(recipe: Recipe) -> int:
    return recipe.data.image_size or 48


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_network_of_every_recipe_takes_its_images(path):
    recipe = read_toml(path, Recipe)
    names = tuple(map(str, range(CLASSES.get(recipe.data.source, 10))))
    spec = InputConfig(size=side(recipe), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=names)
    if recipe.model.backbone.startswith("torchvision/"):  # looks for its layer with real numbers
        model = IBClassifier(recipe.model, spec)
    else:
        with torch.device("meta"):
            model = IBClassifier(recipe.model, spec)
    device = next(model.parameters()).device
    seen = model.eval().inspect(torch.zeros(1, 3, *spec.height_width, device=device))
    cells = spec.side // GRIDS[recipe.model.backbone]
    assert seen.attention.mean.shape == (1, cells, cells)
    assert seen.logits.shape == (1, len(names))


@pytest.mark.parametrize(
    "name",
    ["cifar10_vgg32", "cifar10_vgg32_continuous", "cifar10_fast", "tiny_imagenet_vgg32", "tiny_imagenet_resnet18"],
)
def test_recipes_for_a_gpu_train_on_a_few_images(name, tmp_path, monkeypatch):
    recipe = read_toml(RECIPES / f"{name}.toml", Recipe)
    size = side(recipe)
    pixels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images = ImageSet(pixels, torch.arange(4) % 3, ("a", "b", "c"), tuple("wxyz"))
    monkeypatch.setattr(loop, "load_split", lambda *_: images)
    short: dict[str, object] = {"epochs": 1, "batch_size": 4, "warmup": (), "lr": 1e-3}
    if name.startswith("tiny_imagenet"):  # bfloat16, in which the others train, takes minutes without AVX-512
        short["precision"] = "no"
    [row] = loop.train(
        recipe.model_copy(update={"training": recipe.training.model_copy(update=short)}),
        tmp_path,
        report=lambda _: None,
    )
    assert row["train_total_nats"] > 0
    model = load_model(tmp_path / "model.safetensors")
    assert model.facts["validation"]["accuracy"] == row["validation_accuracy"]
    assert (model.quantizer is None) == (row["validation_anchors_used"] == 0)
