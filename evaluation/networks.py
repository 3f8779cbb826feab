"""Which method fits which network: families of torchvision and timm with random weights, each map held to an oracle.

python -m evaluation.networks --out evaluation/results/networks [--page docs/networks.md] [NAME ...]

Every network gets two small random images, five classes and few samples; a row for each network and method says `right`
(equal to another way to the same map, named beside it), `ran` (finite; no other way is known here), `refused` (with its
words), `slow` (over the limit of seconds), and, which must not be, `wrong` or `error`. Rows are appended network by
network; what is there is not run again. With --page, the table in the documentation is written from all rows.
"""

import argparse
import json
import platform
import signal
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain, values
from ibviz.attribution.perturbation import shifted_masks
from ibviz.attribution.superpixels import superpixels
from ibviz.errors import InputError

CLASSES, SECONDS = 5, 60
MOST_CHANNELS = 32  # for methods that take a pass for each
SIZES = (32, 64, 96, 128, 224, 256)  # the first that a network takes
MOST_SENSITIVE = 1e5  # logit or gradient of images in [0, 1]; networks beyond it are tried at the next size
TOLERANCE = 2e-3  # of the largest number of the map that is right
TARGETS = torch.tensor([1, 3])
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"steps": 4, "tolerance": float("inf")},
    "smooth_grad": {"samples": 3, "sampling": "plain"},
    "var_grad": {"samples": 3},
    "gradient_shap": {"samples": 3, "sampling": "plain"},
    "rise": {"masks": 4, "sampling": "plain"},
    "feature_ablation": {"segments": 4},
    "lime": {"samples": 12, "sampling": "plain", "segments": 4},
    "kernel_shap": {"samples": 24, "sampling": "plain", "segments": 4},
    "iba": {"steps": 2, "samples": 2},
}
LAYERED = {
    "iba",
    "grad_cam",
    "grad_cam_pp",
    "hires_cam",
    "layer_cam",
    "xgrad_cam",
    "score_cam",
    "ablation_cam",
    "eigen_cam",
    "guided_grad_cam",
}
OF_ATTENTION = {"attention", "attention_mean", "module_attention"}  # of trained attention, which none of these has
SWEPT = [name for name, method in METHODS.items() if not method.control and name not in OF_ATTENTION]

TORCHVISION = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_1",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vit_b_32",
    "wide_resnet50_2",
)
TIMM = (
    "beit_base_patch16_224",
    "botnet26t_256",
    "cait_xxs24_224",
    "caformer_s18",
    "coat_tiny",
    "coatnet_pico_rw_224",
    "convit_tiny",
    "convnext_atto",
    "convnextv2_atto",
    "crossvit_tiny_240",
    "cs3darknet_s",
    "cspresnet50",
    "davit_tiny",
    "deit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "dla34",
    "dpn68",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "ese_vovnet19b_slim",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "fastvit_t8",
    "fbnetc_100",
    "flexivit_small",
    "focalnet_tiny_lrf",
    "gcvit_xxtiny",
    "gernet_s",
    "ghostnet_050",
    "gmlp_s16_224",
    "halonet26t",
    "hardcorenas_a",
    "hgnetv2_b0",
    "hiera_tiny_224",
    "hrnet_w18_small",
    "inception_next_atto",
    "inception_resnet_v2",
    "inception_v4",
    "lambda_resnet26t",
    "lcnet_035",
    "legacy_xception",
    "levit_128s",
    "mambaout_femto",
    "maxvit_pico_rw_256",
    "mixer_s32_224",
    "mobilenetv4_conv_small_035",
    "mobileone_s0",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "mvitv2_tiny",
    "nest_tiny",
    "nextvit_small",
    "nf_resnet26",
    "pit_ti_224",
    "poolformer_s12",
    "pvt_v2_b0",
    "rdnet_tiny",
    "regnety_002",
    "repghostnet_050",
    "repvgg_a0",
    "repvit_m0_9",
    "res2net50_14w_8s",
    "resmlp_12_224",
    "resnest14d",
    "resnet10t",
    "resnetv2_18",
    "rexnet_100",
    "selecsls42",
    "semnasnet_050",
    "seresnet18",
    "shvit_s1",
    "skresnet18",
    "sequencer2d_s",
    "starnet_s050",
    "swiftformer_xs",
    "swinv2_cr_tiny_224",
    "swin_tiny_patch4_window7_224",
    "tf_efficientnet_lite0",
    "tiny_vit_5m_224",
    "tinynet_e",
    "tnt_s_legacy_patch16_224",
    "tresnet_m",
    "twins_svt_small",
    "vgg11",
    "visformer_tiny",
    "vit_tiny_patch16_224",
    "vit_base_patch16_siglip_224",
    "vit_relpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "vitamin_small_224",
    "volo_d1_224",
    "xception41",
    "xcit_nano_12_p8_224",
)


