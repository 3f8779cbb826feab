"""Judge the bundled network for photographs on photographs of another source, most of classes that it does not know.

usage: python evaluation/attention/elsewhere.py DATA OUT      DATA: Parquet files with boxes; OUT: a Markdown file

Its predicted class is explained; maps are held against the boxes of each photograph's labelled objects.
"""

import sys
from pathlib import Path

import ibviz
from ibviz.attribution.catalogue import METHODS
from ibviz.benchmark.setup import training_colour
from ibviz.data import to_float
from ibviz.data.config import DataConfig
from ibviz.data.image_set import regions, select
from ibviz.data.sources import load_images
from ibviz.metrics.protocol import CurveProtocol
from ibviz.models.classifier import IBClassifier


def main(data: Path, out: Path) -> None:
    model = ibviz.load("photos")
    assert isinstance(model, IBClassifier)
    images = load_images(DataConfig(source="parquet", image_size=model.spec.side), "test", data)
    masks = regions(images)
    assert masks is not None
    flat = masks.flatten(1)
    rows = (flat.any(1) & ~flat.all(1)).nonzero().flatten()
    pixels = to_float(select(images, rows).images)
    maps = {METHODS[name].label: ibviz.explain(model, pixels, name) for name in ("attention", "attention_mean")}
    maps["Grad-CAM, gated layer"] = ibviz.explain(model, pixels, "grad_cam", layer=model.layer)
    maps["Grad-CAM, last layer"] = ibviz.explain(model, pixels, "grad_cam")
    protocol = CurveProtocol(colour=training_colour(model), steps=16, orders=2)
    result = ibviz.evaluate(model, pixels, maps, masks=masks[rows], protocol=protocol)
    out.write_text(f"# {len(rows)} photographs of another source\n\n```\n{result.table()}\n```\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
