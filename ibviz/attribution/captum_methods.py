"""Attributions of Captum as methods: `captum:DeepLiftShap`, with its options passed on.

The maps are Captum's own. The checks that ibviz makes for its DeepLIFT, guided backprop and LRP, such as those for
functions without a module, are not made here.
"""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ibviz.errors import InputError, unknown
from ibviz.types import MACHINE_ERRORS, Images, Labels, Maps

CAPTUM = "captum:"
CELLS = (8, 8)  # rows and columns of pixel groups, for methods that change groups of pixels
DRAWING = ("GradientShap", "KernelShap", "LayerGradientShap", "Lime", "ShapleyValueSampling")
REFUSED = {
    "FeaturePermutation": "it exchanges the images of a batch with each other, so that a map depends on its batch",
    "LayerFeaturePermutation": "it exchanges the images of a batch with each other, so that a map depends on its batch",
    "NoiseTunnel": "it averages another attribution; ibviz has smooth_grad and var_grad",
    "ShapleyValues": "it runs all subsets of the groups of pixels; use captum:ShapleyValueSampling",
    "LimeBase": "its parts are functions; use captum:Lime",
}
# Arguments that ibviz passes itself or that a file cannot express.
OWN = {
    *("self", "model", "forward_func", "layer", "inputs", "target", "baselines", "layer_baselines", "feature_mask"),
    *("layer_mask", "sliding_window_shapes", "strides", "additional_forward_args", "return_convergence_delta"),
    *("return_input_shape", "custom_attribution_func", "show_progress", "device_ids", "grad_kwargs", "kwargs"),
    *("perm_func", "interpretable_model", "similarity_func", "perturb_func", "verbose"),
}


def captum_function(name: str) -> Callable[..., Maps]:
    """Return a function `(model, images, targets, *, options)` that runs an attribution of Captum.

    Maps are sums over channels, on the grid of the images or, for a layer, of that layer. Beside Captum's own, options
    are `baselines` (one or several brightness values in [0, 1], each a constant image; default 0, for DeepLiftShap and
    GradientShap 0 and 1), `cells` (rows and columns of the groups of pixels that are changed together), `layer` (its
    name) and, for attributions that draw, `seed`. Raises `InputError` for a name that Captum does not have.

    >>> list(inspect.signature(captum_function("IntegratedGradients")).parameters)[3:6]
    ['multiply_by_inputs', 'n_steps', 'method']
    """
    kind = _find(name)
    built, run = (inspect.signature(part).parameters for part in (kind.__init__, kind.attribute))

    def function(model: nn.Module, images: Images, targets: Labels, **options: Any) -> Maps:
        at_once = 1 if name in DRAWING else len(images)
        try:
            with _quiet(int(options.get("seed", 0)), images.device) as restart:
                parts = []
                for some, classes in zip(images.split(at_once), targets.split(at_once), strict=True):
                    restart()  # so that a map does not depend on the images before it
                    arguments = _arguments(run, options, some, classes)
                    parts.append(kind(**_construction(built, options, model)).attribute(**arguments))
        except (InputError, *MACHINE_ERRORS):
            raise
        except Exception as error:
            raise InputError(f"Captum's {name} fails: {type(error).__name__}: {error}") from error
        return _as_maps(torch.cat(parts), name)

    function.__doc__ = f"{(inspect.getdoc(kind) or name).partition('.')[0]}, computed by Captum."
    function.__name__ = name
    vars(function)["__signature__"] = _signature(name, built, run)
    return function


def _find(name: str) -> Any:
    import captum.attr

    kinds = {
        own: kind
        for own, kind in vars(captum.attr).items()
        if inspect.isclass(kind) and hasattr(kind, "attribute") and not own.startswith(("Neuron", "LLM", "RemoteLLM"))
    }
    kinds.pop("DataLoaderAttribution", None)
    if name in REFUSED:
        raise InputError(f"{CAPTUM}{name} is no method here: {REFUSED[name]}")
    if name not in kinds:
        raise unknown("attribution of Captum", name, sorted(kinds.keys() - REFUSED))
    return kinds[name]


