"""Outputs that are no softmax over classes: one logit, independent labels, numbers; and where the outputs are kept."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from networks import SPEC
from torch import Tensor, nn

from ibviz.attribution import methods
from ibviz.attribution.methods import predict
from ibviz.attribution.perturbation import shifted_masks
from ibviz.benchmark.evaluation import evaluate
from ibviz.errors import InputError
from ibviz.heads import find_head
from ibviz.metrics import SCORES, CurveProtocol, scorer, targets_by
from ibviz.models.attach import attach
from ibviz.models.loading import WrappedClassifier, wrap

close = torch.testing.assert_close


class Logits(nn.Module):
    """A convolution and a linear layer with `outputs`, handed over as `form` says; a logit 0 goes before, if wanted."""

    def __init__(self, outputs: int, form: str = "plain", *, zero_first: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.form, self.zero_first = form, zero_first
        self.conv, self.relu = nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU()
        self.pool, self.flat, self.linear = nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(96, outputs)
        with torch.no_grad():
            self.linear.weight.mul_(8)

    def forward(self, images: Tensor) -> Any:
        logits = self.linear(self.flat(self.pool(self.relu(self.conv(images)))))
        if self.zero_first:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        forms = {
            "plain": lambda: logits,
            "tuple": lambda: (images.mean(), logits),
            "dictionary": lambda: {"features": images, "logits": logits},
            "object": lambda: SimpleNamespace(scores=logits),
            "squeezed": lambda: logits.squeeze(),
            "sequence": lambda: logits[:, None].expand(-1, 5, -1),
            "classes": lambda: logits.argmax(1, keepdim=True),
            "list": lambda: [logits, logits],
        }
        return forms[self.form]()


def wrapped(network: nn.Module, names: str = "ab", **choices: Any) -> WrappedClassifier:
    return wrap(network, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=names, size=16, **choices)


def explain(model: nn.Module, images: Tensor, method: str, **options: Any) -> Tensor:
    return methods.values(methods.explain(model, images, method, **options))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


FEW = {
    "rise": {"masks": 40},
    "iba": {"layer": "network.conv", "steps": 3, "samples": 2},
    "occlusion": {},
    "lime": {"samples": 20, "segments": 5},
    "smooth_grad": {"samples": 3},
    "saliency": {},
    "score_cam": {"layer": "network.conv"},
    "grad_cam": {"layer": "network.conv"},
}


@pytest.mark.parametrize("method", FEW)
def test_a_single_logit_is_explained_as_the_second_of_two_classes_of_which_the_first_is_0(method, images):
    """sigmoid(x) is the second part of softmax(0, x): another road to the same numbers."""
    one = wrapped(Logits(1), "d", head="sigmoid")
    two = wrapped(Logits(1, zero_first=True))
    found = explain(one, images, method, **FEW[method])
    close(found, explain(two, images, method, targets=torch.ones(3, dtype=torch.long), **FEW[method]))
    assert not torch.equal(found[0], found[1])


@pytest.mark.parametrize("score", ["probability", "log_probability", "logit", "log_odds"])
def test_a_single_logit_is_judged_as_the_second_of_two_classes(score, images):
    maps = {"map": torch.rand(3, 4, 4)}
    protocol = CurveProtocol(colour=(0.5,) * 3, score=score, batch_size=64)
    one = evaluate(wrapped(Logits(1), "d", head="sigmoid"), images, maps, targets=0, protocol=protocol)
    two = evaluate(wrapped(Logits(1, zero_first=True)), images, maps, targets=1, protocol=protocol)
    pairs = [(a, b) for a, b in zip(one.rows, two.rows, strict=True) if a["method"] == "map"]
    for key in ("value", "f_image", "f_baseline"):
        close(torch.tensor([a[key] for a, _ in pairs]), torch.tensor([b[key] for _, b in pairs]), rtol=1e-4, atol=1e-5)
    assert f"sigmoid {score.replace('_', ' ')} of the given class" in one.table()
    assert one.card.protocol.hash != two.card.protocol.hash


def test_scores_of_independent_labels_have_their_closed_form():
    logits, classes, head = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([1]), find_head("sigmoid")
    expected = {
        "probability": 1 / (1 + math.e),
        "log_probability": -math.log(1 + math.e),
        "logit": -1.0,
        "log_odds": -1.0,
        "accuracy": 0.0,
    }
    for kind, value in expected.items():
        close(float(SCORES[kind](logits, classes, head)), value)
    assert float(SCORES["accuracy"](logits, torch.tensor([2]), head)) == 1  # said to be there, though not the first


def test_rise_weighs_masks_by_the_labels_own_probability():
    """Label 0 looks at the left half: on the far right its map is its mean probability, whatever label 1 sees there."""

    class Halves(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            grey = images.mean(1)
            return torch.stack([8 * grey[:, :, :8].mean((1, 2)) - 2, 8 * grey[:, :, 8:].mean((1, 2)) - 2], 1)

    images, draws = torch.full((1, 3, 16, 16), 0.8), torch.Generator().manual_seed(0)
    cells = (torch.rand(600, 7, 7, generator=draws) < 0.5).float()
    shifts = (torch.rand(600, 2, generator=draws) * 3).long()
    masks, total = shifted_masks(cells, shifts, (16, 16)), torch.zeros(16, 16)
    for mask in masks:
        total += torch.sigmoid(Halves()(images * mask)[0, 0]) * mask
    model = wrap(Halves(), mean=(0.0,) * 3, std=(1.0,) * 3, class_names="ab", size=16, head="sigmoid")
    given: dict[str, Any] = {"targets": 0, "masks": 600, "sampling": "plain"}
    close(explain(model, images, "rise", **given)[0], total / 300)
    assert not torch.isclose(explain(Halves(), images, "rise", **given)[0], total / 300).all()


def test_independent_labels_are_predicted_and_counted_as_right_one_by_one(images):
    model = wrapped(Logits(3), "abc", head="sigmoid")
    logits = Logits(3)((images - 0.5) / 0.25)
    close(predict(model, images), logits.sigmoid())
    assert (predict(model, images).sum(1) - 1).abs().max() > 0.1
    result = evaluate(model, images, {"map": torch.rand(3, 4, 4)}, labels=[0, 2, -1])
    rows = {row["image"]: row for row in result.rows if row["method"] == "map"}
    assert [rows[image]["target"] for image in range(3)] == logits.argmax(1).tolist()
    expected = [bool(logits[0, 0] > 0), bool(logits[1, 2] > 0), None]
    assert [rows[image]["correct"] for image in range(3)] == expected


def test_a_regression_is_explained_and_judged_by_its_numbers(images):
    model = wrapped(Logits(1), "d", head="none")
    outputs = Logits(1)((images - 0.5) / 0.25)
    close(predict(model, images), outputs)
    result = evaluate(model, images, {"map": torch.rand(3, 4, 4)}, labels=[0, 0, 0])
    rows = [row for row in result.rows if row["method"] == "map" and row["metric"] == "srg"]
    close(torch.tensor([row["f_image"] for row in rows]), outputs[:, 0])
    assert all(row["correct"] is None for row in rows)
    assert "output, a number without probability, of the predicted class" in result.table()
    draws = torch.Generator().manual_seed(0)
    cells = (torch.rand(50, 7, 7, generator=draws) < 0.5).float()
    masks = shifted_masks(cells, (torch.rand(50, 2, generator=draws) * 3).long(), (16, 16))
    expected = sum(Logits(1)((images * mask - 0.5) / 0.25)[:, :, None] * mask for mask in masks) / 25
    close(explain(model, images, "rise", masks=50, sampling="plain"), expected, rtol=1e-4, atol=1e-4)


def test_what_needs_a_probability_refuses_a_regression(images):
    model = wrapped(Logits(2), head="none")
    with pytest.raises(InputError, match=r"none of the 2 outputs of a regression is the predicted one.*targets=0"):
        explain(model, images, "saliency")
    assert explain(model, images, "saliency", targets=1).any()
    with pytest.raises(InputError, match="numbers without a probability"):
        explain(model, images, "iba", targets=1, layer="network.conv")
    for kind in ("log_probability", "log_odds", "accuracy"):
        with pytest.raises(InputError, match="numbers without a probability"):
            scorer(model, torch.zeros(3, dtype=torch.long), kind=kind)(images, torch.arange(3))
    with pytest.raises(InputError, match="none of the 2 outputs"):
        targets_by("runner_up", torch.rand(3, 2), head=find_head("none"))


WHERE = {"tuple": 1, "dictionary": "logits", "object": "scores", "list": -1, "sequence": lambda output: output[:, 0]}


@pytest.mark.parametrize("form", WHERE)
def test_logits_are_taken_from_where_they_are_said_to_be(form, images):
    model, plain = wrapped(Logits(2, form), output=WHERE[form]), wrapped(Logits(2))
    for method in ("saliency", "rise", "grad_cam"):
        close(explain(model, images, method, **FEW[method]), explain(plain, images, method, **FEW[method]))
    close(predict(model, images), predict(plain, images))


@pytest.mark.parametrize(
    ("form", "output"), [("dictionary", "logit"), ("tuple", 2), ("object", "logits"), ("plain", "x")]
)
def test_a_part_that_is_not_there_is_named_beside_those_that_are(form, output, images):
    with pytest.raises(InputError, match=rf"output={output!r} is no part of what the network gives \("):
        predict(wrapped(Logits(2, form), output=output), images)


UNCLEAR = {
    "tuple": "got tuple of 2; say which part",
    "dictionary": "dict with the keys 'features', 'logits'; say which part",
    "object": "got SimpleNamespace; say which part",
    "sequence": r"float32 of shape \(\d+, 5, 2\); make one row",
    "classes": "got int64",
    "list": "got list of 2",
}


@pytest.mark.parametrize("form", UNCLEAR)
@pytest.mark.parametrize("targets", [None, 0])
def test_an_output_that_is_no_logits_is_refused_in_words(form, targets, images):
    for model in (Logits(2, form).eval(), wrapped(Logits(2, form))):
        for method in ("saliency", "rise", "lrp", "deep_lift", "grad_cam"):
            with pytest.raises(InputError, match=rf"expected logits \(b, classes\) of .*{UNCLEAR[form]}"):
                explain(model, images, method, targets=targets)
        with pytest.raises(InputError, match="expected logits"):
            scorer(model, torch.zeros(3, dtype=torch.long))(images, torch.arange(3))


def test_one_number_an_image_needs_to_be_said_what_it_is(images):
    for model, shape in (
        (Logits(1), r"\(2, 1\)"),  # of the two images of the trial
        (Logits(1, "squeezed"), r"\(2,\)"),
        (wrapped(Logits(1)), r"\(2, 1\)"),
    ):
        with pytest.raises(InputError, match=rf"{shape}.*head='sigmoid'"):
            explain(model.eval(), images, "rise", masks=5)
    with pytest.raises(InputError, match="head='sigmoid'"):
        evaluate(wrapped(Logits(1)), images, {"map": torch.rand(3, 4, 4)})
    squeezed, plain = (wrapped(Logits(1, form), "d", head="sigmoid") for form in ("squeezed", "plain"))
    for some in (images, images[:1]):  # of a single image nothing is left but a number
        close(predict(squeezed, some), predict(plain, some))
        close(explain(squeezed, some, "rise", masks=20), explain(plain, some, "rise", masks=20))


def test_a_head_that_nobody_knows_is_refused_and_attention_needs_a_softmax():
    with pytest.raises(InputError, match="unknown head 'tanh'; known: none, sigmoid, softmax"):
        find_head("tanh")
    some: list[dict[str, Any]] = [{"head": "sigmoid"}, {"output": 0}]
    for choices in some:
        with pytest.raises(InputError, match="attention is trained with a softmax"):
            attach(wrapped(Logits(2), **choices))


def test_a_module_called_head_is_no_head(images):
    network = nn.Sequential()
    network.add_module("head", Logits(2))
    close(predict(network, images), Logits(2)(images).softmax(1))
    assert find_head("softmax").least == 2
    assert len(SPEC.mean) == 3


def test_the_hash_of_a_protocol_over_a_softmax_is_what_it_was():
    protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), grid=(8, 8))
    assert protocol.hash == GOLDEN
    assert protocol.judging(find_head("sigmoid")).hash != GOLDEN


GOLDEN = "0fc1ce38"  # of the release before heads
