"""Texts as classes: the image encoder of CLIP or SigLIP, with the features of the texts computed once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.heads import HeadName
from ibviz.models.hooks import evaluating


class TextClassifier(nn.Module):
    """Image encoder of a network of images and texts, with the features of the texts as a linear layer.

    >>> classifier = TextClassifier(nn.Flatten(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2))
    >>> classifier(torch.tensor([[[[3.0, 4.0]]]])).detach()
    tensor([[0.8000, 0.6000]])
    """

    def __init__(self, images: nn.Module, texts: Tensor, bias: Tensor, project: nn.Module | None = None) -> None:
        """Build from the image encoder, the scaled features of the texts `(classes, width)`, and the logits' bias."""
        super().__init__()
        self.images, self.project = images, project or nn.Identity()
        self.texts = nn.Linear(texts.shape[1], texts.shape[0]).to(texts)
        with torch.no_grad():
            self.texts.weight.copy_(texts)
            self.texts.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits `(b, classes)` of normalised images."""
        encoded = self.images(images)
        features = self.project(getattr(encoded, "pooler_output", encoded))
        return self.texts(features / features.norm(dim=-1, keepdim=True))


def joins_texts(network: object) -> bool:
    """Return True if a network compares images with texts, such as CLIP and SigLIP of `transformers`.

    >>> joins_texts(nn.Linear(2, 2))
    False
    """
    parts = ("get_text_features", "vision_model", "logit_scale")
    return isinstance(network, nn.Module) and all(hasattr(network, part) for part in parts)


@torch.no_grad()
def texts_as_classes(network: Any, tokenizer: Callable[..., Any], texts: Sequence[str]) -> TextClassifier:
    """Build a classifier from a CLIP or SigLIP of `transformers`, with one class per text.

    The text encoder runs once; images are compared with its stored features. Pass the result to `ibviz.wrap`, for
    SigLIP with `head="sigmoid"`. `tokenizer` is that of the network. Raises `InputError` for another kind of network,
    for an empty list of texts, and for a text that is too long.
    """
    if not joins_texts(network):
        raise InputError(f"texts as classes need a CLIP or SigLIP of transformers; got {type(network).__name__}")
    if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise InputError(f"expected a list of texts, one for each class; got {texts!r}")
    longest = network.config.text_config.max_position_embeddings
    tokens = dict(tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt"))
    if tokens["input_ids"].shape[1] > longest:
        raise InputError(f"a text is longer than the {longest} tokens that this network reads; shorten it")
    with evaluating(network):
        encoded = network.get_text_features(**{name: tensor.to(network.device) for name, tensor in tokens.items()})
    features = getattr(encoded, "pooler_output", encoded)
    features = features / features.norm(dim=-1, keepdim=True) * network.logit_scale.exp()
    bias = getattr(network, "logit_bias", torch.zeros(()))
    project = getattr(network, "visual_projection", None)
    return TextClassifier(network.vision_model, features, bias.expand(len(texts)).to(features), project)


def head_for_texts(network: object) -> HeadName:
    """Return the head of the logits: sigmoid if the network adds a bias, as SigLIP does, otherwise softmax."""
    return "sigmoid" if hasattr(network, "logit_bias") else "softmax"