def _signature(name: str, built: Any, run: Any) -> inspect.Signature:
    """Return the signature of a method: Captum's options that a file can express, and those that ibviz adds."""
    positional = [
        inspect.Parameter(own, inspect.Parameter.POSITIONAL_OR_KEYWORD) for own in ("model", "images", "targets")
    ]
    options = {
        own: given.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=inspect.Parameter.empty)
        for own, given in {**built, **run}.items()
        if own not in OWN
    }
    ours: dict[str, Any] = {}
    if "layer" in built:
        ours["layer"] = inspect.Parameter.empty
    if "baselines" in run:
        ours["baselines"] = [0.0, 1.0] if run["baselines"].default is inspect.Parameter.empty else 0.0
    if {"feature_mask", "sliding_window_shapes"} & run.keys():
        ours["cells"] = CELLS
    if name in DRAWING:
        ours["seed"] = 0
    extra = [inspect.Parameter(own, inspect.Parameter.KEYWORD_ONLY, default=value) for own, value in ours.items()]
    return inspect.Signature([*positional, *options.values(), *extra])


def _construction(built: Any, options: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    arguments = {name: value for name, value in options.items() if name in built and name not in OWN}
    arguments["model" if "model" in built else "forward_func"] = model
    if "layer" in built:
        modules = dict(model.named_modules())
        layer = options.get("layer", "")
        if layer not in modules or not layer:
            raise InputError(
                f"layer must be the name of a submodule; got {layer!r}; there are {', '.join(modules)[:300]}"
            )
        arguments["layer"] = modules[layer]
    return arguments


def _arguments(run: Any, options: dict[str, Any], images: Images, targets: Labels) -> dict[str, Any]:
    arguments = {name: value for name, value in options.items() if name in run and name not in OWN}
    arguments["inputs"] = images.detach().clone().requires_grad_()
    if "target" in run:
        arguments["target"] = targets
    rows, columns = options.get("cells", CELLS)
    if "baselines" in run:
        several = run["baselines"].default is inspect.Parameter.empty
        values = options.get("baselines", [0.0, 1.0] if several else 0.0)
        arguments["baselines"] = _constant(values if isinstance(values, list | tuple) else [values], images, several)
    if "feature_mask" in run:
        arguments["feature_mask"] = _groups(images, rows, columns)
    if "sliding_window_shapes" in run:
        window = (images.shape[1], -(-images.shape[2] // rows), -(-images.shape[3] // columns))
        arguments |= {"sliding_window_shapes": window, "strides": window}
    return arguments


def _constant(values: Sequence[float], images: Images, several: bool) -> Any:
    """Return images of one brightness each, or the brightness itself if there is a single baseline for all."""
    if not several:
        if len(values) != 1:
            raise InputError(f"this attribution takes one baseline; got {values}")
        return float(values[0])
    return torch.stack([torch.full_like(images[0], float(value)) for value in values])


def _groups(images: Images, rows: int, columns: int) -> Tensor:
    """Return the number of the group of each pixel, `(1, 1, h, w)`."""
    down = torch.arange(images.shape[2], device=images.device) * rows // images.shape[2]
    across = torch.arange(images.shape[3], device=images.device) * columns // images.shape[3]
    return (down[:, None] * columns + across)[None, None]


def _as_maps(attributions: Tensor, name: str) -> Maps:
    if attributions.ndim != 4:
        raise InputError(
            f"{CAPTUM}{name} gives {tuple(attributions.shape)}; expected (b, channels, rows, columns): name a layer "
            "with a grid"
        )
    return attributions.detach().sum(1).float()


@contextmanager
def _quiet(seed: int, device: torch.device) -> Iterator[Callable[[], None]]:
    """Silence Captum's warnings inside the block, and restore the generators of torch and NumPy after it.

    Yields a function that seeds both with `seed`.
    """
    before = np.random.get_state()  # noqa: NPY002 - Captum draws from the global generator

    def restart() -> None:
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002 - as above

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield restart
        finally:
            np.random.set_state(before)  # noqa: NPY002 - as above
