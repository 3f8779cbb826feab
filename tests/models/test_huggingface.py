"""Image classifiers of transformers with random weights, kept in a folder as the Hub keeps them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibviz.attribution.methods import explain, predict, values
from ibviz.errors import InputError
from ibviz.models.attach import attach
from ibviz.models.hooks import replaced_output
from ibviz.models.huggingface import head_for, input_of
from ibviz.models.loading import load, wrap

transformers = pytest.importorskip("transformers")
close = torch.testing.assert_close

SMALL: dict[str, dict[str, Any]] = {
    "ViT": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 4,
    },
    "DeiT": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 32,
        "patch_size": 4,
    },
    "Swin": {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
        "image_size": 32,
        "patch_size": 2,
    },
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": 32, "patch_size": 4},
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
NAMES = {0: "cat", 1: "dog", 2: "bird"}


def built(kind: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{"id2label": NAMES, **SMALL[kind], **changes})
    network = getattr(transformers, f"{kind}ForImageClassification")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # those of the head are almost zero
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return network


def kept(folder: Path, network: Any, **changes: Any) -> str:
    network.save_pretrained(folder / "owner" / "name")
    (folder / "owner" / "name" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changes))
    return f"transformers/{folder}/owner/name"


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", SMALL)
def test_a_classifier_of_a_folder_is_its_network_with_the_processors_normalisation(kind, images, tmp_path):
    network = built(kind)
    model = load(kept(tmp_path, network))
    assert (model.spec.size, model.spec.class_names) == (32, ("cat", "dog", "bird"))
    mean, std = (torch.tensor(PROCESSOR[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    inputs = images.clone().requires_grad_()
    logits = network((inputs - mean) / std).logits
    close(predict(model, images), logits.softmax(1))
    [gradient] = torch.autograd.grad(logits[:, 2].sum(), inputs)
    close(explain(model, images, "saliency", targets=2), gradient.abs().amax(1))
    assert values(explain(model, images, "grad_cam")).any()


@pytest.mark.parametrize(("kind", "prefix"), [("ViT", 1), ("DeiT", 2)])
def test_tokens_before_the_patches_are_no_cells(kind, prefix, images):
    """HiResCAM by hand: patches times their gradient, those before them left out."""
    network = built(kind)
    layer = {"ViT": "vit.layers.0", "DeiT": "deit.layers.0"}[kind]
    model = wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=list(NAMES.values()), size=32)
    kept_tokens: list[Tensor] = []
    with replaced_output(network.get_submodule(layer), lambda output: kept_tokens.append(output) or output):
        logits: Tensor = network((images - 0.5) / 0.25).logits
    [gradient] = torch.autograd.grad(logits[:, 1].sum(), kept_tokens)
    expected = (kept_tokens[0] * gradient).sum(2)[:, prefix:].unflatten(1, (8, 8))
    close(explain(model, images, "hires_cam", layer=f"network.{layer}", targets=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "names", "head"),
    [
        ("multi_label_classification", NAMES, "sigmoid"),
        ("regression", {0: "age"}, "none"),
        (None, {0: "age"}, "none"),
        (None, NAMES, "softmax"),
        ("single_label_classification", NAMES, "softmax"),
    ],
)
def test_the_head_is_that_of_the_configuration(problem, names, head, images, tmp_path):
    network = built("ResNet", id2label=names, problem_type=problem)
    assert head_for(network.config) == head
    model = load(kept(tmp_path, network))
    logits = network((images - model.normalize.mean) / model.normalize.std).logits
    expected = {"sigmoid": logits.sigmoid(), "none": logits, "softmax": logits.softmax(1)}[head]
    close(predict(model, images), expected)


SIZES: list[tuple[dict[str, Any], int | tuple[int, int], int | None]] = [
    ({"size": {"height": 32, "width": 48}}, (32, 48), None),
    ({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}, 224, 256),
    ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, 224, 256),
    ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, 384, None),
    ({"size": {"shortest_edge": 224}}, 224, None),
    ({}, 64, None),
]


@pytest.mark.parametrize(("prepared", "size", "resize"), SIZES)
def test_sizes_follow_the_processor_and_otherwise_the_configuration(prepared, size, resize):
    config = transformers.ViTConfig(image_size=64, num_channels=1, id2label=NAMES)
    found = input_of(config, {"do_normalize": False, **prepared}, "owner/name", list(NAMES.values()))
    assert (found.size, found.resize, found.mean, found.std) == (size, resize, (0.0,), (1.0,))
    with pytest.raises(InputError, match="owner/name does not divide its pixels by 255"):
        input_of(config, {"rescale_factor": 1 / 127.5, **prepared}, "owner/name", list(NAMES.values()))


def test_what_is_not_there_or_does_not_go_together_is_one_line(tmp_path, images):
    with pytest.raises(InputError, match=r"transformers has no image classifier .*absent"):
        load(f"transformers/{tmp_path}/absent")
    with pytest.raises(InputError, match="brings its own weights"):
        load("transformers/owner/name", weights="file.safetensors")
    network = built("ResNet")
    with pytest.raises(InputError, match=r"expected logits .*with the key.*'logits'; say which part"):
        explain(network, images, "saliency")
    with pytest.raises(InputError, match="attention is trained with a softmax"):
        attach(wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=list(NAMES.values()), size=32))
