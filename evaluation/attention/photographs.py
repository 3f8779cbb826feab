"""Draw attention of the bundled network on photographs, with credits: those that the seed chooses, good maps and bad.

usage: python evaluation/attention/photographs.py PHOTOS OUT

PHOTOS holds `images/` and `annotations.json`, whose list `images` names file, licence, licence_url and photo_url of
each. Only photographs whose licence lets anyone change and show them (CC BY, CC BY-SA) are taken; seed 0 chooses.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

import ibviz
from ibviz.attribution.catalogue import METHODS
from ibviz.data import to_float
from ibviz.data.image_set import ImageSet
from ibviz.figures import panel
from ibviz.models.classifier import IBClassifier
from ibviz.workflows.image_source import read_source

FREE = ("Attribution License", "Attribution-ShareAlike License")
SEED, COUNT, COLUMNS = 0, 12, 6


def main(photos: Path, out: Path) -> None:
    free = [
        image for image in json.loads((photos / "annotations.json").read_text())["images"] if image["licence"] in FREE
    ]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(SEED)).tolist()
    chosen = [free[place] for place in order[:COUNT]]
    model = ibviz.load("photos")
    assert isinstance(model, IBClassifier)
    images = torch.cat([pictures(photos, entry["file"], model).images for entry in chosen])
    out.mkdir(parents=True, exist_ok=True)
    for number, rows in enumerate(torch.arange(COUNT).split(COLUMNS), 1):
        pixels = to_float(images[rows])
        maps = {METHODS[name].label: ibviz.explain(model, pixels, name) for name in ("attention", "attention_mean")}
        maps["Grad-CAM, gated layer"] = ibviz.explain(model, pixels, "grad_cam", layer=model.layer)
        maps["Grad-CAM, last layer"] = ibviz.explain(model, pixels, "grad_cam")
        best = ibviz.predict(model, pixels).max(1)
        captions = [f"{model.spec.class_names[label]} {share:.0%}" for share, label in zip(*best, strict=True)]
        with TemporaryDirectory() as folder:
            drawn = Path(folder) / "panel.png"
            panel(pixels, maps, captions=captions).save(drawn)
            Image.open(drawn).convert("RGB").save(out / f"photographs-{number}.jpg", quality=85)  # a tenth of the size
    lines = [
        f"{place}. [{Path(entry['file']).name}]({entry['photo_url']}): "
        f"[{entry['licence'].removesuffix(' License')}]({entry['licence_url']})"
        for place, entry in enumerate(chosen, 1)
    ]
    (out / "credits.md").write_text(
        f"# Credits of the photographs\n\nFrom Flickr by way of COCO, cropped and coloured; {COUNT} of {len(free)}, "
        f"chosen by seed {SEED}.\n\n" + "\n".join(lines) + "\n"
    )


def pictures(photos: Path, file: str, model: IBClassifier) -> ImageSet:
    """Return a photograph fitted to the network's input."""
    return read_source(photos / "images" / Path(file).name, model, None).images


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
