"""The functions `explain`, which runs attribution methods, and `predict`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from ibviz.attribution.catalogue import Explanation, Method, checked_options, method_of
from ibviz.attribution.class_choice import CLASS_RULES, classes_by_name
from ibviz.attribution.door import GivenTargets, admitted, check_batch, guarded, one_class_each
from ibviz.attribution.trial import tried
from ibviz.errors import InputError, not_finite
from ibviz.heads import head_of
from ibviz.metrics.score import targets_by
from ibviz.models.hooks import as_written, evaluating, replaced_output, unsealed
from ibviz.progress import progress
from ibviz.types import AttentionMap, Given, Images, Labels, Maps

_BATCH, _BATCH_ON_CPU = 64, 16  # more images than its caches hold make a processor slower


def explain(
    model: nn.Module,
    images: Given,
    method: "str | Method | Callable[..., Explanation]",
    *,
    targets: GivenTargets | str | Sequence[str | int] | None = None,
    batch_size: int | None = None,
    **options: object,
) -> Explanation:
    """Return the maps of a batch of images by one method, on the method's native grid, signed and unnormalised.

    Args:
        model: Any network; it runs in eval mode and is left as it was.
        images: `(b, channels, h, w)` in [0, 1], a tensor or a NumPy array; it is never modified.
        method: A key of `METHODS`, `captum:NAME`, `file.py:name`, `package.module:name`, or a function
            `(model, images, targets, *, options)`.
        targets: Class of each image, or one for all, by number or name; or "predicted", the default, or "runner_up".
        batch_size: The most images, changed or not, in one pass; by default 16 on a processor, 64 elsewhere.
        options: Options of the method.

    Returns:
        An `AttentionMap` for `attention`, a tensor `(b, rows, columns)` for every other method.

    Raises:
        InputError: For an unknown method or option, listing the known ones, for targets that are not classes of the
            network, for images of another shape or range, and for an output that is not `(b, classes)`; see
            `ibviz.wrap`.

    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    >>> explain(network, torch.rand(2, 3, 8, 8), "uniform").shape
    torch.Size([2, 1, 1])
    """
    method = method_of(method)
    given = checked_options(method, options)
    if batch_size is None:
        batch_size = _BATCH if isinstance(images, Tensor) and images.device.type != "cpu" else _BATCH_ON_CPU
    if "batch_size" in method.options:
        given["batch_size"] = batch_size
    check_batch(images, batch_size)
    model = unsealed(model)
    rule = _class_rule(targets)
    with evaluating(model), as_written(model), torch.inference_mode(False):  # a copy of the labels can enter a graph
        images = admitted(model, images)
        classes = one_class_each(classes_by_name(targets, model), images) if rule is None else rule
        blind = method.control and not method.whole  # the network is asked nothing
        with guarded(model, images), nullcontext() if blind else tried(model, images):
            maps = _explained(model, images, partial(method, **given), method, classes, batch_size)
    if not (maps.mean if isinstance(maps, AttentionMap) else maps).isfinite().all():
        raise not_finite(f"maps of {method.label}")
    return maps


def _class_rule(targets: object) -> str | None:
    """Return the rule that `targets` names; None for classes."""
    if targets is None:
        return "predicted"
    if not isinstance(targets, str) or targets not in CLASS_RULES:
        return None
    if targets == "true":
        raise InputError("explain does not know the true classes; give them: targets=labels")
    return targets


def _explained(
    model: nn.Module,
    images: Images,
    function: Callable[..., Explanation],
    method: Method,
    targets: Labels | str,
    batch_size: int,
) -> Explanation:
    """Return the maps of the given classes, or of those that a rule chooses."""
    if method.target_free:  # the classes play no part
        targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    elif isinstance(targets, str):
        targets = targets_by(targets, _probabilities(model, images, batch_size), head=head_of(model)).classes
    size = len(images) if method.whole else batch_size
    chunks = list(zip(images.split(size), targets.split(size), strict=True))
    with classes_in_range(model, targets):
        return concatenate(
            [_checked(function(model, *chunk), method, chunk[0]) for chunk in progress(chunks, method.label)]
        )


def _checked(maps: object, method: Method, images: Images) -> Explanation:
    """Return maps after a check that there is one per image; a function of the user's own may return anything."""
    if isinstance(maps, AttentionMap):
        return maps
    if not isinstance(maps, Tensor) or maps.ndim != 3 or len(maps) != len(images) or not maps.is_floating_point():
        came = f"{tuple(maps.shape)} of {maps.dtype}" if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(
            f"{method.label} gives {came}; expected maps ({len(images)}, rows, columns) of floating-point numbers"
        )
    return maps.detach()


@contextmanager
def classes_in_range(model: nn.Module, targets: Labels) -> Iterator[None]:
    """Raise `InputError` if a target is no class of the logits of a pass inside the block; this costs no extra pass."""
    low, high = (int(label) for label in targets.aminmax())

    def check(logits: Tensor) -> Tensor:
        if low < 0 or high >= logits.shape[1]:
            raise InputError(
                f"targets must be classes, 0 to {logits.shape[1] - 1} of this model; got {low} to {high}; "
                "leave out images whose class is unknown, or targets, for those predicted"
            )
        return logits

    with replaced_output(model, check):
        yield


def predict(model: nn.Module, images: Given, *, batch_size: int = 256) -> Tensor:
    """Return class probabilities `(b, classes)` by the model's head, in float32; for a regression its outputs.

    Args:
        model: Any network; it runs in eval mode and is left as it was.
        images: `(b, channels, h, w)` in [0, 1], a tensor or a NumPy array.
        batch_size: The most images in one pass.

    Raises:
        InputError: For images of another shape or range, and for an output that is not `(b, classes)`; see
            `ibviz.wrap`.
    """
    check_batch(images, batch_size)
    model, images = unsealed(model), admitted(model, images)
    with evaluating(model), guarded(model, images), tried(model, images):
        return _probabilities(model, images, batch_size)


@torch.no_grad()
def _probabilities(model: nn.Module, images: Images, batch_size: int) -> Tensor:
    head = head_of(model)
    probabilities = torch.cat([head.probability(model(part).float()) for part in images.split(batch_size)])
    if not probabilities.isfinite().all():
        raise not_finite("outputs of the network")
    return probabilities


def concatenate(parts: list[Explanation]) -> Explanation:
    """Join the explanations of consecutive chunks."""
    if not parts:
        raise InputError("there are no images to explain; expected a batch (b, 3, h, w) with b of at least 1")
    if not isinstance(parts[0], AttentionMap):
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    maps = [part for part in parts if isinstance(part, AttentionMap)]
    indices = [part.index for part in maps if part.index is not None]
    return AttentionMap(
        mean=torch.cat([part.mean for part in maps]),
        deviation=torch.cat([part.deviation for part in maps]),
        index=torch.cat(indices) if indices else None,
        anchors=maps[0].anchors,
    )


def values(explanation: Explanation) -> Maps:
    """Return the maps of an explanation as a tensor; attention is quantised if it has anchors."""
    return explanation.values() if isinstance(explanation, AttentionMap) else explanation
