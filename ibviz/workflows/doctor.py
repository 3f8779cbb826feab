"""A check of the installation: versions, device, extras, other programs, and metrics on a case with a known result."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch

from ibviz.benchmark.setup import versions
from ibviz.metrics import faithfulness
from ibviz.metrics.protocol import CurveProtocol
from ibviz.models.loading import BUNDLED

EXTRAS = {
    "timm": "timm",
    "transformers": "transformers",
    "coco": "pycocotools",
    "tracking": "tensorboard",
    "notebooks": "anywidget",
    "peers": "quantus",
}
PROGRAMS = {
    "Chromium": (("chromium", "chromium-browser", "google-chrome"), "tests of the report"),
    "LaTeX": (("latexmk", "pdflatex"), "typesetting tables"),
    "compiler": (("cc", "gcc", "clang"), "torch.compile"),
}
EXPECTED = {"deletion": 18.5 / 60, "insertion": 41.5 / 60}  # areas under 15, 7, 3, 1, 0 and 0, 8, 12, 14, 15 of 15


class Line(NamedTuple):
    """The result of one check; `sound` is False only for a failure of something that ibviz needs."""

    name: str
    result: str
    sound: bool = True


def diagnose() -> list[Line]:
    """Run all checks, which takes about a second after imports.

    >>> all(line.sound for line in diagnose())
    True
    """
    missing = [str(path) for path in BUNDLED.values() if not path.is_file()]
    return [
        Line("Python", f"{platform.python_version()}, {sys.platform} {platform.machine()}"),
        *(Line(name, number) for name, number in versions().items()),
        Line("device", _device()),
        Line("bundled networks", f"missing: {', '.join(missing)}" if missing else ", ".join(BUNDLED), not missing),
        self_test(),
        *(Line(f"extra {extra}", _version_of(package)) for extra, package in EXTRAS.items()),
        *(Line(name, _program(names, use)) for name, (names, use) in PROGRAMS.items()),
    ]


def self_test() -> Line:
    """Judge a map of four cells by a score that sums their brightness, so that both areas are known in closed form."""
    cells = torch.tensor([[8.0, 4.0], [2.0, 1.0]]) / 15
    images = cells.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(1, 3, 8, 8)
    protocol = CurveProtocol(colour=(0.0, 0.0, 0.0), grid=(2, 2), steps=4, orders=2, batch_size=8)
    curves = faithfulness(lambda masked, _: 4 * masked.mean((1, 2, 3)), images, cells[None], protocol=protocol)
    areas = {"deletion": float(curves.deletion_auc), "insertion": float(curves.insertion_auc)}
    sound = all(abs(areas[name] - known) < 1e-5 for name, known in EXPECTED.items())
    result = ", ".join(f"{name} {area:.5f} (known: {EXPECTED[name]:.5f})" for name, area in areas.items())
    return Line("self-test of metrics", result, sound)


def _device() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU, {torch.get_num_threads()} threads; no CUDA device"


def _version_of(package: str) -> str:
    if find_spec(package) is None:
        return "not installed"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package


def _program(names: tuple[str, ...], use: str) -> str:
    return next(filter(None, map(shutil.which, names)), f"not installed; only needed for {use}")
