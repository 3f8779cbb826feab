"""Training steps and forward passes, eager and compiled by a named backend, without the tests' type checks.

Prints the losses of each of four steps and how many graphs were compiled before it ended, then the logits.
"""

import json
import sys
from functools import partial, partialmethod
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from torch._dynamo.utils import counters

from ibviz.benchmark.compiled import compiled as compiled_forward
from ibviz.models.config import InputConfig
from ibviz.models.loading import load
from ibviz.training import loop
from ibviz.training.distributed import batch_shards
from ibviz.training.loaders import DeviceLoader
from ibviz.training.recipe import Recipe
from ibviz.training.run import start


def main(backend: str) -> None:
    nn.Module.compile = partialmethod(nn.Module.compile, backend=backend)  # pyright: ignore[reportAttributeAccessIssue]
    spec = InputConfig(size=16, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), class_names=("a", "b", "c"))
    pixels = torch.randint(256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    resident, held = DeviceLoader(pixels, torch.arange(8) % 3), batch_shards(8, process=0, processes=1, passes=1)
    for compiled in (False, True):
        recipe = Recipe.model_validate({"model": {"latent": 8}, "training": {"compile": compiled, "lr": 0.01}})
        run = start(recipe, Path(), spec, Accelerator(cpu=True))
        run.objective.train()
        losses, graphs = [], []
        for seed in range(4):
            one_pass = partial(loop._pass, run, inputs=resident.inputs, price=torch.zeros(()), seed=seed)
            losses.append(loop._step(run, resident.batches([torch.arange(8)]), held, one_pass).tolist())
            graphs.append(counters["stats"]["unique_graphs"])
        print(json.dumps([losses, graphs]))
    model, images = load("digits"), torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    plain = torch.compile
    torch.compile = lambda network, *, dynamic, options: plain(network, backend=backend)  # options are inductor's
    with torch.inference_mode(), compiled_forward(model, images, 2) as forward:
        assert forward is not None
        print(json.dumps([model(images).tolist(), forward(images).tolist()]))


if __name__ == "__main__":
    main(sys.argv[1])
