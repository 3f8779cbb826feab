"""A run ends with the same result whatever happens on the way, and says what is missing in it."""

import errno
import json
import os
import resource
import shutil
import stat
import weakref
from pathlib import Path

import pytest
import torch
from benchmark.small import SIDE, choose, image, run_small, suite, tables
from networks import bottlenecked, quadrants

from ibviz.attribution import methods as attribution
from ibviz.attribution.catalogue import METHODS, Method
from ibviz.benchmark.config import MethodConfig, ProtocolConfig, SuiteConfig
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner import loop
from ibviz.benchmark.runner.parts import remove_leftovers
from ibviz.benchmark.runner.plan import recipe_of
from ibviz.benchmark.runner.processes import Processes
from ibviz.benchmark.runner.result import merge
from ibviz.benchmark.runner.verify import verify
from ibviz.benchmark.store import pack, read_maps, write_shard
from ibviz.data.decode import decode, to_tensor
from ibviz.data.image_set import ImageSet, to_float
from ibviz.data.regions import rasterise
from ibviz.errors import InputError
from ibviz.files import locked, read_rows
from ibviz.metrics import faithfulness, pointing_game, scorer, sparseness
from ibviz.metrics.catalogue import METRICS
from ibviz.metrics.grid import on_grid
from ibviz.metrics.protocol import CurveProtocol
from ibviz.models.loading import Classifier
from ibviz.training.recipe import Recipe


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert run_small(out)
    return out


def sets(rows: list[dict], key: str) -> set:
    return {row[key] for row in rows}


def facts(out: Path) -> dict:
    return json.loads((out / "circumstances.json").read_text())


def test_numbers_are_those_of_the_metrics_on_the_maps_in_the_store(whole):
    """All ten images at once, though the run took them in batches of three and four."""
    images = to_float(torch.stack([image(number) for number in range(10)]))
    maps, model = read_maps(whole, "quadrants", "Input x gradient"), quadrants()
    assert isinstance(maps, torch.Tensor)
    protocol = CurveProtocol(colour=(0, 0, 0), grid=(4, 4), steps=4, orders=2)
    classes = model(images).argmax(1)
    found = faithfulness(scorer(model, classes), images, maps, protocol=protocol)
    boxes = choose(10).read(0, 10).boxes
    assert boxes is not None
    expected = {
        "srg": found.srg,
        "deletion": found.deletion_auc,
        "insertion": found.insertion_auc,
        "pointing_game": pointing_game(maps, rasterise(boxes, (SIDE, SIDE))).hit,
        "sparseness": sparseness(on_grid(maps, (4, 4))),
    }
    rows = [
        row for row in read_rows(whole / "rows.parquet") if row["method"] == "Input x gradient" and not row["native"]
    ]
    for metric, ours in expected.items():
        values = {row["image"]: row["value"] for row in rows if row["metric"] == metric}
        assert [values[image] for image in range(10)] == pytest.approx(ours.tolist(), abs=1e-6)
    assert {row["object_share"] for row in rows} == {0.25}


def test_the_folder_keeps_the_contract(whole):
    said = read_results(whole).circumstances  # which checks that all files and columns are there
    assert said["images"] == 10
    assert said["failures"] == said["left_out"] == said["skipped"] == []
    assert said["models"]["quadrants"]["class_names"] == list("abcd")
    assert said["methods"]["random cells"] == {"method": "random_cells", "options": {"grid": [4, 4]}, "control": True}
    common, native = (
        [row for row in read_rows(whole / "rows.parquet") if row["native"] is own] for own in (False, True)
    )
    assert sets(common, "hash") == {said["protocols"]["default"]["hash"]}
    assert sets(common, "grid") == {"4 x 4"}
    assert sets(native, "method") == {"Input x gradient", "Saliency"}
    assert [row["picture"] is None for row in read_rows(whole / "images.parquet")] == [False] * 3 + [True] * 7
    assert len(read_rows(whole / "curves.parquet")) == 10 * 8 * 2
    assert not (whole / "parts").exists()
    assert not (whole / ".lock").exists()


