"""Methods, metrics, baselines and data sources of a user's own code, of Captum and of Quantus."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.small import choose, run_small, suite, tables
from networks import quadrants
from torch import Tensor, nn

import ibviz
from ibviz.attribution import Method
from ibviz.attribution.catalogue import METHODS, method_of
from ibviz.attribution.methods import values
from ibviz.benchmark import read_results
from ibviz.benchmark.config import ProtocolConfig, SuiteConfig
from ibviz.benchmark.runner import loop
from ibviz.benchmark.suite import metric_facts
from ibviz.data.config import DataConfig
from ibviz.data.sources import load_images
from ibviz.errors import InputError
from ibviz.metrics import METRICS, CurveProtocol, Metric, MetricInput, faithfulness
from ibviz.metrics.catalogue import measure, metric_of
from ibviz.settings import read_toml

close = torch.testing.assert_close
OWN = '''
import torch
from ibviz.metrics import Metric
from PIL import Image


def brightness(model, images, targets, *, power: float = 1.0):
    """Brightness of each pixel."""
    return images.mean(1) ** power


def spread(given):
    """Largest less smallest value of a map."""
    return given.maps.amax((1, 2)) - given.maps.amin((1, 2))


flatness = Metric(lambda given: given.maps.flatten(1).std(1), "Flatness", "deviation of a map", higher_is_better=False)


def white(images):
    return torch.ones_like(images)


def squares(split, root):
    if split == "validation":
        return None
    colours = [(255, 0, 0), (0, 255, 0)] * 4
    return [(Image.new("RGB", (16, 16), colour), row % 2, [(2, 2, 10, 10)]) for row, colour in enumerate(colours)]
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN)
    return tmp_path


def asked(**changes: object) -> SuiteConfig:
    return suite("mine.py:brightness", metrics=("srg", "mine.py:spread", "mine.py:flatness"), native=False, **changes)


class Killed(BaseException):
    """Stands for the death of a run between two batches."""


def killed_and_resumed(out: Path, whole: SuiteConfig, patch: pytest.MonkeyPatch) -> None:
    """Run, die after the first batch, and go on."""
    write_part, parts = loop.write_part, []

    def dies(*given: Any) -> None:
        if parts:
            raise Killed
        parts.append(given)
        write_part(*given)

    with patch.context() as patched:
        patched.setattr(loop, "write_part", dies)
        with pytest.raises(Killed):
            run_small(out, asked=whole)
    assert len([*(out / "parts").iterdir()]) == 1


def test_a_suite_of_own_code_runs_resumes_and_refuses_changed_code(own, monkeypatch):
    assert run_small(own / "whole", asked=asked())
    killed_and_resumed(own / "killed", asked(), monkeypatch)
    assert run_small(own / "killed", asked=asked(), resume=True)
    assert tables(own / "killed") == tables(own / "whole")

    rows: Any = read_results(own / "whole").rows
    maps = torch.stack([image.float().mean(0) / 255 for image in choose(10).read(0, 10).images])
    spreads = rows[(rows["method"] == "brightness") & (rows["metric"] == "mine.py:spread")].sort_values("image")
    close(torch.tensor(spreads["value"].to_numpy()).float(), maps.amax((1, 2)) - maps.amin((1, 2)), atol=1e-3, rtol=0)
    facts = read_results(own / "whole").circumstances
    assert facts["metrics"]["mine.py:flatness"] == {"label": "Flatness", "higher_is_better": False}
    assert set(next(iter(facts["protocols"].values()))["code"]) == {
        "mine.py:brightness", "mine.py:spread", "mine.py:flatness"
    }  # fmt: skip
    assert "Flatness ↓" in ibviz.benchmark.rebuild(own / "whole").folder.joinpath("table.md").read_text()

    killed_and_resumed(own / "changed", asked(), monkeypatch)
    (own / "mine.py").write_text(OWN.replace("images.mean(1)", "images.amax(1)"))
    with pytest.raises(InputError, match=r"was begun with mine\.py:brightness .*; this run has mine\.py:brightness"):
        run_small(own / "changed", asked=asked(), resume=True)


def test_code_that_changes_while_it_is_used_ends_the_run(own, monkeypatch):
    write_part = loop.write_part

    def changes(*given: Any) -> None:
        write_part(*given)
        (own / "mine.py").write_text(OWN + "\n# another line\n")

    monkeypatch.setattr(loop, "write_part", changes)
    with pytest.raises(InputError, match=r"the code of mine\.py:brightness was changed while the run uses it"):
        run_small(own / "out", asked=asked())


def test_a_protocol_with_own_code_has_another_card(own):
    protocols = (ProtocolConfig(grid=(4, 4), steps=4, orders=2, batch_size=32, baseline="mine.py:white"),)
    whole = suite("saliency", metrics=("srg",), native=False, protocols=protocols)
    assert run_small(own / "out", asked=whole)
    [first] = set(read_results(own / "out").rows["hash"])
    (own / "mine.py").write_text(OWN + "\n# another line\n")
    assert run_small(own / "again", asked=whole)
    [second] = set(read_results(own / "again").rows["hash"])
    assert first[:8] == second[:8]  # the protocol says the same
    assert first != second


def test_an_own_baseline_stands_in_removed_pixels(own):
    def score(states: Tensor, _: Tensor) -> Tensor:
        return states.mean((1, 2, 3))

    protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), baseline="mine.py:white", steps=4, orders=2)
    result = faithfulness(score, torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4), protocol=protocol)
    close(result.f_baseline, torch.ones(2))


def test_an_own_data_source_is_split_like_any_other(own):
    config = DataConfig(source="mine.py:squares", validation_share=0.25)
    train, validation, test = (load_images(config, split, None) for split in ("train", "validation", "test"))
    assert (len(train.labels), len(validation.labels), len(test.labels)) == (6, 2, 8)
    assert set(train.names).isdisjoint(validation.names)
    assert test.labels.tolist() == [0, 1] * 4
    assert test.images[1, :, 0, 0].tolist() == [0, 255, 0]
    assert test.boxes is not None
    assert test.boxes[3].tolist() == [2, 2, 10, 10]


def test_functions_and_records_are_explained_with_their_options():
    images, network = torch.rand(3, 3, 16, 16), quadrants()

    def ours(model: nn.Module, given: Tensor, targets: Tensor, *, scale: float = 1.0) -> Tensor:
        return scale * given.mean(1) * (targets[:, None, None] + 1)

    close(ibviz.explain(network, images, ours, targets=1, scale=3.0), 6 * images.mean(1))
    record = Method(lambda model, given: given.amax(1), "Largest")
    assert record.target_free
    close(ibviz.explain(network, images, record), images.amax(1))
    with pytest.raises(InputError, match="unknown option of ours 'scales'; known: scale"):
        ibviz.explain(network, images, ours, scales=2.0)
    with pytest.raises(InputError, match=r"options of ours, .*valid number"):
        ibviz.explain(network, images, ours, scale="much")


def test_captum_and_quantus_run_resume_and_match_captum_itself(tmp_path, monkeypatch):
    pytest.importorskip("quantus")
    from captum.attr import DeepLiftShap

    whole = suite("captum:DeepLiftShap", metrics=("sparseness", "quantus:Sparseness"), native=False)
    assert run_small(tmp_path / "whole", asked=whole)
    killed_and_resumed(tmp_path / "killed", whole, monkeypatch)
    assert run_small(tmp_path / "killed", asked=whole, resume=True)
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")
    with pytest.raises(InputError, match="was begun with suite"):
        run_small(tmp_path / "whole", asked=suite("captum:DeepLift", metrics=whole.metrics, native=False), resume=True)

    images, network, targets = torch.rand(2, 3, 16, 16), quadrants().eval(), torch.tensor([0, 3])
    ends = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Captum, about its hooks
        direct = DeepLiftShap(network).attribute(images, ends, target=targets).sum(1).detach()
    close(ibviz.explain(network, images, "captum:DeepLiftShap", targets=targets), direct)


@pytest.mark.parametrize("name", ["KernelShap", "GradientShap", "ShapleyValueSampling"])
def test_draws_of_captum_depend_on_their_seed_and_not_on_the_batch(name):
    images, network = torch.rand(3, 3, 16, 16), quadrants()
    few = {"n_samples": 5}
    together = ibviz.explain(network, images, f"captum:{name}", targets=0, **few)
    alone = ibviz.explain(network, images[2:], f"captum:{name}", targets=0, **few)
    close(alone, together[2:])
    others = [ibviz.explain(network, images, f"captum:{name}", targets=0, seed=seed, **few) for seed in (1, 2, 3)]
    assert not all(torch.equal(values(together), values(other)) for other in others)


WRONG = """
import torch
number = 3
def three(model, images, targets, steps): return images.mean(1)
def flat(model, images): return images.mean((1, 2, 3))
def pair(given): return given.maps.flatten(1)
def never(given): return torch.full((len(given.images),), float("nan"))
def breaks(given): raise RuntimeError("no such thing")
def needy(images, *, contrast): return images
"""


def test_wrong_code_is_one_clear_line(own):
    (own / "wrong.py").write_text(WRONG)
    (own / "broken.py").write_text("import nothing_of_this_name")
    for name, message in {
        "absent.py:f": r"cannot read absent\.py: No such file",
        "broken.py:f": r"cannot import broken\.py: ModuleNotFoundError: No module named 'nothing_of_this_name'",
        "no_such_package.here:f": r"cannot import no_such_package\.here: ModuleNotFoundError",
        "a b:f": r"'a b:f' names no code: give FILE\.py:NAME or PACKAGE\.MODULE:NAME",
        "wrong.py:absent": r"wrong\.py has no 'absent'; it has .*flat.*three",
        "wrong.py:number": r"wrong\.py:number is no function but int",
        "wrong.py:three": r"wrong\.py:three takes 4 arguments by position; expected 2 to 3: options go behind a \*",
        "captum:Nothing": r"unknown attribution of Captum 'Nothing'; known: .*DeepLift",
        "captum:FeaturePermutation": r"exchanges the images of a batch",
    }.items():
        with pytest.raises(InputError, match=message):
            method_of(name)
    with pytest.raises(InputError, match=r"flat gives \(3,\) of torch.float32; expected maps \(3, rows, columns\)"):
        ibviz.explain(quadrants(), torch.rand(3, 3, 16, 16), "wrong.py:flat")
    with pytest.raises(InputError, match=r"takes 4 arguments by position; expected 1"):
        metric_of("wrong.py:three")
    with pytest.raises(InputError, match=r"wrong\.py:needy needs 'contrast', which is not passed"):
        faithfulness(
            lambda states, _: states.mean((1, 2, 3)),
            torch.rand(2, 3, 8, 8),
            torch.rand(2, 4, 4),
            protocol=CurveProtocol(colour=(0.5, 0.5, 0.5), baseline="wrong.py:needy"),
        )
    (own / "mine.py").write_text("def numbers(split, root): return [1, 2]\n")
    with pytest.raises(InputError, match=r"item 0 of mine\.py:numbers is int; expected \(image, label\)"):
        load_images(DataConfig(source="mine.py:numbers"), "test", None)


def test_a_wrong_metric_is_left_out_and_the_rest_of_the_suite_goes_on(own):
    (own / "wrong.py").write_text(WRONG)
    metrics = ("sparseness", "wrong.py:pair", "wrong.py:breaks", "wrong.py:never")
    assert run_small(own / "out", asked=suite("saliency", metrics=metrics, native=False))
    results = read_results(own / "out")
    assert set(results.rows["metric"]) == {"sparseness", "wrong.py:never"}
    assert len(results.rows[results.rows["metric"] == "sparseness"]) == 10 * results.rows["method"].nunique()
    said = {failure["error"] for failure in results.circumstances["failures"] if failure["method"] == "Saliency"}
    cells = 16 * 16  # of saliency
    assert said == {
        *(
            f"metric wrong.py:pair: it gives ({batch}, {cells}); expected a tensor of one number per image, ({batch},)"
            for batch in (3, 4)
        ),
        "metric wrong.py:breaks: RuntimeError: no such thing",
    }
    table = ibviz.benchmark.rebuild(own / "out").folder.joinpath("table.md").read_text()
    assert "never: 10 of 10 images without a defined value excluded" in table


def test_metrics_of_quantus_that_need_more_than_maps_are_refused():
    pytest.importorskip("quantus")
    for name in ("MaxSensitivity", "MPRT", "InputInvariance"):
        with pytest.raises(InputError, match=f"quantus:{name} explains changed images or networks again"):
            metric_of(f"quantus:{name}")
    with pytest.raises(InputError, match=r"unknown metric of Quantus 'Nothing'; known: .*Sparseness"):
        metric_of("quantus:Nothing")
    assert metric_of("quantus:RelevanceMassAccuracy").needs == "objects"


def test_two_metrics_of_one_label_are_refused(own):
    (own / "twice.py").write_text("def srg(given): return given.maps.sum((1, 2))\n")
    metric_facts(["srg", "twice.py:srg"])  # SRG and srg
    (own / "twice.py").write_text("def spread(given): return given.maps.sum((1, 2))\n")
    with pytest.raises(InputError, match="two metrics are called 'spread'"):
        metric_facts(["mine.py:spread", "twice.py:spread"])


def test_one_entry_adds_a_method_and_one_a_metric(tmp_path, monkeypatch):
    """The names of configuration, suite and tables follow from the entry."""
    monkeypatch.setitem(METHODS, "grey", Method(lambda model, images: images.mean(1), "Grey"))
    monkeypatch.setitem(METRICS, "peak", Metric(lambda given: given.maps.amax((1, 2)), "Peak", "largest value"))
    assert run_small(tmp_path, asked=suite("grey", metrics=("peak",), native=False))
    assert "Peak ↑" in ibviz.benchmark.rebuild(tmp_path).folder.joinpath("table.md").read_text()
    path = tmp_path / "suite.toml"
    path.write_text('metrics = ["peak"]\n[[methods]]\nmethod = "grey"\n')
    assert read_toml(path, SuiteConfig).metrics == ("peak",)
    path.write_text('[[protocols]]\nbaseline = "white"\n')
    with pytest.raises(InputError, match=r"protocols\.0\.baseline: unknown baseline 'white'; known: black, blur"):
        read_toml(path, SuiteConfig)


def test_an_error_of_the_machine_is_none_of_captum_or_quantus(monkeypatch):
    """A suite ends at it and can be resumed; as an `InputError` it would be kept as a failed map for good."""
    import captum.attr

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(captum.attr.Saliency, "attribute", full)
    with pytest.raises(torch.OutOfMemoryError):
        method_of("captum:Saliency")(quadrants(), torch.rand(1, 3, 16, 16), torch.tensor([0]))
    monkeypatch.setattr(captum.attr.Saliency, "attribute", lambda *_, **__: 1 / 0)
    with pytest.raises(InputError, match="Captum's Saliency fails: ZeroDivisionError"):
        method_of("captum:Saliency")(quadrants(), torch.rand(1, 3, 16, 16), torch.tensor([0]))
    quantus = pytest.importorskip("quantus")
    monkeypatch.setattr(quantus.Sparseness, "__call__", full)
    images, maps = torch.rand(1, 3, 16, 16), torch.rand(1, 4, 4)
    regions, score = torch.zeros(1, 16, 16, dtype=torch.bool), lambda states, _: states.mean((1, 2, 3))
    with pytest.raises(torch.OutOfMemoryError):
        measure(
            "quantus:Sparseness", MetricInput(quadrants(), images, torch.tensor([0]), maps, maps, regions, score, 8)
        )
