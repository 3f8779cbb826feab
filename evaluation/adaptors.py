"""Every attribution of Captum and every metric of Quantus through ibviz's adaptors: what works, and how long it takes.

    python -m evaluation.adaptors --out docs/captum-and-quantus.md

It needs `pip install 'ibviz[quantus]'` and takes about 15 minutes of one core.
"""

import argparse
import inspect
import platform
import signal
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import ibviz
from ibviz.data import digits, to_float
from ibviz.errors import InputError
from ibviz.metrics import MetricInput, scorer
from ibviz.metrics.catalogue import measure

IMAGES = 2
LIMIT = 60  # seconds an entry may take
LAYER = "network.stem"
PAGE = """# Captum and Quantus

Any attribution of Captum is a method, `captum:NAME`, and any metric of Quantus that needs only maps is a metric,
`quantus:NAME`, in Python, in suites and on the command line:

```
ibviz explain photo.jpg --methods captum:DeepLiftShap,grad_cam
```

```toml
metrics = ["srg", "quantus:Sparseness"]

[[methods]]
method = "captum:IntegratedGradients"
options = {{ n_steps = 64 }}
```

- Maps of Captum are sums over channels. Options are Captum's own, and `layer` (a name), `baselines` (a brightness, or
  several), `cells` (rows and columns of the groups of pixels that are changed together), `seed`. Captum computes them
  as it is: what ibviz checks before its own DeepLIFT, guided backprop and LRP is not checked.
- Metrics of Quantus are computed image by image on maps enlarged to the image. Options need a line of Python in a
  file of your own, `flipping = ibviz.metrics.quantus_metric("PixelFlipping", features_in_step=64,
  return_auc_per_sample=True)`; a suite then names `my_file.py:flipping`. Quantus is LGPL and comes with `pip install
  'ibviz[quantus]'`.

## What was tried

The network `digits`, {images} images of 48 px, default options, layers: `{layer}`. Measured by `python -m
evaluation.adaptors` on one thread of a CPU, once; Captum {captum}, Quantus {quantus}, torch {torch}, Python {python}.
An entry that took over {limit} s was stopped.

| `captum:` | seconds | outcome |
|---|---|---|
{captum_rows}

| `quantus:` | seconds | outcome |
|---|---|---|
{quantus_rows}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    model, images = ibviz.load("digits").eval(), digits("test", count=IMAGES, seed=0)
    pixels, targets = to_float(images.images), images.labels
    maps = ibviz.explain(model, pixels, "grad_cam", targets=targets)
    assert isinstance(maps, torch.Tensor)
    assert images.masks is not None
    given = MetricInput(model, pixels, targets, maps, maps, images.masks, scorer(model, targets), 64)

    def attribution(name: str) -> str:
        layered = any(part in name for part in ("Layer", "GradCam", "Internal"))
        options: dict[str, Any] = {"layer": LAYER} if layered else {}
        result = ibviz.explain(model, pixels, f"captum:{name}", targets=targets, **options)
        assert isinstance(result, torch.Tensor)
        return f"maps of {result.shape[1]} x {result.shape[2]}"

    def metric(name: str) -> str:
        return ", ".join(f"{value:.3g}" for value in measure(f"quantus:{name}", given)[0].tolist())

    out.write_text(
        PAGE.format(
            images=IMAGES,
            layer=LAYER,
            limit=LIMIT,
            captum=version("captum"),
            quantus=version("quantus"),
            torch=version("torch"),
            python=platform.python_version(),
            captum_rows="\n".join(tried(name, attribution) for name in attributions()),
            quantus_rows="\n".join(tried(name, metric) for name in metrics()),
        )
    )


def attributions() -> list[str]:
    import captum.attr

    apart = ("Neuron", "LLM", "RemoteLLM", "DataLoader")
    return sorted(
        name
        for name, kind in vars(captum.attr).items()
        if inspect.isclass(kind) and hasattr(kind, "attribute") and not name.startswith(apart)
    )


def metrics() -> list[str]:
    quantus, base = import_module("quantus"), import_module("quantus.metrics.base").Metric

    return sorted(
        name
        for name, kind in vars(quantus).items()
        if inspect.isclass(kind) and issubclass(kind, base) and hasattr(kind, "evaluation_category")
    )


class TooLongError(Exception):
    """An entry took more than `LIMIT` seconds."""


def tried(name: str, run: Callable[[str], str]) -> str:
    def stop(*_: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    begun = time.perf_counter()
    try:
        outcome = run(name)
    except TooLongError:
        outcome = "stopped"
    except InputError as error:
        outcome = "stopped" if isinstance(error.__cause__, TooLongError) else f"refused: {error}"
    finally:
        signal.alarm(0)
    print(name, outcome, flush=True)
    return f"| {name} | {time.perf_counter() - begun:.1f} | {outcome.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    main()
