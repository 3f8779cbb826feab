"""The attribution methods of TorchCAM, pytorch-grad-cam, Captum and TorchRay, and RISE and IBA as published."""

import importlib
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from importlib.util import find_spec
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluation.speed.cases.attribution import DRAWS, Subject
from evaluation.speed.records import Run
from ibviz.attribution.superpixels import superpixels

TORCHCAM = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMpp",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "score_cam": "ScoreCAM",
}
GRAD_CAM = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "xgrad_cam": "XGradCAM",
    "hires_cam": "HiResCAM",
    "eigen_cam": "EigenCAM",
    "score_cam": "ScoreCAM",
    "ablation_cam": "AblationCAM",
}


def peers(given: Subject, method: str) -> dict[str, Run]:
    """Return the peers that have the method and are installed."""
    runs: dict[str, Run] = {}
    if method in TORCHCAM and find_spec("torchcam"):
        runs["TorchCAM"] = torchcam(given, method)
    if method in GRAD_CAM and find_spec("pytorch_grad_cam"):
        runs["pytorch-grad-cam"] = grad_cam(given, method)
    if method == "rise":
        masks = DRAWS["rise"]["masks"]
        if find_spec("torchray"):
            runs["TorchRay"] = torchray_rise(given.model, given.images, given.targets, masks)
        runs["RISE as published"] = partial(published_rise, given.model, given.images, given.targets, masks)
    if (run := captum(given, method)) is not None:
        runs["Captum"] = run
    return runs


def torchcam(given: Subject, method: str) -> Run:
    peer = importlib.import_module("torchcam.methods")

    def run() -> object:
        shape = tuple(given.images.shape[1:])
        with getattr(peer, TORCHCAM[method])(given.model, given.layer_for(method), input_shape=shape) as cam:
            return cam(given.targets.tolist(), given.model(given.images.clone().requires_grad_()), normalized=False)

    return run


def grad_cam(given: Subject, method: str) -> Run:
    peer = importlib.import_module("pytorch_grad_cam")
    target_class = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget

    def run() -> object:
        targets: Any = [target_class(target) for target in given.targets.tolist()]
        layer = given.model.get_submodule(given.layer_for(method))
        kind = getattr(peer, GRAD_CAM[method])
        with redirect_stderr(StringIO()), kind(model=given.model, target_layers=[layer]) as cam:
            return cam(input_tensor=given.images, targets=targets)

    return run


def torchray_rise(model: nn.Module, images: Tensor, targets: Tensor, masks: int) -> Run:
    rise_class = importlib.import_module("torchray.attribution.rise").rise_class
    probabilities = nn.Sequential(model, nn.Softmax(1))
    return lambda: rise_class(probabilities, images, target=targets, num_masks=masks)


@torch.no_grad()
def published_rise(model: nn.Module, images: Tensor, targets: Tensor, count: int) -> Tensor:
    """One mask after the other enlarged and shifted, then image after image in passes of 100 (Petsiuk 2018)."""
    side = images.shape[2]
    cell, masks = -(-side // 7), torch.empty(count, 1, side, side)
    for mask in masks:
        down, right = torch.randint(cell, (2,)).tolist()
        cells = (torch.rand(1, 1, 7, 7) < 0.5).float()
        large = F.interpolate(cells, size=(8 * cell, 8 * cell), mode="bilinear")
        mask.copy_(large[0, :, down : down + side, right : right + side])
    masks, maps = masks.to(images.device), []
    for image, target in zip(images.split(1), targets, strict=True):
        scores = torch.cat([model(part * image).softmax(1) for part in masks.split(100)])
        maps.append(scores[:, target] @ masks.flatten(1) / count / 0.5)
    return torch.stack(maps).unflatten(1, (side, side))


def captum(given: Subject, method: str) -> Run | None:
    """Captum called directly, all images at once if it takes them, with its own defaults for its passes."""
    import captum.attr as peer

    model, inputs, target = given.model, given.images.clone().requires_grad_(), given.targets
    draws, side = DRAWS.get(method, {}), given.window

    def noisy(kind: str) -> object:
        tunnel = peer.NoiseTunnel(peer.Saliency(model))
        return tunnel.attribute(inputs, nt_type=kind, nt_samples=draws["samples"], stdevs=0.15, target=target)

    def regressed(explainer: Any) -> object:
        pieces = superpixels(given.images, draws["segments"])[:, None, None]
        return [
            explainer.attribute(image, target=label, feature_mask=piece, n_samples=draws["samples"])
            for image, label, piece in zip(given.images.split(1), target.split(1), pieces, strict=True)
        ]

    def layer() -> nn.Module:
        return model.get_submodule(given.layer)

    runs: dict[str, Callable[[], object]] = {
        "grad_cam": lambda: peer.LayerGradCam(model, layer()).attribute(inputs, target),
        "guided_grad_cam": lambda: peer.GuidedGradCam(model, layer()).attribute(inputs, target),
        "saliency": lambda: peer.Saliency(model).attribute(inputs, target),
        "input_x_gradient": lambda: peer.InputXGradient(model).attribute(inputs, target),
        "integrated_gradients": lambda: peer.IntegratedGradients(model).attribute(
            inputs, target=target, n_steps=draws["steps"]
        ),
        "smooth_grad": lambda: noisy("smoothgrad"),
        "var_grad": lambda: noisy("vargrad"),
        "gradient_shap": lambda: peer.GradientShap(model).attribute(
            inputs, torch.zeros_like(inputs[:1]), n_samples=draws["samples"], stdevs=0.1, target=target
        ),
        "deep_lift": lambda: peer.DeepLift(model).attribute(inputs, target=target),
        "guided_backprop": lambda: peer.GuidedBackprop(model).attribute(inputs, target),
        "lrp": lambda: peer.LRP(model).attribute(inputs, target),
        "occlusion": lambda: peer.Occlusion(model).attribute(inputs, (3, side, side), (3, side, side), target=target),
        "feature_ablation": lambda: peer.FeatureAblation(model).attribute(
            inputs, target=target, feature_mask=superpixels(given.images, draws["segments"])[:, None]
        ),
        "lime": lambda: regressed(peer.Lime(model)),
        "kernel_shap": lambda: regressed(peer.KernelShap(model)),
    }
    return runs.get(method)
