"""CLIP and SigLIP of transformers with random weights: texts as classes against the networks' own logits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ibviz.attribution.catalogue import METHODS
from ibviz.attribution.methods import explain, predict
from ibviz.errors import InputError
from ibviz.models import texts_as_classes
from ibviz.models.loading import load, wrap
from ibviz.models.texts import head_for_texts

transformers = pytest.importorskip("transformers")
close = torch.testing.assert_close
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXTS = ["a cat", "a dog", "a bird or two"]
SIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VISION = {**SIDE, "image_size": 32, "patch_size": 8}
TEXT = {
    **SIDE,
    "projection_size": 16,
    "vocab_size": 64,
    "max_position_embeddings": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
HEADS = {"CLIP": "softmax", "Siglip": "sigmoid"}


def built(kind: str) -> Any:
    torch.manual_seed(0)
    shared = {"projection_dim": 12} if kind == "CLIP" else {}
    config = getattr(transformers, f"{kind}Config")(text_config=TEXT, vision_config=VISION, **shared)
    network = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3)
    return network


def tokenizer(texts: list[str], *, padding: str, max_length: int, return_tensors: str) -> dict[str, Tensor]:
    """A number a letter, as wide as the longest text where that is longer."""
    assert (padding, return_tensors) == ("max_length", "pt")
    rows = [[0, *(2 + ord(letter) % 60 for letter in text.replace(" ", "")[:9]), 1] for text in texts]
    width = max(max_length, *map(len, rows))
    return {"input_ids": torch.tensor([row + [1] * (width - len(row)) for row in rows])}


def logits_of(network: Any, images: Tensor, texts: list[str]) -> Tensor:
    tokens = tokenizer(texts, padding="max_length", max_length=8, return_tensors="pt")
    return network(pixel_values=images, **tokens).logits_per_image


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_the_one_that_the_network_was_trained_with(kind):
    """CLIP chooses among the texts (Radford 2021), SigLIP answers for each alone (Zhai 2023)."""
    assert head_for_texts(built(kind)) == HEADS[kind]


def wrapped(network: Any, kind: str) -> Any:
    joined = texts_as_classes(network, tokenizer, ["cat", "dog"])
    return wrap(joined, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=["cat", "dog"], size=32, head=HEADS[kind])  # pyright: ignore


@pytest.mark.parametrize("kind", HEADS)
def test_logits_and_gradients_are_those_of_the_whole_network(kind):
    network = built(kind)
    model = wrapped(network, kind)
    image = IMAGES.clone().requires_grad_()
    logits = logits_of(network, (image - 0.5) / 0.25, ["cat", "dog"])
    close(predict(model, IMAGES), logits.softmax(1) if kind == "CLIP" else logits.sigmoid())
    assert (logits[:, 0] - logits[:, 1]).abs().min() > 1e-3
    [gradient] = torch.autograd.grad(logits[:, 1].sum(), image)
    close(explain(model, IMAGES, "saliency", targets=1), gradient.abs().amax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", HEADS)
def test_the_text_side_runs_once(kind):
    network, calls = built(kind), []
    network.text_model.register_forward_hook(lambda *_: calls.append(1))
    model = wrapped(network, kind)
    predict(model, IMAGES)
    explain(model, IMAGES, "rise", masks=5)
    assert calls == [1]
    assert not any(name.startswith("text_model") for name, _ in model.network.named_modules())


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout", "gradient_rollout", "grad_cam"])
def test_attention_and_cams_have_a_cell_a_patch(kind, method):
    """Maps differ with the text, but for those that do not ask for one."""
    model = wrapped(built(kind), kind)
    maps: Any = [explain(model, IMAGES, method, targets=text) for text in (0, 1)]
    assert maps[0].shape == (2, 4, 4)
    assert torch.equal(*maps) == METHODS[method].target_free


def test_a_folder_is_loaded_with_texts_as_classes(tmp_path: Path):
    network = built("CLIP")
    words = {
        "<|startoftext|>": 0,
        "<|endoftext|>": 1,
        **{
            f"{letter}{end}": 2 + 2 * place + bool(end)
            for place, letter in enumerate("abcdefghijklmnopqrstuvwxyz")
            for end in ("", "</w>")
        },
    }
    own = transformers.CLIPTokenizer(vocab=words, merges=[])
    network.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 36},
        "do_resize": True,
        "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model: Any = load(f"transformers/{tmp_path}", classes=["a cat", "a dog"])
    assert (model.spec.size, model.spec.resize, model.spec.class_names, model.head) == (
        32,
        36,
        ("a cat", "a dog"),
        "softmax",
    )
    tokens = own(["a cat", "a dog"], return_tensors="pt")  # without padding
    with torch.no_grad():
        logits = network(pixel_values=model.normalize(IMAGES), **tokens).logits_per_image
    close(predict(model, IMAGES), logits.softmax(1))


def test_what_cannot_be_classes_is_one_line(tmp_path: Path):
    network = built("CLIP")
    some: list[Any] = ["a cat", [], ["cat", ""]]
    for texts in some:
        with pytest.raises(InputError, match="expected a list of texts"):
            texts_as_classes(network, tokenizer, texts)
    with pytest.raises(InputError, match="longer than the 8 tokens"):
        texts_as_classes(network, tokenizer, TEXTS)
    with pytest.raises(InputError, match="need a CLIP or SigLIP"):
        texts_as_classes(nn.Linear(2, 2), tokenizer, ["cat"])
    with pytest.raises(InputError, match="make classes of texts first"):
        wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=["cat"], size=32)
    with pytest.raises(InputError, match="classes are the texts"):
        load("digits", classes=["a cat"])
    with pytest.raises(InputError, match="no network of images and texts"):
        load(f"transformers/{tmp_path}/absent", classes=["a cat"])