def test_pictures_are_kept_to_the_bit(whole):
    kept = read_rows(whole / "images.parquet")[2]["picture"]
    assert torch.equal(to_tensor(decode(kept, "2")), image(2))


class Killed(BaseException):
    """Nothing in the project may catch it."""


@pytest.fixture
def dying(monkeypatch):
    """Let a function of the run be the last thing that happens, at its nth call."""

    def dying(name: str, nth: int, *, after: bool = False) -> None:
        plain, calls = getattr(loop, name), []

        def fails(*args, **kwargs):
            calls.append(1)
            if len(calls) == nth and not after:
                raise Killed
            found = plain(*args, **kwargs)
            if len(calls) == nth:
                raise Killed
            return found

        monkeypatch.setattr(loop, name, fails)

    return dying


@pytest.mark.parametrize(
    ("name", "nth", "after"),
    [("write_part", 1, False), ("write_part", 2, True), ("judge_batch", 2, True), ("finish", 1, False)],
)
def test_a_run_that_died_goes_on_and_ends_with_the_same_bytes(whole, tmp_path, dying, monkeypatch, name, nth, after):
    dying(name, nth, after=after)
    with pytest.raises(Killed):
        run_small(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "rows.parquet").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "maps").rglob("*.safetensors")}
    done = {path.name for path in (tmp_path / "parts").glob("0*")}
    asked: list[int] = []
    plain = loop.write_part

    def noted(out, batch, *rest):
        asked.append(batch)
        plain(out, batch, *rest)

    monkeypatch.setattr(loop, "write_part", noted)
    assert run_small(tmp_path, resume=True)
    assert tables(tmp_path) == tables(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # no map was computed again
    assert {f"{batch:06d}" for batch in asked}.isdisjoint(done)


def test_a_finished_run_is_not_run_again(whole, monkeypatch):
    monkeypatch.setattr(loop, "judge_batch", None)
    assert run_small(whole, resume=True)


def test_parts_that_a_run_was_killed_removing_go_when_it_is_resumed(whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy/parts/000001").mkdir(parents=True)
    (tmp_path / "copy/parts/000001/rows.parquet").write_text("its facts have gone already")
    assert run_small(tmp_path / "copy", resume=True)
    assert not (tmp_path / "copy/parts").exists()
    assert capsys.readouterr().err == ""
    assert tables(tmp_path / "copy") == tables(whole)


def test_what_another_run_left_is_refused_with_both_hashes(whole):
    with pytest.raises(InputError, match="already holds a run; resume it or give another folder"):
        run_small(whole)
    other = suite(protocols=(ProtocolConfig(grid=(4, 4), steps=3, orders=2, batch_size=32),))
    with pytest.raises(InputError, match=r"begun with protocols (\w{8}); this run has protocols (?!\1)\w{8}"):
        run_small(whole, asked=other, resume=True)
    with pytest.raises(InputError, match=r"begun with suite \w{8}; this run has suite"):
        run_small(whole, asked=suite("saliency"), resume=True)
    with pytest.raises(InputError, match=r"begun with weights \w{8}; this run has weights"):
        run_small(whole, models={"other": quadrants()}, resume=True)
    with pytest.raises(InputError, match=r"begun with data \w{8}; this run has data"):
        run_small(whole, chosen=choose(11), resume=True)


def test_a_finished_run_without_its_maps_is_refused(whole, tmp_path):
    clone = shutil.copytree(whole, tmp_path / "clone", ignore=shutil.ignore_patterns("maps"))
    with pytest.raises(InputError, match="without 8 of its 8 sets of maps, such as Saliency of quadrants: run into"):
        run_small(clone, resume=True)
    (clone / "plan.json").unlink()
    with pytest.raises(InputError, match=r"holds a result without the plan.json of its run; give another folder"):
        run_small(clone)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocols": (ProtocolConfig(), ProtocolConfig(steps=3))}, "two protocols are called 'default'"),
        ({"protocols": (ProtocolConfig(preset="rise", ties="group"),)}, "protocol 'rise': .*ties = 'group'"),
        ({"metrics": ("srg", "beauty")}, "unknown metric 'beauty'"),
    ],
)
def test_a_suite_that_makes_no_sense_is_refused_before_anything_is_done(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        run_small(tmp_path, asked=suite(**changes))
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_run_wrote_is_swept_from_a_folder(tmp_path):
    shard = write_shard(tmp_path, pack(torch.rand(2, 3, 3)), start=0, of={"model": "net", "method": "LIME"})
    (tmp_path / "parts/.000001.000000000000000007.part").mkdir(parents=True)
    killed = [
        shard.with_name(f".{shard.name}.000000000000000007.part.safetensors"),
        tmp_path / ".rows.parquet.000000000000000007.part.parquet",
    ]
    theirs = [shard.with_name("weights.safetensors"), tmp_path / "maps/12-ab.safetensors", tmp_path / ".a.partition"]
    for path in (*killed, *theirs):
        path.write_text("x")
    remove_leftovers(tmp_path)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {shard, *theirs}
    assert list((tmp_path / "parts").iterdir()) == []
    remove_leftovers(tmp_path, all_maps=True)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {*theirs}


def test_maps_of_other_pixels_are_not_taken_from_the_store(tmp_path, dying, monkeypatch):
    dying("write_part", 1)
    with pytest.raises(Killed):
        run_small(tmp_path)
    monkeypatch.undo()
    changed = choose(10)
    darker = changed._replace(read=lambda *span: (found := changed.read(*span))._replace(images=found.images // 2))
    with pytest.raises(InputError, match=r"holds maps of \w{8}, this run asks for \w{8}: other images"):
        run_small(tmp_path, chosen=darker, resume=True)


def test_a_method_that_does_not_fit_is_left_out_with_its_reason_and_the_rest_goes_on(tmp_path):
    methods = (
        MethodConfig(method="grad_cam", options={"layer": "network.nowhere"}),
        MethodConfig(method="attention"),
        MethodConfig(method="saliency"),
    )
    assert run_small(tmp_path, asked=suite(methods=methods))
    reasons = {one["method"]: one["reason"] for one in facts(tmp_path)["left_out"]}
    assert "network.nowhere" in reasons["Grad-CAM"]
    assert set(reasons) == {"Grad-CAM", "Attention"}
    assert {row["method"] for row in read_rows(tmp_path / "rows.parquet") if not row["control"]} == {"Saliency"}
    assert not (tmp_path / "maps/quadrants/Attention").exists()
    with pytest.raises(InputError, match="none of the methods fits quadrants; Attention: "):
        run_small(tmp_path / "none", asked=suite("attention"))


def test_without_boxes_the_pointing_game_is_left_out_with_its_reason(tmp_path):
    assert run_small(tmp_path, chosen=choose(10, boxes=False))
    said = facts(tmp_path)["left_out"]
    assert said == [
        {"model": None, "method": None, "metric": "pointing_game", "reason": "the data has no boxes or masks"}
    ]
    assert "pointing_game" not in {row["metric"] for row in read_rows(tmp_path / "rows.parquet")}
    with pytest.raises(InputError, match="no boxes or masks, which pointing_game need"):
        run_small(tmp_path / "only", asked=suite(metrics=("pointing_game",)), chosen=choose(10, boxes=False))


def fails_on_dark_corners(model, images):
    del model
    if (images[:, 0, 0, 0] < 0.1).any():
        raise RuntimeError("too dark")
    return images.mean(1)


def test_an_image_on_which_a_method_fails_is_recorded_and_the_others_have_their_maps(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "fussy", Method(fails_on_dark_corners, "Fussy"))
    assert run_small(tmp_path, asked=suite("fussy", "saliency"))
    dark = [number for number in range(10) if image(number)[0, 0, 0] < 25.5]
    assert 0 < len(dark) < 8
    [failure] = facts(tmp_path)["failures"]
    assert failure == {"model": "quadrants", "method": "Fussy", "images": dark, "error": "RuntimeError: too dark"}
    rows = read_rows(tmp_path / "rows.parquet")
    kept = sorted({row["image"] for row in rows if row["method"] == "Fussy"})
    assert kept == [number for number in range(10) if number not in dark]
    assert {row["image"] for row in rows if row["method"] == "Saliency"} == set(range(10))
    maps = read_maps(tmp_path, "quadrants", "Fussy")
    assert isinstance(maps, torch.Tensor)
    assert maps[dark].isnan().all()
    expected = to_float(torch.stack([image(number) for number in kept])).mean(1)
    torch.testing.assert_close(maps[kept], expected, rtol=2**-11, atol=0)


def cheap(method: str) -> SuiteConfig:
    return suite(method, metrics=("sparseness",), native=False)


@pytest.mark.parametrize(
    ("error", "where"), [(torch.OutOfMemoryError("full"), "maps"), (torch.AcceleratorError("broken"), "metrics")]
)
def test_an_error_of_the_machine_ends_the_run_and_is_no_failure_of_the_method(tmp_path, monkeypatch, error, where):
    def fails(*_, **__):
        raise error

    with monkeypatch.context() as patched:
        if where == "maps":
            patched.setitem(METHODS, "hungry", Method(fails, "Hungry"))
        else:
            patched.setitem(METHODS, "hungry", Method(lambda _, images: images.mean(1), "Hungry"))
            patched.setitem(METRICS, "sparseness", METRICS["sparseness"]._replace(function=fails))
        with pytest.raises(type(error)):
            run_small(tmp_path, asked=cheap("hungry"), chosen=choose(4))
    monkeypatch.setitem(METHODS, "hungry", Method(lambda _, images: images.mean(1), "Hungry"))
    assert run_small(tmp_path, asked=cheap("hungry"), chosen=choose(4), resume=True)
    assert facts(tmp_path)["failures"] == facts(tmp_path)["left_out"] == []


def test_a_batch_that_does_not_fit_is_explained_image_by_image_once_its_activations_are_gone(tmp_path, monkeypatch):
    held: list[weakref.ref] = []

    def hungry(model, images, targets):
        del model, targets
        activations = images + 1
        if len(images) > 1:
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("full")
        assert held[-1]() is None
        return images.mean(1)

    monkeypatch.setitem(METHODS, "hungry", Method(hungry, "Hungry"))
    assert run_small(tmp_path, asked=cheap("hungry"), chosen=choose(4))
    assert len(held) == 1
    assert facts(tmp_path)["failures"] == facts(tmp_path)["left_out"] == []


def test_unreadable_images_are_skipped_listed_and_leave_no_gap(tmp_path, monkeypatch):
    monkeypatch.setattr("ibviz.data.listing.TOLERATED_SHARE", 0.2)
    assert run_small(tmp_path, chosen=choose(10, broken=(1, 5)))
    assert facts(tmp_path)["skipped"] == ["1.png", "5.png"]
    rows, images = read_rows(tmp_path / "rows.parquet"), read_rows(tmp_path / "images.parquet")
    assert sorted({row["image"] for row in rows}) == [row["image"] for row in images] == list(range(8))
    names = [row["name"] for row in images]
    assert names == [f"{number}.png" for number in (0, 2, 3, 4, 6, 7, 8, 9)]
    maps = read_maps(tmp_path, "quadrants", "edges")
    assert isinstance(maps, torch.Tensor)
    alone = attribution.explain(quadrants(), to_float(image(6)[None]), "edges")
    torch.testing.assert_close(maps[names.index("6.png")][None], alone, rtol=2**-11, atol=1e-6)
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"1 of 10 images cannot be read, more than 1%"):
        run_small(tmp_path / "strict", chosen=choose(10, broken=(1, 5)))


def test_several_networks_and_protocols_share_one_result(tmp_path):
    models: dict[str, Classifier] = {"one": quadrants(), "two": quadrants()}
    rules = (
        ProtocolConfig(grid=(4, 4), steps=4, orders=2, batch_size=32),
        ProtocolConfig(preset="rise", batch_size=32, steps=64),
    )
    assert run_small(tmp_path, asked=suite("saliency", protocols=rules), chosen=choose(4), models=models)
    rows = read_rows(tmp_path / "rows.parquet")
    under = {
        (model, rule): [row for row in rows if (row["model"], row["protocol"]) == (model, rule)]
        for model in models
        for rule in ("default", "rise")
    }
    assert sets(under["one", "default"], "metric") == {"srg", "deletion", "insertion", "pointing_game", "sparseness"}
    assert sets(under["two", "rise"], "metric") == {"srg", "deletion", "insertion"}
    assert sets(under["one", "rise"], "grid") == {"16 x 16"}
    for rule in ("default", "rise"):
        assert [row["value"] for row in under["one", rule]] == [row["value"] for row in under["two", rule]]


def test_what_images_share_is_on_every_row(tmp_path):
    chosen = choose(6)
    shared = chosen._replace(
        read=lambda start, stop: chosen.read(start, stop)._replace(
            clusters=tuple(f"p{number % 3}" for number in range(start, stop))
        )
    )
    assert run_small(tmp_path, asked=suite("saliency"), chosen=shared)
    rows = read_rows(tmp_path / "rows.parquet")
    assert {(row["image"], row["cluster"]) for row in rows} == {(image, f"p{image % 3}") for image in range(6)}


def test_trainings_are_of_one_recipe_whatever_their_seed(tmp_path, monkeypatch):
    one, two, other, unknown = (bottlenecked() for _ in range(4))
    for model, changes in ((one, {"seed": 0}), (two, {"seed": 1}), (other, {"seed": 1, "epochs": 3})):
        model.facts = {"recipe": Recipe.model_validate({"training": changes}).model_dump()}
    assert recipe_of(one) == recipe_of(two) != recipe_of(other)
    assert recipe_of(unknown) is recipe_of(quadrants()) is None
    monkeypatch.setattr("ibviz.benchmark.runner.plan.recipe_of", lambda _: "0123")
    run_small(tmp_path, asked=suite("saliency"), chosen=choose(4))
    assert facts(tmp_path)["models"]["quadrants"]["recipe"] == "0123"


def test_two_runs_on_one_folder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(InputError, match=rf"in use by process {os.getpid()} on .* since "),
    ):
        run_small(tmp_path)
    assert not (tmp_path / "plan.json").exists()
    (tmp_path / ".lock").write_text("process 1 on elsewhere since 1970: ibviz evaluate")  # of a killed run
    assert run_small(tmp_path)


def test_a_full_disk_is_one_error_and_leaves_nothing_half_written(tmp_path, whole):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, hard))  # larger than a map, smaller than the rows of a batch
    try:
        with pytest.raises(InputError, match=r"cannot write .*parts.*File too large; what is finished is kept"):
            run_small(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "parts").iterdir()) == []
    assert run_small(tmp_path, resume=True)
    assert tables(tmp_path) == tables(whole)


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(InputError, match="cannot write"):
        run_small(tmp_path / "out")


