"""How fast a training step is beside a straightforward loop and beside its own limit; and how much memory it takes.

usage: python evaluation/speed/training.py [--network vgg32] [--batch 32] [--precision bf16] [--blocks 7] [--json FILE]
       python evaluation/speed/training.py --memory [--json FILE]

Three loops train the same network on the same random images, in turn, block by block:
  ours             the step of `ibviz train`: pixels on the device, crops and flips there, noise, objective, optimizer
  straightforward  DataLoader, transforms image by image, float32, the same objective, torch's SGD as it comes
  limit            forward and backward of the bare network on one float batch, cross-entropy alone, no optimizer
Ours and the limit run in the precision of the recipes, bf16, or in float32 with --precision no.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ibviz.data.image_set import to_float
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import InputConfig
from ibviz.models.objective import Objective
from ibviz.settings import read_toml
from ibviz.training import loop
from ibviz.training.distributed import batch_shards
from ibviz.training.loaders import DeviceLoader
from ibviz.training.recipe import Recipe
from ibviz.training.run import Run, start

RECIPES = Path(__file__).parents[1] / "recipes"
NETWORKS = {"vgg32": 32, "wrn28_10": 32, "digits": 48}
CLASSES = tuple("0123456789")
Block = Callable[[int], None]  # trains for a number of steps


def spec_of(size: int) -> InputConfig:
    return InputConfig(size=size, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), class_names=CLASSES)


def pixels_of(count: int, size: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def ours(recipe: Recipe, size: int, accelerator: Accelerator) -> Block:
    """Steps of the loop itself."""
    run: Run = start(recipe, Path(), spec_of(size), accelerator)
    run.objective.train()
    batch, passes = recipe.training.batch_size, recipe.training.accumulate
    labels = torch.arange(8 * batch) % len(CLASSES)
    resident = DeviceLoader(pixels_of(8 * batch, size).to(accelerator.device), labels.to(accelerator.device))
    held = batch_shards(batch, process=0, processes=1, passes=passes)

    def block(steps: int) -> None:
        order = torch.randint(8 * batch, (steps, batch))
        batches = resident.batches([share.rows(rows) for rows in order for share in held])
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            for step in range(steps):
                one_pass = partial(loop._pass, run, inputs=resident.inputs, price=torch.tensor(1.0), seed=step)
                loop._step(run, batches, held, one_pass)

    return block


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    def __init__(self, pixels: torch.Tensor) -> None:
        from torchvision import transforms

        self.pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
        crop = transforms.RandomCrop(pixels.shape[-1], padding=4, padding_mode="reflect")
        self.transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return cast(torch.Tensor, self.transform(self.pictures[index])), index % len(CLASSES)


def straightforward(recipe: Recipe, size: int, device: torch.device, workers: int) -> Block:
    """What one would write first."""
    config = recipe.training
    objective = Objective(IBClassifier(recipe.model, spec_of(size)), recipe.objective).to(device).train()
    optimizer = torch.optim.SGD(objective.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)
    data = Pictures(pixels_of(8 * config.batch_size, size))
    loader = DataLoader(data, config.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

    def forever() -> Iterator[Any]:
        while True:
            yield from loader

    batches = forever()

    def block(steps: int) -> None:
        for _ in range(steps):
            images, labels = (part.to(device) for part in next(batches))
            optimizer.zero_grad()
            losses = objective(images, labels, lambda shape: torch.randn(shape, device=device))
            losses.total.backward()
            optimizer.step()

    return block


def limit(recipe: Recipe, size: int, device: torch.device) -> Block:
    """Nothing but the network on one batch."""
    model = IBClassifier(recipe.model, spec_of(size)).to(device).train().to(memory_format=torch.channels_last)
    images = to_float(pixels_of(recipe.training.batch_size, size)).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = (torch.arange(len(images)) % len(CLASSES)).to(device)

    def block(steps: int) -> None:
        for _ in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.training.precision == "bf16"):
                loss = F.cross_entropy(model(images), labels)
            loss.backward()
            model.zero_grad()

    return block


def timed(block: Block, steps: int, device: torch.device) -> float:
    """Seconds a step."""
    begun = time.perf_counter()
    block(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begun) / steps


def race(arguments: argparse.Namespace) -> dict[str, Any]:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device, size, batch = accelerator.device, NETWORKS[arguments.network], arguments.batch
    training = {"batch_size": batch, "precision": arguments.precision, "flip": True, "lr": 1e-3}
    given = {
        "data": {"source": "cifar10"},
        "model": {"backbone": arguments.network, "latent": 256},
        "training": training | json.loads(arguments.set),
    }
    recipe = Recipe.model_validate(given)
    loops = {
        "ours": ours(recipe, size, accelerator),
        "straightforward": straightforward(recipe, size, device, arguments.workers),
        "limit": limit(recipe, size, device),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(arguments.blocks + 1):
        for name, block in loops.items():
            taken = timed(block, arguments.steps, device)
            if number:  # the first block warms up
                seconds[name].append(taken)
    speed = {name: spread([batch / one for one in taken]) for name, taken in seconds.items()}
    ratios = {
        f"ours / {name}": spread([other / own for own, other in zip(seconds["ours"], seconds[name], strict=True)])
        for name in ("straightforward", "limit")
    }
    return {"images a second": speed, "ratio, block by block": ratios, "batch": batch, "precision": arguments.precision}


def spread(values: list[float]) -> dict[str, float]:
    ranked = sorted(values)
    return {"median": statistics.median(ranked), "least": ranked[0], "most": ranked[-1]}


def memory() -> dict[str, Any]:
    """Peak of two training steps of every recipe, each in a process of its own."""
    peaks = {}
    for path in sorted(RECIPES.glob("*.toml")):
        command = [sys.executable, __file__, "--step", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        ended = {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
        peaks[path.stem] = json.loads(done.stdout) if done.returncode == 0 else ended
        print(path.stem, peaks[path.stem], file=sys.stderr)
    return peaks


def step(path: Path) -> dict[str, Any]:
    """Two steps: the optimizer's state comes with the first. On a CPU all of the process counts, on a GPU tensors."""
    recipe = read_toml(path, Recipe)
    model = recipe.model.model_copy(update={"pretrained": False})  # random weights take the same room
    recipe = recipe.model_copy(update={"model": model})
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    size = recipe.data.image_size or NETWORKS["digits"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours(recipe, size, accelerator)(2)
    facts = {"batch": recipe.training.batch_size, "accumulate": recipe.training.accumulate, "size": size}
    if accelerator.device.type == "cuda":
        return facts | {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return facts | {"peak_mib": peak, "of_which_imports_mib": before}


def circumstances() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name() if cuda else f"{processor[0].partition(': ')[2]}",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ibviz", "torch", "torchvision", "accelerate")},
    }


def table(found: dict[str, Any]) -> str:
    """Medians with least and most."""
    lines = [f"{'':28}{'median':>10}{'least':>10}{'most':>10}"]
    for part in ("images a second", "ratio, block by block"):
        for name, one in found[part].items():
            lines.append(f"{name:28}" + "".join(f"{value:10.3f}" for value in one.values()))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="vgg32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=("bf16", "no"), default="bf16", help="of ours and the limit; as recipes")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="in a block")
    parser.add_argument("--workers", type=int, default=0, help="of the straightforward loop's DataLoader")
    parser.add_argument("--set", default="{}", help='training keys of our loop as JSON, such as {"compile": true}')
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--step", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(step(arguments.step)))
        return
    found = {"peaks": memory()} if arguments.memory else race(arguments)
    print(json.dumps(found, indent=1) if arguments.memory else table(found))
    if arguments.json:
        arguments.json.write_text(json.dumps(circumstances() | found, indent=1) + "\n")


if __name__ == "__main__":
    main()
