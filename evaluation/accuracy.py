"""Test accuracy of a trained classifier, deterministic and with noise, and which anchors its maps use.

usage: python evaluation/accuracy.py RUN {digits|cifar10|parquet|folder} [DATA]      prints JSON
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from ibviz.data.config import DataConfig
from ibviz.data.image_set import to_float
from ibviz.data.sources import load_images
from ibviz.models.bottleneck import bits
from ibviz.models.classifier import IBClassifier
from ibviz.models.loading import load

BATCH = 256


@torch.inference_mode()
def measure(model: IBClassifier, images: torch.Tensor, labels: torch.Tensor, **sampling: Any) -> dict[str, Any]:
    correct, rate, cells = 0, 0.0, torch.zeros(model.config.anchors or 0, dtype=torch.long, device=images.device)
    for pixels, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        seen = model.inspect(to_float(pixels), **sampling)
        correct += int((seen.logits.argmax(1) == truth).sum())
        rate += float(seen.rate.sum())
        if seen.attention.index is not None:
            cells += seen.attention.index.flatten().bincount(minlength=len(cells))
    count = len(labels)
    return {"n": count, "accuracy": correct / count, "rate_bits": bits(rate / count), "cells_by_anchor": cells.tolist()}


def main(run: str, source: str, data: str | None = None) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load(run).to(device)
    assert isinstance(model, IBClassifier)
    config = DataConfig.model_validate(
        {"source": source, "image_size": None if source == "digits" else model.spec.size}
    )
    test = load_images(config, "test", None if data is None else Path(data))
    images, labels = test.images.to(device), test.labels.to(device)
    noise = torch.Generator(device).manual_seed(0)
    facts = {
        "torch": torch.__version__,
        "device": str(device),
        "anchors": [] if model.quantizer is None else [round(value, 4) for value in model.quantizer.anchors.tolist()],
        "deterministic": measure(model, images, labels),
        "samples 4 x 4, seed 0": measure(model, images, labels, samples=(4, 4), generator=noise),
    }
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