class Case(NamedTuple):
    """A network with its images, and a layer of few channels whose output is `(b, c, h, w)`, if it has one."""

    network: nn.Module
    images: Tensor
    layer: str | None
    channels: int  # of that layer


def names() -> list[str]:
    """The smallest of each family first, then all other classifiers of torchvision."""
    from torchvision import models

    first = [f"torchvision/{name}" for name in TORCHVISION] + [f"timm/{name}" for name in TIMM]
    return first + [name for one in models.list_models(module=models) if (name := f"torchvision/{one}") not in first]


def built(name: str) -> Case:
    """The network with random weights at the smallest size that it takes; raises what its library raises."""
    failure: Exception = ValueError(f"no library for {name}")
    for size in SIZES:
        for choices in ({"img_size": size}, {}) if name.startswith("timm/") else ({"image_size": size}, {}):
            with suppress(TypeError):
                torch.manual_seed(0)
                try:
                    network = awake(create(name, choices))
                    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
                    settled(network, images)
                    with torch.no_grad():
                        logits = network(images)
                    if not logits.isfinite().all() or logits.shape != (2, CLASSES):
                        raise ValueError(f"logits are {tuple(logits.shape)} or not finite")
                    refuse_chaotic(network, images)
                    return Case(network, images, *plain_layer(network, images))
                except (RuntimeError, AssertionError, ValueError, IndexError, ZeroDivisionError) as error:
                    failure = error
    raise failure


def create(name: str, choices: dict[str, Any]) -> nn.Module:
    library, _, bare = name.partition("/")
    if library == "timm":
        import timm

        return timm.create_model(bare, num_classes=CLASSES, **choices).eval()
    from torchvision import models

    if "image_size" in choices and not bare.startswith("vit_"):
        raise TypeError("made for any size")
    more = {"init_weights": True} if bare in ("googlenet", "inception_v3") else {}
    return models.get_model(bare, num_classes=CLASSES, weights=None, **choices, **more).eval()


@torch.no_grad()
def awake(network: nn.Module) -> nn.Module:
    """Weights that start at zero, and scales that start next to it, as random ones: or else maps are all rounding."""
    for parameter in network.parameters():
        if parameter.ndim > 1 and float(parameter.abs().max()) < 1e-3:
            parameter.normal_(0, 0.05)
        elif (
            parameter.ndim == 1
            and 0 < float(parameter.abs().max()) < 1e-2
            and float(parameter.std(unbiased=False)) == 0
        ):
            parameter.fill_(0.5)
    return network


@torch.no_grad()
def settled(network: nn.Module, images: Tensor) -> None:
    """Batch norms as if the network had been trained: without it the images hardly change the logits of deep ones."""
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    if norms:
        noisy = images.repeat(8, 1, 1, 1) + 0.3 * torch.rand(16, 1, 1, 1) * torch.randn(16, *images.shape[1:])
        kept = nn.functional.interpolate((torch.rand(16, 1, 4, 4) < 0.5).float(), size=images.shape[2:])
        network(torch.cat([noisy, noisy * torch.rand(16, 1, 1, 1), noisy * kept]))  # as methods darken and cover them
    network.eval()


