"""Sanity checks of a trained classifier: how maps change as its layers are randomised (Adebayo 2018).

usage: python evaluation/randomisation.py RUN OUT.json [images]      prints a table, writes every image's values

On unseen embedded images, from the output to the input, cascading and one layer at a time; means over images.
"""

import json
import sys
from pathlib import Path

import torch

from ibviz.attribution.randomisation import randomise
from ibviz.data.image_set import to_float
from ibviz.data.synthetic import digits
from ibviz.models.loading import load

METHODS = ("attention_mean", "grad_cam", "guided_backprop", "integrated_gradients", "iba", "edges")


def main(run: str, out: str, count: str = "50") -> None:
    model, images = load(run), to_float(digits("test", count=int(count), seed=0).images)
    rows = []
    for method in METHODS:
        for cascading in (True, False):
            for row in randomise(model, images, method, cascading=cascading):
                kind, means = "cascading" if cascading else "alone", {k: v.nanmean() for k, v in row.similarity.items()}
                print(f"{method:22} {kind:10} {row.layer:32}", *(f"{name} {one:6.3f}" for name, one in means.items()))
                each = {name: one.tolist() for name, one in row.similarity.items()}
                rows.append({"method": method, "cascading": cascading, "layer": row.layer, **each})
    facts = {"run": run, "images": len(images), "seed": 0, "torch": torch.__version__, "rows": rows}
    Path(out).write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