def on_another_file_system(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def dies_half_way(source: Path, target: Path) -> None:
    Path(target).write_bytes(Path(source).read_bytes()[:9])
    raise Killed


def test_folders_of_several_processes_are_merged_into_the_result_of_one(whole, tmp_path, monkeypatch):
    """Each process has a folder of its own and the plan of the first."""
    monkeypatch.setattr(Processes, "wait", lambda _: None)
    folders = [tmp_path / name for name in "abc"]
    plan = loop.read_plan(whole)
    monkeypatch.setattr(Processes, "broadcast", lambda *_: plan)
    for rank, folder in enumerate(folders):
        assert not run_small(folder, processes=Processes(rank, 3))
    with monkeypatch.context() as patched:
        patched.setattr(os, "link", on_another_file_system)
        patched.setattr(shutil, "copyfile", dies_half_way)
        with pytest.raises(Killed):
            merge(folders, tmp_path / "all")
    assert [path.name for path in (tmp_path / "all").rglob("*") if path.is_file()] == ["plan.json"]
    with pytest.raises(InputError, match="1 of 3 batches are in none of the folders, the first number 2"):
        merge(folders[:2], tmp_path / "all")
    for folder, start in ((folders[2], 0), (tmp_path / "all", 6)):  # by others that died before they judged them
        write_shard(folder, pack(torch.rand(3, 2, 2)), start=start, of={"model": "quadrants", "method": "Saliency"})
    merge(folders, tmp_path / "all")
    assert tables(tmp_path / "all") == tables(whole)
    ours, theirs = (read_maps(one, "quadrants", "Saliency") for one in (tmp_path / "all", whole))
    assert isinstance(ours, torch.Tensor)
    assert isinstance(theirs, torch.Tensor)
    assert torch.equal(ours, theirs)
    other = tmp_path / "other"
    run_small(other, asked=suite("saliency"), chosen=choose(4), processes=Processes(0, 3))
    with pytest.raises(InputError, match="holds no run"):
        merge([folders[0], tmp_path], tmp_path / "none")


def test_a_result_is_verified_and_a_changed_one_is_found_out(whole, tmp_path):
    models: dict[str, Classifier] = {"quadrants": quadrants()}
    verdict = verify(suite(), models, choose(10), whole / "rows.parquet", seed=0)
    assert verdict.rows == verdict.equal > 0
    assert verdict.differing == 0
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = read_rows(whole / "rows.parquet")
    better = [row | {"value": row["value"] + 0.01 * (row["method"] == "Saliency")} for row in rows]
    (tmp_path / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    with pytest.raises(InputError, match=r"there is no .*rows.parquet; expected the folder of a finished"):
        verify(suite(), models, choose(10), tmp_path)
    for name in ("images.parquet", "rows.parquet"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    pq.write_table(pa.Table.from_pylist(better, pq.read_schema(whole / "rows.parquet")), tmp_path / "better.parquet")
    with pytest.raises(InputError, match=r"there is no .*best.parquet"):
        verify(suite(), models, choose(10), tmp_path / "best.parquet")
    found = verify(suite(), models, choose(10), tmp_path / "better.parquet", seed=0)
    assert found.differing == sum(row["method"] == "Saliency" for row in rows) * verdict.images // 10
    assert found.furthest == pytest.approx(0.01)
    with pytest.raises(InputError, match=r"begun with weights \w{8}; this run has weights"):
        verify(suite(), {"quadrants": bottlenecked()}, choose(10), whole)


def test_images_of_one_name_are_verified_apart(tmp_path, monkeypatch):
    """Two of one name in different batches, and two of which one cannot be read."""
    monkeypatch.setattr("ibviz.data.listing.TOLERATED_SHARE", 0.2)
    monkeypatch.setattr("ibviz.benchmark.runner.verify._VERIFIED_SHARE", 1.0)
    plain, asked = choose(6, broken=(1,)), cheap("saliency")

    def paired(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"pair {int(Path(name).stem) // 2}" for name in names)

    def read(start: int, stop: int) -> ImageSet:
        found = plain.read(start, stop)
        return found._replace(names=paired(found.names))

    chosen = plain._replace(names=paired(plain.names), read=read)
    assert run_small(tmp_path, asked=asked, chosen=chosen)
    verdict = verify(asked, {"quadrants": quadrants()}, chosen, tmp_path)
    assert verdict.images == 5
    assert verdict.rows == verdict.equal == len(read_rows(tmp_path / "rows.parquet"))