def refuse_chaotic(network: nn.Module, images: Tensor) -> None:
    """Raise ValueError if rounding errors decide: deep networks with random weights and a single cell at their end."""
    covered = images.clone()
    covered[..., : images.shape[-1] // 2] = 0
    for given in (images, covered, images + 0.2 * torch.randn(images.shape)):
        logits, slopes = score_and_slopes(network, given)
        if logits > MOST_SENSITIVE or slopes > MOST_SENSITIVE:
            raise ValueError(f"logits reach {logits:.1g}, and gradients {slopes:.1g}: other roundings, other maps")


def score_and_slopes(network: nn.Module, images: Tensor) -> tuple[float, float]:
    """Return the largest logit and the largest gradient of the targets' logits."""
    with torch.enable_grad():
        given = images.clone().requires_grad_()
        logits = network(given)
        (slopes,) = torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), given)
    return float(logits.detach().abs().max()), float(slopes.abs().max())


def plain_layer(network: nn.Module, images: Tensor) -> tuple[str | None, int]:
    """The convolution with the fewest channels, of those that run once with 2 x 2 places or more and a gradient."""
    runs, outputs = Counter(), dict[str, Tensor]()

    def keep(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            runs[name] += 1
            outputs[name] = output
            return output.clone()

        return hook

    convolutions = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Conv2d)]
    handles = [one.register_forward_hook(keep(name)) for name, one in convolutions]
    try:
        score = network(images.clone().requires_grad_()).gather(1, TARGETS[:, None]).sum()
    finally:
        for handle in handles:
            handle.remove()
    usable = [
        name
        for name, one in outputs.items()
        if runs[name] == 1 and one.ndim == 4 and min(one.shape[2:]) > 1 and one.requires_grad
    ]
    slopes = torch.autograd.grad(score, [outputs[name] for name in usable], allow_unused=True) if usable else ()
    kept = [name for name, slope in zip(usable, slopes, strict=True) if slope is not None and bool(slope.any())]
    if not kept:
        return None, 0
    chosen = min(kept, key=lambda name: (outputs[name].shape[1], -kept.index(name)))
    return chosen, outputs[chosen].shape[1]


# Other ways to the same maps.


