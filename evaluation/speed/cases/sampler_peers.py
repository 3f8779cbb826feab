"""RISE, KernelSHAP, LIME and SmoothGrad by peers, as functions of a count and a seed."""

import importlib
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.speed.cases.attribution_peers import published_rise, torchray_rise
from evaluation.speed.cases.samplers import SEGMENTS, Estimate, Sampler, Scene
from ibviz.attribution.superpixels import superpixels

ROWS = 64  # changed images in one pass


def peers(given: Scene, method: str) -> dict[str, Sampler]:
    """Return the peers that have the method and are installed."""
    if method == "rise":
        return _rise(given)
    if method == "kernel_shap":
        return {"Captum": Sampler(captum(given, "KernelShap")), **_shap(given)}
    if method == "lime":
        lime = {"lime": Sampler(lime_package(given), own_estimand=True)} if find_spec("lime") else {}
        return {"Captum": Sampler(captum(given, "Lime")), **lime}
    return {"Captum": Sampler(smooth_grad(given))}


def _rise(given: Scene) -> dict[str, Sampler]:
    targets = torch.tensor([given.target], device=given.image.device)

    def published(count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return published_rise(given.model, given.image, targets, count)[0]

    def torchray(count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        maps: Any = torchray_rise(given.model, given.image, targets, count)()
        return maps[0, 0]

    samplers = {"RISE as published": Sampler(published)}
    if find_spec("torchray"):
        samplers["TorchRay"] = Sampler(torchray, own_estimand=True)
    return samplers


def captum(given: Scene, name: str) -> Estimate:
    """KernelShap, or Lime with the kernel of ours: cosine distance between images, and ridge regression."""
    peer = importlib.import_module("captum.attr")
    options: dict[str, Any] = {}
    if name == "Lime":
        models = importlib.import_module("captum._utils.models.linear_model")
        kernels = importlib.import_module("captum.attr._core.lime")
        options["interpretable_model"] = models.SkLearnRidge(alpha=1.0)
        options["similarity_func"] = kernels.get_exp_kernel_similarity_function("cosine", kernel_width=0.25)

    def estimate(count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        pieces = superpixels(given.image, SEGMENTS)[:, None]
        explainer = getattr(peer, name)(given.model, **options)
        return explainer.attribute(
            given.image,
            target=given.target,
            baselines=0.0,
            feature_mask=pieces,
            n_samples=count,
            perturbations_per_eval=ROWS,
        )[0, 0]

    return estimate


def smooth_grad(given: Scene) -> Estimate:
    """Captum's noise tunnel over signed gradients, made a map as ours: its size, the largest over colours."""
    peer = importlib.import_module("captum.attr")

    def estimate(count: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        inputs = given.image.clone().requires_grad_()
        tunnel = peer.NoiseTunnel(peer.Saliency(given.model))
        mean = tunnel.attribute(
            inputs,
            nt_type="smoothgrad",
            nt_samples=count,
            nt_samples_batch_size=min(count, ROWS),
            stdevs=0.15 * float(inputs.detach().amax() - inputs.detach().amin()),
            target=given.target,
            abs=False,
        )
        return mean[0].abs().amax(0).detach()

    return estimate


def _shap(given: Scene) -> dict[str, Sampler]:
    if not find_spec("shap"):
        return {}
    return {
        "shap, kernel": Sampler(shap_kernel(given)),
        "shap, partition": Sampler(shap_partition(given), own_estimand=True),
    }


@torch.no_grad()
def logits(given: Scene, images: Tensor) -> np.ndarray:
    return torch.cat([given.model(part)[:, given.target] for part in images.split(ROWS)]).double().cpu().numpy()


def shap_kernel(given: Scene) -> Estimate:
    """Shapley values of the superpixels that ours takes, against black."""
    peer = importlib.import_module("shap")

    def estimate(count: int, seed: int) -> Tensor:
        pieces = superpixels(given.image, SEGMENTS)[0]
        number = int(pieces.max()) + 1

        def scores(shown: np.ndarray) -> np.ndarray:
            kept = torch.from_numpy(shown).float().to(given.image.device)[:, pieces]
            return logits(given, kept[:, None] * given.image)

        np.random.seed(seed)  # noqa: NPY002 - the generator from which the peer draws
        explainer = peer.KernelExplainer(scores, np.zeros((1, number)))
        values = explainer.shap_values(np.ones((1, number)), nsamples=count, l1_reg=False, silent=True)
        return torch.from_numpy(np.asarray(values).reshape(-1)).float()[pieces.cpu()]

    return estimate


def shap_partition(given: Scene) -> Estimate:
    """Owen values of halves of the image, halved again, against black; the seed plays no part."""
    peer = importlib.import_module("shap")
    array = given.image[0].permute(1, 2, 0).cpu().numpy()

    def scores(states: np.ndarray) -> np.ndarray:
        return logits(given, torch.from_numpy(states).float().permute(0, 3, 1, 2).to(given.image.device))

    def estimate(count: int, seed: int) -> Tensor:
        masker = peer.maskers.Image(np.zeros_like(array), array.shape)
        explainer = peer.PartitionExplainer(scores, masker)
        explanation = explainer(array[None], max_evals=count, batch_size=ROWS, silent=True)
        return torch.from_numpy(np.asarray(explanation.values[0])).float().sum(-1)

    return estimate


def lime_package(given: Scene) -> Estimate:
    """The `lime` package on the superpixels that ours takes; its distances are those of choices, not of images."""
    peer = importlib.import_module("lime.lime_image")
    array = given.image[0].permute(1, 2, 0).cpu().double().numpy()

    def scores(states: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(np.asarray(states)).float().permute(0, 3, 1, 2).to(given.image.device)
        return logits(given, images)[:, None]

    def estimate(count: int, seed: int) -> Tensor:
        pieces = superpixels(given.image, SEGMENTS)[0].cpu()
        with redirect_stderr(StringIO()):  # its progress
            told = peer.LimeImageExplainer(random_state=seed).explain_instance(
                array,
                scores,
                labels=(0,),
                top_labels=None,
                hide_color=0,
                num_samples=count,
                batch_size=ROWS,
                segmentation_fn=lambda _: pieces.numpy(),
            )
        weights = torch.zeros(int(pieces.max()) + 1)
        for feature, weight in told.local_exp[0]:
            weights[feature] = weight
        return weights[pieces]

    return estimate
