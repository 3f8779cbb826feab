"""Files made to mislead each parser: refused in words, or read as far as they are sound."""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hostile.sound import (
    CAT,
    COCO,
    DOG,
    figure,
    images,
    model,
    picture,
    put,
    read_coco,
    read_figure,
    read_model,
    result,
)
from pycocotools import mask as coder

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.runner.plan import FILE, read_plan
from ibviz.benchmark.store import read_shard
from ibviz.data.published.coco import _runs
from ibviz.digests import seal
from ibviz.errors import InputError
from ibviz.files import read_rows
from ibviz.models.checkpoint import encode, load_model
from ibviz.models.loading import load
from ibviz.models.official import load_official
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe
from ibviz.workflows.anchor_effects import read_worth
from ibviz.workflows.figure import redraw_figure
from ibviz.workflows.report import write_report


def refused(read: Callable[[Path], Any], path: Path, content: bytes, message: str) -> None:
    """One line that says what is wrong with the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        read(path)
    assert len(str(raised.value)) < 1500


TOML: dict[str, tuple[bytes, str]] = {
    "a key of 30,000 parts": (b"a." * 30_000 + b"a=1", "is not TOML: a key of more than 16 parts"),
    "a quoted key of many parts": (b'"a" . ' * 20 + b"a=1", "is not TOML: a key of more than 16 parts"),
    "a table of many parts": (b"[" + b"a." * 99 + b"a]", "is not TOML: a key of more than 16 parts"),
    "a number of 10,000 digits": (b"x=" + b"9" * 10_000, "is not TOML: Exceeds the limit"),
    "deep lists": (b"x=" + b"[" * 10_000, "is not TOML"),
    "deep tables": (b"x=" + b"{a=" * 10_000, "is not TOML"),
    "Latin-1": (b'x="caf\xe9"', "is not TOML"),
    "two megabytes": (b"#" * 2**21, "more than 1,048,576"),
    "a seed of 70 bits": (b"[training]\nseed = 1180591620717411303424", r"training\.seed: Input should be less than"),
    "a negative seed": (b"[data]\nseed = -1", r"data\.seed: Input should be greater than"),
    "a billion latents": (b"[model]\nlatent = 1e9", r"model\.latent: Input should be less than"),
    "anchors": (b"[model]\nanchors = 2000000000", r"model\.anchors: Input should be less than"),
    "an infinite rate": (b"[training]\nlr = inf", r"training\.lr: Input should be a finite number"),
    "not a number": (b"[objective]\nbeta = nan", r"objective\.beta: Input should be a finite number"),
    "a list for a table": (b"data = [1]", r"data: "),
    "a wide image": (b"[data]\nimage_size = 1000000", r"data\.image_size: Input should be less than"),
}


@pytest.mark.parametrize("case", TOML)
def test_recipes(tmp_path, case):
    refused(lambda path: read_toml(path, Recipe), tmp_path / "a.toml", *TOML[case])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("images = 1e18", "images"),
        ("batch = 4294967296", "batch"),
        ("protocols = [{ steps = 1e12 }]", "protocols.0.steps"),
        ("protocols = [{ grid = [1000000, 1000000] }]", "protocols.0.grid"),
        ("protocols = [{ orders = 1099511627776 }]", "protocols.0.orders"),
    ],
)
def test_suites(tmp_path, text, key):
    refused(
        lambda path: read_toml(path, SuiteConfig), tmp_path / "a.toml", text.encode(), rf"{key}.*: Input should be less"
    )


def test_a_long_line_without_dots_is_read_at_once(tmp_path):
    (tmp_path / "a.toml").write_text('[data]\nrepository = "' + "a-" * 400_000 + '"')
    assert len(read_toml(tmp_path / "a.toml", Recipe).data.repository or "") == 800_000


def parquet(**changes: Any) -> bytes:
    """Two images with labels, and columns or metadata in their place."""
    metadata = changes.pop("metadata", None)
    columns = {"image": [{"bytes": picture("PNG"), "path": "a.png"}] * 2, "label": [0, 1]} | changes
    out = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), out)
    return out.getvalue()


def objects(**changes: Any) -> list[dict[str, Any]]:
    return [{"bbox": [[1.0, 1.0, 5.0, 5.0]], "category": [0]} | changes] * 2


PARQUET: dict[str, tuple[Callable[[], bytes], str]] = {
    "a label of 40 bits": (lambda: parquet(label=[0, 2**40]), "labels in column label should be below 1,048,576"),
    "an unsigned label": (lambda: parquet(label=pa.array([0, 2**64 - 1], pa.uint64())), "should be below"),
    "a negative label": (lambda: parquet(label=[0, -7]), r"labels must be -1"),
    "bytes that are text": (lambda: parquet(image=[{"bytes": "abc"}] * 2), "expected a struct column"),
    "paths that are numbers": (lambda: parquet(image=[{"bytes": b"a", "path": 3}] * 2), "expected a struct column"),
    "names that are no JSON": (lambda: parquet(metadata={"class_names": "{"}), "names its classes in no way"),
    "names that are no text": (lambda: parquet(metadata={"class_names": "[1, 2]"}), "names its classes in no way"),
    "names that are no list": (lambda: parquet(metadata={"class_names": "7"}), "names its classes in no way"),
    "deep names": (lambda: parquet(metadata={"class_names": "[" * 10**5}), "names its classes in no way"),
    "too few names": (lambda: parquet(metadata={"class_names": '["a"]'}), "labels must be -1"),
    "a strange account": (lambda: parquet(metadata={"huggingface": '{"info": []}'}), "names its classes in no way"),
    "boxes of text": (lambda: parquet(objects=objects(bbox=[["a", "b", "c", "d"]])), "bbox of four numbers"),
    "boxes of three": (lambda: parquet(objects=objects(bbox=[[1.0, 2.0, 3.0]])), "a box needs four numbers"),
    "a box that is not a number": (
        lambda: parquet(objects=objects(bbox=[[np.nan, 1.0, 2.0, 3.0]])),
        "outside the image",
    ),
    "a box without end": (lambda: parquet(objects=objects(bbox=[[0.0, 0.0, np.inf, 3.0]])), "outside the image"),
    "more classes than boxes": (lambda: parquet(objects=objects(category=[0, 1])), "1 boxes, but 2 categories"),
    "marks for nobody": (lambda: parquet(objects=objects(difficult=[True] * 3)), "3 marks of difficulty"),
}


@pytest.mark.parametrize("case", PARQUET)
def test_parquet_files(tmp_path, case):
    made, message = PARQUET[case]
    refused(images("parquet"), tmp_path / "in" / "train.parquet", made(), message)


def test_a_parquet_file_of_more_rows_than_memory_holds_is_not_read(tmp_path, monkeypatch):
    """Billions of equal rows fit into a few bytes: the file says how many there are before one is read."""
    monkeypatch.setattr("ibviz.data.parquet._MOST_ROWS", 1)
    monkeypatch.setattr("ibviz.data.parquet._column", None)
    refused(images("parquet"), tmp_path / "in" / "train.parquet", parquet(), "at most 1 rows; got 2")


def coco(**changes: Any) -> bytes:
    """A cat and a dog, with what is changed of the cat's annotation."""
    return json.dumps(COCO | {"annotations": [CAT | changes, DOG]}).encode()


