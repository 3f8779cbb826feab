"""The bundled network for photographs: a finished run of `attention/mobilenet.toml` on all classes, in half precision.

usage: python evaluation/ship_photos.py RUN DATA [OUT]

RUN was trained on DATA (the folder `all` of `attention/halves.py`); OUT is the file that `ibviz.load("photos")` reads.
"""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ibviz.config import DataConfig, Recipe
from ibviz.data import to_float
from ibviz.data.image_set import regions, select
from ibviz.data.sources import load_images
from ibviz.errors import InputError
from ibviz.metrics import auroc, pointing_game
from ibviz.models.checkpoint import load_model, read_tensors, write_tensors
from ibviz.models.loading import BOX
from ibviz.models.reliance import REPLACEMENTS, reliance
from ibviz.settings import read_toml

RECIPE = Path(__file__).parent / "attention/mobilenet.toml"
TESTED, BATCH = 2000, 100  # test images, chosen by seed 0; images of a batch
NOTES = (
    "Layers below and behind the attention started from MobileNetV2 weights for ImageNet, quantised once to 8 bits: "
    "github.com/google-coral/test_data, tf2_mobilenet_v2_1.0_224_ptq.tflite, Apache License 2.0.",
    "Trained on 20,000 images of the 200 classes of Tiny ImageNet, 64 pixels a side and enlarged to 128: it knows "
    "those classes alone, and pictures whose object fills much of the frame.",
    "Fails: several objects in one picture (attention lies on the one that is easiest to name, or on all), small "
    "objects, objects at the edge, and classes it does not know. Objects of its training images lie in the middle, "
    "so its attention leans towards the middle as well.",
)


def main(run: Path, data: Path, out: Path) -> None:
    recipe = read_toml(RECIPE, Recipe)
    tensors, header = read_tensors(run / "model.safetensors", "model")
    if header["facts"]["recipe"] != json.loads(recipe.model_dump_json()):
        raise InputError(f"{run} is no run of {RECIPE.name}; train it anew")
    halves = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    write_tensors(out, halves, header)  # first without the facts that are measured on it
    header["facts"] |= {
        "notes": list(NOTES),
        "test": measured(out, recipe.data, data),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("ibviz", "torch", "numpy")},
        "command": "python evaluation/ship_photos.py RUN DATA, after ibviz train evaluation/attention/mobilenet.toml "
        "--data DATA --weights mobilenet_v2.safetensors --out RUN",
    }
    write_tensors(out, halves, header)
    print(json.dumps({key: header["facts"][key] for key in ("epoch", "validation", "test")}, indent=1))
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


def measured(path: Path, config: DataConfig, data: Path) -> dict[str, Any]:
    """Accuracy with every map in the attention's place, and how well it points in images that the box does not fill."""
    model, images = load_model(path), load_images(config, "test", data, count=TESTED)
    parts = torch.arange(len(images.labels)).split(BATCH)
    used = reliance(model, lambda: ((to_float(images.images[rows]), images.labels[rows]) for rows in parts))
    accuracy = {name: used.correct[row].float().mean().item() for row, name in enumerate(REPLACEMENTS)}
    masks = regions(images)
    assert masks is not None
    boxed = (masks.flatten(1).any(1) & ~masks.flatten(1).all(1)).nonzero().flatten()
    chosen, masks = select(images, boxed), masks[boxed]
    with torch.inference_mode():
        maps = torch.cat([model.inspect(to_float(part)).attention.mean for part in chosen.images.split(BATCH)])
    pointed = {
        "n_pointing": len(boxed),
        "auroc": auroc(maps, masks).mean().item(),
        "pointing_game": pointing_game(maps, masks).hit.mean().item(),
    }
    rounded = {f"accuracy_{name}_map": value for name, value in accuracy.items()} | pointed
    return {"n": len(images.labels)} | {name: round(value, 4) for name, value in rounded.items()}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else BOX["photos"])
