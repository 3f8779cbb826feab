"""Does a method tell a network that has learned from one that has memorised (Adebayo 2018)?

usage: python evaluation/random_labels.py OUT [images] [epochs]      networks and table in the folder OUT

Trains the embedded data's network twice on the same images: once with their labels, once with labels drawn at random,
and compares the maps of both on unseen images. The last epoch counts: with random labels no epoch is best.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ibviz.attribution.methods import explain, values
from ibviz.attribution.randomisation import SIMILARITIES, similarity
from ibviz.data.config import DataConfig
from ibviz.data.image_set import to_float
from ibviz.data.synthetic import digits
from ibviz.models.checkpoint import load_state, read_tensors
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import load
from ibviz.training.loop import train
from ibviz.training.recipe import Recipe, TrainingConfig

METHODS = ("attention_mean", "grad_cam", "integrated_gradients", "iba", "edges")
UNSEEN = 50


def write_folder(folder: Path, pixels: torch.Tensor, labels: list[int], names: tuple[str, ...]) -> None:
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        place = folder / "train" / names[label] / f"{number:05d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place)


def last_epoch(run: Path) -> IBClassifier:
    path, model = run / "checkpoint.safetensors", load(run)
    assert isinstance(model, IBClassifier)
    tensors, _ = read_tensors(path, "checkpoint")
    kept = {key.removeprefix("model."): one for key, one in tensors.items() if key.startswith("model.")}
    load_state(model, kept, path)
    return model


def main(out: str, images: str = "600", epochs: str = "100") -> None:
    folder, scenes = Path(out), digits("train", count=int(images), seed=0)
    true = scenes.labels.tolist()
    drawn = torch.randint(len(scenes.class_names), (len(true),), generator=torch.Generator().manual_seed(0)).tolist()
    models, accuracy = {}, {}
    for kind, labels in {"true": true, "random": drawn}.items():
        write_folder(folder / f"{kind}-images", scenes.images, labels, scenes.class_names)
        data = DataConfig(source="folder", image_size=scenes.images.shape[-1])
        training = TrainingConfig.model_validate(
            {"epochs": int(epochs), "schedule": {"kind": "halve", "every": max(1, int(epochs) // 4)}}
        )
        train(Recipe(data=data, training=training), folder / kind, root=folder / f"{kind}-images")
        models[kind] = last_epoch(folder / kind)
        with torch.no_grad():
            predicted = torch.cat([models[kind](to_float(part)) for part in scenes.images.split(256)])
        accuracy[kind] = (predicted.argmax(1) == torch.tensor(labels)).float().mean().item()
    facts = {"images": len(true), "epochs": int(epochs), "seed": 0, "unseen": UNSEEN, "torch": torch.__version__}
    found = compare(models)
    print(f"accuracy on the images trained on: {accuracy}\n{'method':24}", *(f"{name:>16}" for name in SIMILARITIES))
    for method, by in found.items():
        print(f"{method:24}", *(f"{np.nanmean(one):9.3f} ± {np.nanstd(one, ddof=1):4.2f}" for one in by.values()))
    (folder / "similarity.json").write_text(json.dumps(facts | {"accuracy": accuracy, "each": found}, indent=1) + "\n")


def compare(models: dict[str, IBClassifier]) -> dict[str, dict[str, list[float]]]:
    """Similarity of the maps of both networks for the true class, of every unseen image."""
    test = digits("test", count=UNSEEN, seed=0)
    unseen, found = to_float(test.images), {}
    for method in METHODS:
        maps = [values(explain(model, unseen, method, targets=test.labels)) for model in models.values()]
        by_measure = similarity(maps[0], maps[1], (unseen.shape[2], unseen.shape[3]))
        found[method] = {name: one.tolist() for name, one in by_measure.items()}
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
