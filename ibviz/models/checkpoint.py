"""Checkpoints: weights and configuration of a classifier in one safetensors file; nothing is unpickled."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from pydantic import BaseModel, model_validator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn, uint8

from ibviz.digests import DIGEST_KEY, changed_file_error, digest_json
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.models.classifier import IBClassifier
from ibviz.models.config import UNNAMED, InputConfig, ModelConfig
from ibviz.reading import parsing, validated
from ibviz.table_formats import TextTable, markdown_of

_HEADER_KEY = "ibviz"  # a single metadata key, since safetensors writes several in no fixed order


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with a JSON header; equal input gives equal bytes, and a failure keeps the old file."""
    with replacing(path) as beside:
        beside.write_bytes(encode(tensors, header))


def encode(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytes:
    """Return the bytes that `write_tensors` writes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    digest = _digest(plain, json.loads(json.dumps(header)))
    return save(plain, metadata={_HEADER_KEY: json.dumps({**header, DIGEST_KEY: digest}, sort_keys=True)})


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of tensors on the CPU, with their names, shapes and types, and of their header."""
    digest = hashlib.sha256(digest_json(header).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(errors="surrogatepass"))
        digest.update(tensor.contiguous().reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and header of a file from `write_tensors`; refuse another kind of file, or one that has changed."""
    header = _read_header(path, kind)
    with parsing(f"{path} is damaged", "restore it"), safe_open(path, "pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    digest = header.pop(DIGEST_KEY, None)  # missing in files of older versions
    if digest is not None and digest != _digest(tensors, header):
        raise changed_file_error(path, "restore it, or write it anew")
    return tensors, header


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """Read the header alone; its digest, which covers the tensors, is not checked; another kind of file is refused."""
    header = _read_header(path, kind)
    header.pop(DIGEST_KEY, None)
    return header


def _read_header(path: Path, kind: str) -> dict[str, Any]:
    if not os.path.isfile(path):  # accepts any name, unlike `Path.is_file`
        raise InputError(f"no such file: {path}")
    with parsing(f"{path} is not a safetensors file", f"expected an ibviz {kind}"), safe_open(path, "pt") as file:
        header = json.loads((file.metadata() or {}).get(_HEADER_KEY, "{}"))
    given = header.get("kind", "tensors without an ibviz header") if isinstance(header, dict) else "another header"
    if given != kind:
        raise InputError(f"{path} holds {str(given)[:100]}; expected an ibviz {kind}, as `ibviz train` writes it")
    return header


class TrainingFacts(BaseModel, extra="allow", frozen=True):
    """Facts about the training in a model's file, as far as they are read."""

    recipe: dict[str, dict[str, Any]] = {}
    epoch: int | None = None
    validation: dict[str, Any] = {}
    anchors: list[list[float]] = []
    test: dict[str, Any] = {}
    notes: list[str] = []


class ModelHeader(BaseModel, frozen=True):
    """The header of a model's file."""

    model: ModelConfig
    input: InputConfig
    facts: TrainingFacts = TrainingFacts()

    @model_validator(mode="after")
    def _anchors_are_logged_whole(self) -> "ModelHeader":
        if any(len(epoch) not in (0, self.model.anchors) for epoch in self.facts.anchors):
            raise ValueError(f"facts.anchors should hold {self.model.anchors} anchors after each epoch")
        return self


def save_model(path: Path, model: IBClassifier, facts: Mapping[str, Any]) -> None:
    """Write a classifier with `facts` about its training (recipe, epoch, accuracy).

    Raises `InputError` if the classifier is attached to a module without a name, which cannot be rebuilt from a file.
    """
    if model.config.backbone == UNNAMED:
        raise InputError(
            f"cannot write {path}: this classifier is attached to a module that no name rebuilds; attach "
            "to ibviz.load('timm/NAME'), tell ibviz.wrap its name, or keep its state_dict"
        )
    header = {"kind": "model", "model": model.config.model_dump(), "input": model.spec.model_dump(), "facts": facts}
    write_tensors(path, model.state_dict(), header)


def load_model(path: Path) -> IBClassifier:
    """Rebuild a classifier, in eval mode, from a file of `save_model`."""
    tensors, held = read_tensors(path, "model")
    other = f"{path} was written by another version of ibviz: its configuration does not fit"
    header = validated(ModelHeader, held, other)
    smallest = header.model.latent * max(
        len(header.input.class_names), 2
    )  # lower bound on the weights of decoder and bottleneck
    if smallest > sum(tensor.numel() for tensor in tensors.values()):
        raise InputError(
            f"{path} does not hold the weights its configuration asks for: {header.model.latent} latents "
            f"and {len(header.input.class_names)} classes need more"
        )
    model = IBClassifier(header.model, header.input)
    load_state(model, tensors, path)
    model.facts = held.get("facts", {})
    return model.eval()


def model_card(model: IBClassifier) -> ModelCard:
    """Return the model card for the Hugging Face Hub: architecture, recipe, data, accuracy, anchors."""
    recipe = model.facts.get("recipe", {})
    data = ModelCardData(
        library_name="ibviz",
        pipeline_tag="image-classification",
        tags=["information-bottleneck", "spatial-attention", "interpretability"],
        datasets=[name] if (name := recipe.get("data", {}).get("source")) else None,
    )
    sections = {
        "Architecture": model.config.model_dump(),
        "Input": model.spec.model_dump(exclude={"class_names"}) | {"classes": len(model.spec.class_names)},
        **{f"Recipe: {part}": values for part, values in recipe.items() if part != "model"},
        "Validation, deterministic": model.facts.get("validation", {}),
        "Test": model.facts.get("test", {}),
    }
    notes = "".join(f"- {note}\n" for note in model.facts.get("notes", []))
    tables = [f"## {title}\n\n{_table(values)}" for title, values in sections.items() if values]
    anchors = [] if model.quantizer is None else sorted(round(anchor, 4) for anchor in model.quantizer.anchors.tolist())
    text = "\n\n".join(
        [_CARD, *tables, f"## Anchors\n\n{', '.join(map(str, anchors)) or 'none: continuous attention'}"]
    )
    limits = f"\n## Source and limits\n\n{notes}" if notes else ""
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n{limits}")


_CARD = """# Image classifier with attention through an information bottleneck

Trained with ibviz. Its attention over a grid of cells is snapped to the anchor values below;
`model.inspect(images)` gives it beside the logits.

```python
import ibviz

model = ibviz.load("OWNER/NAME")  # images: float (b, 3, h, w) in [0, 1]; the model normalises
```"""


def _table(values: Mapping[str, Any]) -> str:
    cells = [[name, f"{value:.4g}" if isinstance(value, float) else str(value)] for name, value in values.items()]
    return markdown_of(TextTable("", ["", ""], cells))


def load_state(model: IBClassifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a model; refuse those of another architecture."""
    load_weights(model, tensors, f"{path} does not hold the weights its configuration asks for")


def load_weights(network: nn.Module, tensors: Mapping[str, Tensor], failure: str) -> None:
    """Load tensors into any network; if they are another's, the error says how many differ, and three of them."""
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{failure}: {_differences(network.state_dict(), tensors) or str(error)[:300]}") from error


def _differences(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return in words how two sets of tensors differ.

    >>> import torch
    >>> _differences({"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.ones(3)})
    'it lacks 1 of 2 tensors (b); 1 have another shape (a)'
    """
    other_shape = [name for name in own if name in given and own[name].shape != given[name].shape]
    kinds = {
        f"it lacks {{}} of {len(own)} tensors": [name for name in own if name not in given],
        "{} of its tensors belong to another network": [name for name in given if name not in own],
        "{} have another shape": other_shape,
    }
    return "; ".join(
        f"{said.format(len(names))} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
        for said, names in kinds.items()
        if names
    )