ANNOTATIONS: dict[str, tuple[bytes, str]] = {
    "a corner a billion away": (coco(segmentation=[[1e9, 2, 1e9, 3, 5, 1e9]]), "outside the image of 24x24"),
    "a corner before the image": (coco(segmentation=[[-1e9, 2, 3, 3, 5, 4]]), "outside the image of 24x24"),
    "a corner that is no number": (coco(segmentation=[[float("nan"), 2, 3, 3, 5, 4]]), "is no COCO instances file"),
    "an endless corner": (coco(segmentation=[[float("inf"), 2, 3, 3, 5, 4]]), "is no COCO instances file"),
    "two corners": (coco(segmentation=[[1, 2, 3, 4]]), "three corners; got 4 numbers"),
    "half a corner": (coco(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "three corners; got 7 numbers"),
    "no polygon": (coco(segmentation=[]), "has no polygon"),
    "no mask": (coco(segmentation=None), "has no mask"),
    "an outline of millions": (coco(segmentation=[[0, 0, 24, 24] * 150_000]), "outline of a polygon is"),
    "negative runs": (coco(segmentation={"size": [24, 24], "counts": [600, -24]}), "is no COCO instances file"),
    "runs beyond the image": (coco(segmentation={"size": [24, 24], "counts": [2**30, 9]}), "is not of the image"),
    "too few runs": (coco(segmentation={"size": [24, 24], "counts": [9, 9]}), "is not of the image"),
    "a mask of another size": (
        coco(segmentation={"size": [60000, 60000], "counts": [36 * 10**8, 0]}),
        "instances file",
    ),
    "packed runs cut off": (coco(segmentation={"size": [24, 24], "counts": "o"}), "cut off"),
    "packed runs below zero": (coco(segmentation={"size": [24, 24], "counts": "O"}), "below zero"),
    "packed runs of no such letters": (coco(segmentation={"size": [24, 24], "counts": "~~~\n"}), "no such letter"),
    "packed runs of endless numbers": (coco(segmentation={"size": [24, 24], "counts": "o" * 99}), "no such letter"),
    "a class that there is not": (coco(category_id=3), "category 3, which is not there"),
    "a box of three": (coco(bbox=[1, 2, 3]), "a box needs four numbers"),
    "a box of text": (coco(bbox=["a", 2, 3, 4]), "is no COCO instances file"),
    "an image elsewhere": (json.dumps(COCO | {"images": [{"id": 0, "file_name": "../../x.png"}]}).encode(), "not in"),
    "an image at the root": (json.dumps(COCO | {"images": [{"id": 0, "file_name": "/x.png"}]}).encode(), "not in"),
    "an image of a strange name": (
        json.dumps(COCO | {"images": [{"id": 0, "file_name": "\0"}]}).encode(),
        "cannot be read",
    ),
    "deep lists": (b'{"images": ' + b"[" * 10**5, "is no COCO instances file"),
    "no lists": (b'{"images": 3}', "is no COCO instances file"),
}


@pytest.mark.parametrize("case", ANNOTATIONS)
def test_annotations(tmp_path, case):
    refused(read_coco, tmp_path / "annotations" / "instances_train2017.json", *ANNOTATIONS[case])


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_packed_run_lengths_are_unpacked_as_pycocotools_packs_them(share):
    """Against a walk over the pixels, column by column."""
    mask = (np.random.default_rng(0).random((300, 400)) < share).astype(np.uint8)
    runs, last = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != last:
            runs.append(0)
            last = pixel
        runs[-1] += 1
    assert _runs(cast(bytes, coder.encode(np.asfortranarray(mask))["counts"]).decode()) == runs


def pth(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def authors(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors with names of the authors' smallest network, of shapes that nothing has."""
    sizes = {
        "features.0.op.0.weight": (2, 3),
        "encode.8.weight": (8, 4),
        "encode.8.bias": (8,),
        "emb.weight": (5, 1),
        "decode.weight": (3, 4),
        "decode.bias": (3,),
    }
    return {name: torch.zeros(size) for name, size in sizes.items()} | changes


PTH: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "is no PyTorch file"),
    "half a file": (lambda: pth(authors())[:900], "is no PyTorch file"),
    "a list": (lambda: pth([1, 2]), "holds no weights.*it has list"),
    "numbers for names": (lambda: pth({1: torch.zeros(3)}), "holds no weights"),
    "no tensors": (lambda: pth({"state_dict": {"a": 1}}), "holds no weights"),
    "strangers": (lambda: pth({"a": torch.zeros(3)}), "of none of the authors' networks"),
    "other shapes": (lambda: pth(authors()), "the weights are not those of"),
    "a number for a table": (
        lambda: pth(authors(**{"decode.weight": torch.tensor(0.0), "decode.bias": torch.tensor(0.0)})),
        "should have 1 to",
    ),
    "no decoder": (
        lambda: pth({k: v for k, v in authors().items() if "decode" not in k}),
        "decoder.weight .*is not there",
    ),
    "no bottleneck": (lambda: pth({k: v for k, v in authors().items() if "encode" not in k}), "is not there"),
    "one anchor": (lambda: pth(authors(**{"emb.weight": torch.zeros(1, 1)})), "anchors: Input should be greater"),
    "no latent": (lambda: pth(authors(**{"encode.8.bias": torch.zeros(1)})), "latent: Input should be greater"),
    "a terabyte that is one number": (
        lambda: pth(authors(**{"emb.weight": torch.zeros(1).expand(2**38)})),
        "holds no weights",
    ),
    "sparse": (lambda: pth(authors(**{"emb.weight": torch.eye(3).to_sparse()})), "holds no weights|is no PyTorch file"),
    "complex": (lambda: pth(authors(**{"decode.bias": torch.zeros(3, dtype=torch.complex64)})), "holds no weights"),
}


@pytest.mark.parametrize("case", PTH)
def test_weights_of_the_authors(tmp_path, case):
    made, message = PTH[case]
    refused(load_official, tmp_path / "a.pth", made(), message)


HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "a billion latents": ({"model": {"latent": 10**9}}, "model.latent: Input should be less"),
    "more latents than the file can hold": (
        {"model": {"latent": 16000}, "input": {"class_names": ["a"] * 99}},
        "need more",
    ),
    "another network": ({"model": {"backbone": "wrn10_2"}}, "does not hold the weights"),
    "an unknown network": ({"model": {"backbone": "x"}}, "does not fit: model.backbone"),
    "names that are no text": ({"input": {"class_names": [1]}}, "does not fit: input.class_names.0"),
    "no numbers": ({"input": {"mean": ["a", 1, 2]}}, "does not fit: input.mean.0"),
    "a recipe that is none": ({"facts": {"recipe": [1]}}, "does not fit: facts.recipe"),
    "anchors that are none": ({"facts": {"anchors": [["a"]]}}, "does not fit: facts.anchors"),
    "anchors of others": ({"facts": {"anchors": [[0.5, 0.5]]}}, "should hold 20 anchors after each epoch"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_models(tmp_path, case):
    changes, message = HEADERS[case]
    header = model()[1]
    changed = header | {part: header[part] | values for part, values in changes.items()}
    refused(read_model, tmp_path / "a.json", json.dumps(changed).encode(), message)


@pytest.mark.parametrize("header", ["[]", "3", "null", '{"kind": []}', "[" * 10**5, "9" * 5000, "{"])
def test_headers_that_are_none(tmp_path, header):
    content = encode({"a": torch.zeros(1)}, {}).replace(b'"{}"', json.dumps(header).encode())
    size = len(content) - 8 - 4
    refused(load_model, tmp_path / "a.safetensors", size.to_bytes(8, "little") + content[8:], r"a\.safetensors")


SHARDS: dict[str, dict[str, torch.Tensor]] = {
    "nothing": {},
    "no presence": {"maps": torch.zeros(2, 3, 3).half(), "exponents": torch.zeros(2).short()},
    "no exponents": {"maps": torch.zeros(2, 3, 3).half(), "present": torch.ones(2).bool()},
    "fewer maps than images": {
        "maps": torch.zeros(3, 2, 2).half(),
        "exponents": torch.zeros(3).short(),
        "present": torch.ones(2).bool(),
    },
    "flat maps": {
        "maps": torch.zeros(2, 9).half(),
        "exponents": torch.zeros(2).short(),
        "present": torch.ones(2).bool(),
    },
    "a level without an anchor": {
        "index": torch.full((1, 2, 2), 3).byte(),
        "anchors": torch.rand(3),
        "present": torch.ones(1).bool(),
    },
    "anchors alone": {"anchors": torch.rand(3), "present": torch.ones(1).bool()},
    "presence of nothing": {"present": torch.ones(2).bool()},
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards_of_right_checksums(tmp_path, case):
    content = encode(SHARDS[case], {"kind": "maps"})
    name = f"00000000-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    refused(read_shard, tmp_path / name, content, "does not hold maps as ibviz stores them")


def twisted(change: Callable[[dict[str, Any]], object]) -> bytes:
    held = figure()
    change(held)
    held.pop("sha256", None)
    return json.dumps(seal(held)).encode()


SIDECARS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "arguments that are a list": (lambda held: held.update(arguments=[]), "arguments: Input should be a valid dict"),
    "a kind that is a list": (lambda held: held.update(kind=[]), "kind: Input should be a valid string"),
    "a resolution of millions": (lambda held: held.update(dpi={".png": 10**6}), "dpi..png: Input should be less than"),
    "a suffix that leads away": (lambda held: held.update(dpi={"/../x.png": 30}), "dpi"),
    "data without a hash": (lambda held: held["data"].pop("sha256"), "data.sha256: Field required"),
    "data elsewhere": (
        lambda held: held["data"].update(file="../../../etc/passwd"),
        "the data of usage.json: No such file",
    ),
    "data without a name": (lambda held: held["data"].update(file=".."), "the data of usage.json: No such file"),
    "a lost part": (lambda held: held["arguments"].update(usage={"tensor": "9"}), "has lost the part '9'"),
    "a part of a strange name": (
        lambda held: held["arguments"].update(usage={"tensor": []}),
        "is one of tensor, pixels",
    ),
    "a part of a strange kind": (
        lambda held: held["arguments"].update(usage={"code": "x"}),
        "is one of tensor, pixels",
    ),
    "two kinds at once": (
        lambda held: held["arguments"].update(usage={"tensor": "x", "tuple": []}),
        "is one of tensor",
    ),
    "numbers as pixels": (lambda held: held["arguments"].update(usage={"pixels": "1 anchors"}), "should hold bytes"),
    "attention of nothing": (lambda held: held["arguments"].update(usage={"attention": {}}), "holds a mean"),
    "a wrong type": (
        lambda held: held["arguments"].update(class_names=3),
        "does not hold the arguments of",
    ),
    "text for a tensor": (
        lambda held: held["arguments"].update(usage="x"),
        "does not hold the arguments of",
    ),
    "an unknown key": (
        lambda held: held["arguments"].update(colour="red"),
        "unknown argument of .*colour",
    ),
    "an unknown template": (lambda held: held["arguments"].update(template="x"), "unknown template"),
}


@pytest.mark.parametrize("case", SIDECARS)
def test_sidecars(tmp_path, case):
    change, message = SIDECARS[case]
    refused(read_figure, tmp_path / "usage.json", twisted(change), message)


NUMBERS, FAR = (lambda count: pa.array(range(count))), (lambda count: pa.array([2**62] * count))
TEXT, NOTHING = (lambda count: pa.array(["x"] * count)), (lambda count: pa.nulls(count))
EMPTY = lambda count: pa.array([[]] * count, pa.list_(pa.float64()))
BYTES = lambda count: pa.array([b"x"] * count)
COLUMNS: dict[str, list[Callable[[int], pa.Array]]] = {  # what else they may hold
    "rows.model": [TEXT, NUMBERS, NOTHING],
    "rows.value": [FAR, NOTHING, TEXT],
    "rows.image": [FAR, NOTHING],
    "rows.control": [NOTHING, NUMBERS],
    "images.image": [FAR, NOTHING, TEXT],
    "images.name": [NUMBERS, NOTHING],
    "images.label": [FAR, TEXT],
    "images.box": [EMPTY, NUMBERS],
    "images.picture": [BYTES, NOTHING, TEXT],
    "predictions.model": [TEXT],
    "predictions.predicted": [FAR, NOTHING],
    "curves.fractions": [EMPTY, NOTHING, NUMBERS],
    "curves.side": [TEXT, NUMBERS],
}
CASES = [(name, kind) for name, kinds in COLUMNS.items() for kind in kinds]


@pytest.mark.parametrize(("name", "kind"), CASES, ids=range(len(CASES)))
def test_columns_of_results(tmp_path, name, kind):
    """Of another kind, or of the same with values that belong to nothing; some change nothing that a page shows."""
    table, column = name.split(".")
    put(result(), tmp_path)
    held = pq.read_table(tmp_path / f"{table}.parquet")
    changed = held.set_column(held.column_names.index(column), column, kind(len(held)))
    pq.write_table(changed, tmp_path / f"{table}.parquet")
    with suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_report(tmp_path)


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "any network": ("a.pth", load),
    "weights of the authors": ("a.pth", load_official),
    "model": ("a.safetensors", load_model),
    "rows": ("rows.parquet", read_rows),
    "study of anchors": ("anchors.json", lambda path: read_worth(path.parent)),
    "plan": (FILE, lambda path: read_plan(path.parent)),
    "recipe": ("a.toml", lambda path: read_toml(path, Recipe)),
    "sidecar": ("a.json", redraw_figure),
}
NO_FILES: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "endless": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path, reader, kind):
    name, read = READERS[reader]
    NO_FILES[kind](tmp_path / name)
    with pytest.raises(InputError):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\ud800", "./" + "x" * 300 + ".pth"])
def test_a_name_that_no_file_has_is_one_clear_error(name):
    with pytest.raises(InputError):
        load(name)
