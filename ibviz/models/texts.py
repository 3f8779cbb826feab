"""Texts as classes: the image side of CLIP or SigLIP, with what its text side says of each text computed once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ibviz.errors import InputError
from ibviz.heads import HeadName
from ibviz.models.hooks import evaluating


class TextClassifier(nn.Module):
    """The image side of a network of images and texts, with a linear layer that holds the texts.

    >>> matched = TextClassifier(nn.Flatten(), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.zeros(2))
    >>> matched(torch.tensor([[[[3.0, 4.0]]]])).detach()
    tensor([[0.8000, 0.6000]])
    """

    def __init__(self, images: nn.Module, texts: Tensor, bias: Tensor, project: nn.Module | None = None) -> None:
        """Keep the image side, the scaled features of the texts `(classes, width)`, and what is added to each logit."""
        super().__init__()
        self.images, self.project = images, project or nn.Identity()
        self.texts = nn.Linear(texts.shape[1], texts.shape[0]).to(texts)
        with torch.no_grad():
            self.texts.weight.copy_(texts)
            self.texts.bias.copy_(bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(b, classes)` of normalised images."""
        seen = self.images(images)
        features = self.project(getattr(seen, "pooler_output", seen))
        return self.texts(features / features.norm(dim=-1, keepdim=True))


def joins_texts(network: object) -> bool:
    """Whether a network compares images with texts, as CLIP and SigLIP of `transformers` do.

    >>> joins_texts(nn.Linear(2, 2))
    False
    """
    parts = ("get_text_features", "vision_model", "logit_scale")
    return isinstance(network, nn.Module) and all(hasattr(network, part) for part in parts)


@torch.no_grad()
def texts_as_classes(network: Any, tokenizer: Callable[..., Any], texts: Sequence[str]) -> TextClassifier:
    """Make a classifier of a CLIP or SigLIP of `transformers`, with one class for each text.

    The text side runs once, here; images meet its stored features. Give the result to `ibviz.wrap`, for SigLIP with
    `head="sigmoid"`. `tokenizer` is the network's own. Raises `InputError` for another kind of network, for no texts
    and for one that is longer than the network reads.
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
        found = network.get_text_features(**{name: tensor.to(network.device) for name, tensor in tokens.items()})
    features = getattr(found, "pooler_output", found)
    features = features / features.norm(dim=-1, keepdim=True) * network.logit_scale.exp()
    bias = getattr(network, "logit_bias", torch.zeros(()))
    project = getattr(network, "visual_projection", None)
    return TextClassifier(network.vision_model, features, bias.expand(len(texts)).to(features), project)


def head_for_texts(network: object) -> HeadName:
    """What the logits mean: independent answers where the network adds a bias, as SigLIP does, otherwise one text."""
    return "sigmoid" if hasattr(network, "logit_bias") else "softmax"
