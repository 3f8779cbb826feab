"""Time an epoch on cached features against forward and backward passes alone of the layers that train.

usage: python evaluation/attention/pace.py DATA WEIGHTS [IMAGES]

DATA is a half of `halves.py`, WEIGHTS the safetensors file of `ibviz/mobilenet_v2_same`. Both are timed three times by
turns; an epoch also reads features, draws noise, steps the optimizer and looks at the losses.
"""

import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import Accelerator

from ibviz.data.sources import load_split
from ibviz.models.objective import Losses
from ibviz.settings import read_toml
from ibviz.training.loop import describe_input, train
from ibviz.training.recipe import Recipe
from ibviz.training.run import Run, start

RECIPE = Path(__file__).parent / "mobilenet.toml"
TURNS = 3


def main(data: Path, weights: Path, images: int) -> None:
    recipe = read_toml(RECIPE, Recipe)
    recipe = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update={"limit": images}),
            "training": recipe.training.model_copy(update={"epochs": 1}),
        }
    )
    with TemporaryDirectory() as folder:
        place = Path(folder)
        spec = describe_input(load_split(recipe.data, "train", data))
        run = start(recipe, place / "bare", spec, Accelerator(cpu=True), weights=weights)
        epochs, bare = [], []
        for turn in range(TURNS):
            shared: dict[str, Any] = {"root": data, "weights": weights, "features": place / "features"}
            [row] = train(recipe, place / str(turn), **shared, report=lambda _: None)
            epochs.append(row["seconds"])
            bare.append(passes(run, images))
    print(
        json.dumps(
            {
                "command": "python evaluation/attention/pace.py DATA WEIGHTS",
                "images": images,
                "seconds of an epoch": epochs,
                "seconds of forward and backward": bare,
                "ratio of medians": round(median(epochs) / median(bare), 3),
                "threads": torch.get_num_threads(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
                "torch": version("torch"),
                "python": platform.python_version(),
            },
            indent=1,
        )
    )


def passes(run: Run, images: int) -> float:
    """Seconds of forward and backward passes over as many random features, in the recipe's batches."""
    size, generator = run.recipe.training.batch_size, torch.Generator().manual_seed(0)
    features = torch.randn(size, 96, 8, 8, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(size) % len(run.model.spec.class_names)
    run.objective.train()
    run.model.network.eval()
    begun = time.perf_counter()
    for _ in range(images // size):
        losses = Losses(*run.objective(features, labels, torch.randn, torch.tensor(1.0)))
        losses.total.backward()
        run.optimizer.zero_grad()
    return round(time.perf_counter() - begun, 2)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) == 4 else 1920)
