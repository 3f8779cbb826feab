"""Class activation maps beside those of TorchCAM and pytorch-grad-cam, where they are installed (extra `peers`).

TorchCAM is asked for maps without its stretching to [0, 1]; of pytorch-grad-cam the weighted sum is taken before it is
stretched and enlarged. What then still differs is said at each test.
"""

from typing import Any, cast

import pytest
import torch
from networks import TwoParts
from torch import Tensor, nn

from ibviz.attribution.catalogue import METHODS

close = torch.testing.assert_close
TARGETS = [0, 2, 1, 0]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def ours(method: str, model: TwoParts, images: Tensor) -> Tensor:
    return cast(Tensor, METHODS[method](model, images, torch.tensor(TARGETS), layer="between"))


def torchcam(name: str, model: TwoParts, images: Tensor) -> Tensor:
    methods = pytest.importorskip("torchcam.methods")
    with getattr(methods, name)(model, "between", input_shape=(3, 12, 12)) as extractor:
        scores = model(images.clone().requires_grad_())
        [maps] = extractor(class_idx=TARGETS, scores=scores, normalized=False)
    return maps.detach()


def grad_cam(name: str, model: TwoParts, images: Tensor) -> Tensor:
    peer: Any = pytest.importorskip("pytorch_grad_cam")
    targets = [peer.utils.model_targets.ClassifierOutputTarget(k) for k in TARGETS]
    with getattr(peer, name)(model=model, target_layers=[model.between]) as extractor:
        extractor(input_tensor=images, targets=targets)
        seen = extractor.activations_and_grads
        features, gradients = seen.activations[0].numpy(), seen.gradients[0].numpy() if seen.gradients else None
        maps = extractor.get_cam_image(images, model.between, targets, features, gradients, eigen_smooth=False)
    return torch.from_numpy(maps).float().relu()


@pytest.mark.parametrize(
    ("method", "name"), [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM"), ("xgrad_cam", "XGradCAM")]
)
def test_torchcam(method, name, images):
    close(ours(method, TwoParts(), images), torchcam(name, TwoParts(), images), rtol=1e-4, atol=1e-6)


def test_torchcams_grad_cam_pp_does_not_divide(images):
    """TorchCAM divides a copy (`alpha[mask].div_(...)`), so that squared gradients alone weigh the positive ones."""
    model = TwoParts()
    with torch.no_grad():
        features = model.body(images)
    inputs = features.clone().requires_grad_()
    [gradient] = torch.autograd.grad(model.head(inputs).gather(1, torch.tensor(TARGETS)[:, None]).sum(), [inputs])
    weights = (gradient**2 * gradient.relu()).sum((2, 3), keepdim=True)
    theirs = torchcam("GradCAMpp", model, images)
    close(theirs, (weights * features).sum(1).relu(), rtol=1e-4, atol=1e-6 * theirs.max().item())
    mine = ours("grad_cam_pp", model, images)
    assert torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1] < 0.999


def on_full_grid() -> TwoParts:
    """The network with a layer of the image's size, which nothing has to enlarge."""
    model = TwoParts()
    model.body[0] = nn.Conv2d(3, 6, 3, 1, 1)
    model.head[0] = nn.Conv2d(9, 8, 3, 2, 0, dilation=2)
    return model


def test_torchcams_score_cam_stretches_before_it_enlarges(images):
    """Ours enlarges first, as the paper's algorithm has it; on a layer of the image's size both are the same."""
    model = on_full_grid()
    close(ours("score_cam", model, images), torchcam("ScoreCAM", model, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("grad_cam", "GradCAM"),
        ("grad_cam_pp", "GradCAMPlusPlus"),
        ("layer_cam", "LayerCAM"),
        ("xgrad_cam", "XGradCAM"),
        ("hires_cam", "HiResCAM"),
        ("ablation_cam", "AblationCAM"),
    ],
)
def test_pytorch_grad_cam(method, name, images):
    """It adds 1e-6 or 1e-7 to denominators, little beside the gradients of this head; HiResCAM gets a ReLU, which ours
    lacks; and Ablation-CAM sets channels to -1e7 unless the least feature is 0, as it is behind a ReLU."""
    model = TwoParts()
    model.body.append(nn.ReLU())
    with torch.no_grad():
        model.head.get_parameter("3.weight").mul_(100)
    maps = ours(method, model, images).relu()
    close(maps, grad_cam(name, model, images), rtol=1e-2, atol=1e-4 * maps.max().item())


def test_pytorch_grad_cams_score_cam_aligns_corners(images):
    """It enlarges with corners aligned, ours as the images were made smaller; without enlarging both are the same."""
    model = on_full_grid()
    close(ours("score_cam", model, images), grad_cam("ScoreCAM", model, images), rtol=1e-4, atol=1e-5)


def test_pytorch_grad_cams_eigen_cam_subtracts_the_mean_and_leaves_the_sign_open(images):
    """The paper decomposes the features themselves; the peer first takes every channel's mean from them."""
    model = TwoParts()
    theirs = grad_cam("EigenCAM", model, images)
    features = model.body(images).detach()
    centred = (features - features.mean((2, 3), keepdim=True)).flatten(2).transpose(1, 2)
    projected = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[:, :1].transpose(1, 2)).view(4, 6, 6)
    for one, other in zip(theirs, projected, strict=True):
        either = min(
            (one - sign * other.clamp(0 if sign > 0 else None, None if sign > 0 else 0)).abs().max().item()
            for sign in (1, -1)
        )
        assert either < 1e-4