def score_of(case: Case, images: Tensor) -> Tensor:
    return case.network(images).gather(1, TARGETS.repeat(len(images) // 2)[:, None]).squeeze(1)


def gradient(case: Case, images: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    return torch.autograd.grad(score_of(case, images).sum(), images)[0]


def noisy(case: Case, deviation: float) -> Tensor:
    """The copies that the methods draw: three, of seed 0."""
    draws = torch.Generator().manual_seed(0)
    return case.images + deviation * torch.randn(3, 1, *case.images.shape[1:], generator=draws).to(case.images)


def smooth(case: Case) -> Tensor:
    return torch.stack([gradient(case, copy) for copy in noisy(case, 0.15)]).mean(0).abs().amax(1)


def variance(case: Case) -> Tensor:
    return torch.stack([gradient(case, copy) for copy in noisy(case, 0.15)]).var(0, unbiased=False).sum(1)


def shap(case: Case) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    ways = torch.rand(3, generator=draws).to(case.images)
    copies = case.images + 0.1 * torch.randn(3, 1, *case.images.shape[1:], generator=draws).to(case.images)
    return (
        torch.stack([copy * gradient(case, way * copy) for way, copy in zip(ways, copies, strict=True)]).mean(0).sum(1)
    )


def integrated(case: Case) -> Tensor:
    places, weights = np.polynomial.legendre.leggauss(4)
    steps = [
        weight / 2 * gradient(case, case.images * ((place + 1) / 2))
        for place, weight in zip(places.tolist(), weights.tolist(), strict=True)
    ]
    return (case.images * torch.stack(steps).sum(0)).sum(1)


RELUS = {"relu", "relu_", "relu6", "hardtanh", "hardtanh_"}
ZERO_AT_ZERO = RELUS | {
    "gelu",
    "silu",
    "silu_",
    "hardswish",
    "hardswish_",
    "mish",
    "tanh",
    "elu",
    "elu_",
    "leaky_relu",
    "leaky_relu_",
}
OTHERS = {
    "sigmoid",
    "sigmoid_",
    "hardsigmoid",
    "softplus",
    "clamp",
    "clamp_",
    "clamp_min",
    "exp",
    "maximum",
    "where",
    "threshold",
    "prelu",
    "selu",
    "celu",
    "rrelu",
}


class Replaced(TorchFunctionMode):
    """Activations by another rule, at the functions that a network's code calls; notes those it has no rule for."""

    def __init__(self, rule: Callable[[str, Tensor, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.rule, self.unknown = rule, set[str]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ZERO_AT_ZERO | OTHERS and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            options = dict(kwargs or {})
            plain = (
                getattr(nn.functional, name.rstrip("_"), None)
                if "inplace" in options or name.endswith("_")
                else function
            )
            options.pop("inplace", None)
            if name in {"relu", "relu6", "hardtanh", "silu", "mish", "elu", "leaky_relu", "hardswish"}:
                args = args[: {"hardtanh": 3, "elu": 2, "leaky_relu": 2}.get(name, 1)]  # without `inplace`
            found = self.rule(name, args[0], (plain or function)(args[0].clone(), *args[1:], **options))
            if found is not None:
                return found
            self.unknown.add(name)
        return function(*args, **(kwargs or {}))


def guided(case: Case) -> Tensor | None:
    def rule(name: str, given: Tensor, after: Tensor) -> Tensor | None:
        if name in ZERO_AT_ZERO - RELUS:
            return after  # passes the plain gradient
        if name not in RELUS:
            return None
        bounded = float(after.detach().max()) == 6 and name != "relu"
        inside = ((given > 0) & (given < 6)) if bounded else given > 0
        hooked = given * inside + (after - given * inside).detach()
        if hooked.requires_grad:
            hooked.register_hook(lambda behind: behind.clamp(min=0))
        return hooked

    with Replaced(rule) as mode:
        found = gradient(case, case.images)
    return None if mode.unknown else found.abs().amax(1)


def relevance(case: Case) -> Tensor | None:
    def rule(name: str, given: Tensor, after: Tensor) -> Tensor | None:
        if name not in ZERO_AT_ZERO:
            return None
        share = torch.where(given == 0, 0.0, after / torch.where(given == 0, 1.0, given)).detach()
        return given * share

    with Replaced(rule) as mode:
        found = gradient(case, case.images)
    return None if mode.unknown else (found * case.images).sum(1)


@torch.no_grad()
def occluded(case: Case) -> Tensor:
    """Mean loss over the windows that cover each pixel, a window at a time."""
    side = case.images.shape[-1]
    window, step = side // 2, side // 4
    plain, total, count = score_of(case, case.images), torch.zeros(2, side, side), torch.zeros(side, side)
    for top in range(0, side - window + 1, step):
        for left in range(0, side - window + 1, step):
            place = (..., slice(top, top + window), slice(left, left + window))
            covered = case.images.clone()
            covered[place] = 0
            total[place] += (plain - score_of(case, covered))[:, None, None]
            count[place[0], place[1], place[2]] += 1
    return total / count


@torch.no_grad()
def rised(case: Case) -> Tensor:
    draws, side = torch.Generator().manual_seed(0), case.images.shape[-1]
    cells = (torch.rand(4, 7, 7, generator=draws) < 0.5).to(case.images)  # in their precision, as the library's
    shifts = (torch.rand(4, 2, generator=draws) * -(-side // 7)).long()
    masks = shifted_masks(cells, shifts, (side, side))
    scores = [case.network(mask * case.images).softmax(1).gather(1, TARGETS[:, None])[:, :, None] for mask in masks]
    return torch.stack([score * mask for score, mask in zip(scores, masks, strict=True)]).sum(0) / 2


@torch.no_grad()
def ablated(case: Case) -> Tensor:
    pieces, plain = superpixels(case.images, 4), score_of(case, case.images)
    found = torch.zeros_like(case.images[:, 0])
    for piece in range(int(pieces.max()) + 1):
        inside = pieces == piece
        lost = plain - score_of(case, case.images * ~inside[:, None])
        found += inside * lost[:, None, None]
    return found


def at_layer(case: Case) -> tuple[Tensor, Tensor]:
    """Features of the layer, and the gradients there."""
    kept = list[Tensor]()

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept.append(output)
        return output.clone()  # or what follows may write into it

    handle = case.network.get_submodule(str(case.layer)).register_forward_hook(keep)
    try:
        score = score_of(case, case.images.clone().requires_grad_())
        slope = torch.autograd.grad(score.sum(), kept[0])[0]
    finally:
        handle.remove()
    return kept[0].detach(), slope


def cam(weigh: Callable[[Tensor, Tensor], Tensor], *, relu: bool = True) -> Callable[[Case], Tensor]:
    """A map from features and gradients, each `(b, c, h, w)`."""

    def oracle(case: Case) -> Tensor:
        features, slope = at_layer(case)
        found = (weigh(features, slope) * features).sum(1)
        return found.clamp(min=0) if relu else found

    return oracle


def products(case: Case) -> Tensor:
    """Sizes of what HiResCAM sums over channels; before a layer norm, which no scale changes, it sums to almost 0."""
    features, slope = at_layer(case)
    return (features * slope).abs().sum(1)


def plus_plus(features: Tensor, slope: Tensor) -> Tensor:
    below = 2 * slope**2 + features.sum((2, 3), keepdim=True) * slope**3
    alpha = torch.where(below == 0, 0.0, slope**2 / torch.where(below == 0, 1.0, below))
    return (alpha * slope.clamp(min=0)).sum((2, 3), keepdim=True)


def weighted_by_features(features: Tensor, slope: Tensor) -> Tensor:
    total = features.sum((2, 3), keepdim=True)
    return (slope * features).sum((2, 3), keepdim=True) / torch.where(total == 0, 1.0, total)


@torch.no_grad()
def without_channels(case: Case) -> Tensor:
    """Ablation-CAM, a channel at a time."""
    with torch.enable_grad():
        features, _ = at_layer(case)
    plain, weights = score_of(case, case.images), []
    layer = case.network.get_submodule(str(case.layer))
    for channel in range(features.shape[1]):
        keep = torch.arange(features.shape[1]) != channel
        handle = layer.register_forward_hook(lambda _, __, output, keep=keep: output * keep[:, None, None])
        weights.append((plain - score_of(case, case.images)) / torch.where(plain == 0, 1.0, plain))
        handle.remove()
    return (torch.stack(weights, 1)[:, :, None, None] * features).sum(1).clamp(min=0)


@torch.no_grad()
def through_channels(case: Case) -> Tensor:
    """Score-CAM, a channel at a time."""
    with torch.enable_grad():
        features, _ = at_layer(case)
    scores = []
    for channel in nn.functional.interpolate(features, case.images.shape[2:], mode="bilinear").transpose(0, 1):
        low, high = channel.amin((1, 2), keepdim=True), channel.amax((1, 2), keepdim=True)
        mask = torch.where(high > low, (channel - low) / (high - low), 0.0)
        scores.append(score_of(case, case.images * mask[:, None]))
    return (torch.stack(scores, 1).softmax(1)[:, :, None, None] * features).sum(1).clamp(min=0)


class Oracle(NamedTuple):
    """Another way to a map, or None where it does not know the network; `sums` compares the sums of maps alone."""

    words: str
    right: Callable[[Case], Tensor | None]
    sums: bool = False
    parts: Callable[[Case], Tensor] | None = None  # what the numbers are sums of, where these may cancel


def change_from_black(case: Case) -> Tensor:
    with torch.no_grad():
        return score_of(case, case.images) - score_of(case, torch.zeros_like(case.images))


ORACLES = {
    "saliency": Oracle("autograd by hand", lambda case: gradient(case, case.images).abs().amax(1)),
    "input_x_gradient": Oracle("autograd by hand", lambda case: (case.images * gradient(case, case.images)).sum(1)),
    "smooth_grad": Oracle("autograd by hand", smooth),
    "var_grad": Oracle("autograd by hand", variance),
    "gradient_shap": Oracle("autograd by hand", shap),
    "integrated_gradients": Oracle("autograd by hand", integrated),
    "deep_lift": Oracle("completeness", change_from_black, sums=True),
    "guided_backprop": Oracle("activations replaced in the code", guided),
    "lrp": Oracle("activations replaced in the code", relevance),
    "occlusion": Oracle("literal loop", occluded),
    "rise": Oracle("literal loop", rised),
    "feature_ablation": Oracle("literal loop", ablated),
    "grad_cam": Oracle("autograd by hand", cam(lambda _, slope: slope.mean((2, 3), keepdim=True))),
    "grad_cam_pp": Oracle("autograd by hand", cam(plus_plus)),
    "hires_cam": Oracle("autograd by hand", cam(lambda _, slope: slope, relu=False), parts=products),
    "layer_cam": Oracle("autograd by hand", cam(lambda _, slope: slope.clamp(min=0))),
    "xgrad_cam": Oracle("autograd by hand", cam(weighted_by_features)),
    "ablation_cam": Oracle("literal loop", without_channels),
    "score_cam": Oracle("literal loop", through_channels),
}  # what has none: LIME, KernelSHAP, Eigen-CAM, IBA, guided Grad-CAM, products of attentions (held to loops in tests)


class TooSlowError(BaseException):
    """Nobody catches it on the way."""


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of this process's own time, not that of a busy machine
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judged(case: Case, method: str) -> dict[str, str]:
    """What became of one method: a status, and words on it."""
    side, options = case.images.shape[-1], dict(OPTIONS.get(method, {}))
    if method == "occlusion":
        options |= {"window": side // 2, "stride": side // 4}
    if method in LAYERED:
        options |= {"layer": case.layer}
    if method in ("score_cam", "ablation_cam") and not 0 < case.channels <= MOST_CHANNELS:
        return {"status": "slow", "words": f"needs a layer of at most {MOST_CHANNELS} channels"}
    images = case.images.clone()
    try:
        maps = values(explain(case.network, images, method, targets=TARGETS, batch_size=32, **options))
    except InputError as error:
        return {"status": "refused", "words": str(error)}
    if not maps.isfinite().all() or not torch.equal(images, case.images):
        return {"status": "wrong", "words": "not finite, or the images were changed"}
    return compared(case, method, maps)


def compared(case: Case, method: str, maps: Tensor) -> dict[str, str]:
    """A map beside what another way gives."""
    oracle = None if method in LAYERED and case.layer is None else ORACLES.get(method)
    right = None if oracle is None else oracle.right(case)
    if oracle is None or right is None:
        return {"status": "ran", "words": ""}
    if oracle.sums:
        maps, size = maps.sum((1, 2)), float(maps.abs().sum((1, 2)).max())
    else:
        size = float((right if oracle.parts is None else oracle.parts(case)).abs().max())
    missed = float((maps - right).abs().max())
    if missed <= TOLERANCE * size:
        return {"status": "right", "words": oracle.words}
    if case.images.dtype == torch.float32:  # rounding may move a number over the kink of a ReLU
        return in_double(case, method)
    return {"status": "wrong", "words": f"off by {missed:.3g} of {size:.3g} ({oracle.words})"}


def in_double(case: Case, method: str) -> dict[str, str]:
    """The same question once more in float64; a network that does not compute in it, as it is, remains wrong."""
    case.network.double()
    try:
        found = judged(case._replace(images=case.images.double()), method)
    finally:
        case.network.float()
    if found["status"] != "right":
        return {"status": "wrong", "words": f"in float32; in float64 {found['status']}: {found['words']}"}
    return {"status": "right", "words": f"{found['words']}, in float64"}


def swept(name: str, methods: Sequence[str] = SWEPT, seconds: int = SECONDS) -> list[dict[str, Any]]:
    """A row for each method of one network; a single one where it cannot be had."""
    try:
        with at_most(4 * seconds):
            case = built(name)
    except TooSlowError:
        return [{"network": name, "method": "", "status": "slow", "words": "to build"}]
    except Exception as error:  # of a library
        return [
            {"network": name, "method": "", "status": "not built", "words": f"{type(error).__name__}: {error}"[:200]}
        ]
    rows = []
    for method in methods:
        begun = time.process_time()
        try:
            with at_most(seconds), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = judged(case, method)
        except TooSlowError:
            found = {"status": "slow", "words": f"over {seconds} s"}
        except Exception as error:  # that is what is looked for
            found = {"status": "error", "words": f"{type(error).__name__}: {error}"[:300]}
        rows.append(
            {
                "network": name,
                "size": case.images.shape[-1],
                "method": method,
                **found,
                "seconds": round(time.process_time() - begun, 2),
            }
        )
    return rows


# The page.

SIGNS = {"right": "✓", "ran": "·", "refused": "-", "slow": "…", "wrong": "WRONG", "error": "ERROR"}
IN_DOUBLE = "✓²"


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The table of what fits what, and why not, in Markdown."""
    networks = list(dict.fromkeys(row["network"] for row in rows if row["method"]))
    cells = {
        (row["network"], row["method"]): IN_DOUBLE if row["words"].endswith("in float64") else SIGNS[row["status"]]
        for row in rows
        if row["method"]
    }
    missing = [row for row in rows if not row["method"]]
    counts = Counter(row["status"] for row in rows if row["method"])
    doubled = sum(sign == IN_DOUBLE for sign in cells.values())
    lines = [
        "<!-- Made by `python -m evaluation.networks --page docs/networks.md`. Edit that program, not this page. -->",
        "",
        "# Which method fits which network",
        "",
        f"{len(networks)} networks with random weights, by {len(SWEPT)} methods, few samples each. "
        + ", ".join(f"{counts[status]} {status}" for status in SIGNS if counts[status])
        + f". {doubled} of those that are right missed in float32, and are so in float64 alone (✓²).",
        "",
        "✓ equal to another way to the same map (autograd by hand, completeness, activations replaced in the code, a "
        "literal loop) · ran and is finite, without another way here (LIME, KernelSHAP, Eigen-CAM, IBA, guided "
        "Grad-CAM and products of attentions are held to theirs in the tests) - refused in words … over the limit of "
        f"{SECONDS} seconds on one core, or of {MOST_CHANNELS} channels for methods that take a pass for each.",
        "",
        "| network | " + " | ".join(METHODS[method].label for method in SWEPT) + " |",
        "| --- |" + " --- |" * len(SWEPT),
    ]
    for network in networks:
        signs = [cells.get((network, method), "") for method in SWEPT]
        lines.append(f"| {network} | {' | '.join(signs)} |")
    if missing:
        lines += [
            "",
            "Not built at any size up to 256 pixels, or not within the limit: "
            + ", ".join(row["network"] for row in missing)
            + ".",
        ]
    return "\n".join(lines) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("evaluation/results/networks"))
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "rows.jsonl"
    if given.page is not None:
        given.page.write_text(page(read(kept)))
        return
    there = {row["network"] for row in read(kept)}
    versions = {name: version(name) for name in ("torch", "torchvision", "timm")}
    facts = {
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": "cpu",
        "seconds": SECONDS,
    }
    (given.out / "circumstances.json").write_text(json.dumps(facts | versions, indent=1) + "\n")
    for name in given.names or names():
        if name in there:
            continue
        rows = swept(name)
        with kept.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        counts = Counter(row["status"] for row in rows)
        print(
            f"{name:45}",
            dict(counts),
            *(
                f"\n    {row['method']}: {row['words']}"
                for row in rows
                if row["status"] in ("wrong", "error", "not built")
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
