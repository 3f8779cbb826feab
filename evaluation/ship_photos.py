"""The bundled network for photographs: a finished run of `attention/mobilenet.toml` on all classes, in half precision.

usage: python evaluation/ship_photos.py RUN DATA [OUT]

RUN was trained on DATA (the folder `all` of `attention/halves.py`); OUT is the file that `ibviz.load("photos")` reads.
"""

import sys
from pathlib import Path
from typing import Any

from attention.prices import measured
from ship_digits import ship

from ibviz.models.loading import BUNDLED

RECIPE = Path(__file__).parent / "attention/mobilenet.toml"
TESTED = 2000  # test images, chosen by seed 0
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
    def facts() -> dict[str, Any]:
        return {
            "notes": list(NOTES),
            "test": on_test_images(out, data, TESTED),
            "command": "python evaluation/ship_photos.py RUN DATA, after ibviz train evaluation/attention/"
            "mobilenet.toml --data DATA --weights mobilenet_v2.safetensors --out RUN",
        }

    ship(run, RECIPE, out, facts)


def on_test_images(model: Path, data: Path, count: int) -> dict[str, Any]:
    """Return accuracy with every map in the attention's place, and how well it points where no box fills the image."""
    found = measured(model, data, count)
    accuracy = {f"accuracy_{name}_map": decided["accuracy"] for name, decided in found["decided"].items()}
    own = found["own"]
    return {"n": count, **accuracy, "n_pointing": own.pop("n"), **own}


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) == 4 else BUNDLED["photos"])
