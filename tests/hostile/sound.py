"""A small sound file for every parser, and how it is read: what each returns may be anything, an error only one."""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from pycocotools.mask import encode as encode_mask
from results import write_results
from safetensors.torch import save as save_tensors

from ibviz.benchmark.config import SuiteConfig
from ibviz.benchmark.results import read_results
from ibviz.benchmark.runner.parts import FACTS_FILE, part_folder, read_facts
from ibviz.benchmark.runner.plan import FILE, read_plan
from ibviz.benchmark.store import pack, read_shard, write_shard
from ibviz.data.config import DataConfig
from ibviz.data.decode import decode, fit
from ibviz.data.folder import list_folder
from ibviz.data.listing import Part, decoded, load_part
from ibviz.data.mask_files import with_masks
from ibviz.data.objects import View
from ibviz.data.published.coco import list_coco
from ibviz.data.sources import find_part
from ibviz.figures import anchor_usage
from ibviz.files import read_rows, write_rows
from ibviz.models.checkpoint import encode, load_model, read_tensors
from ibviz.models.loading import BUNDLED, load_published
from ibviz.models.official import load_official
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe
from ibviz.training.run import stored_rows
from ibviz.workflows.anchor_effects import read_worth
from ibviz.workflows.figure import redraw_figure
from ibviz.workflows.presentation import presentation
from ibviz.workflows.report import write_report

SIDE = 24


class Parser(NamedTuple):
    """Where a file lies in its folder, its sound bytes, and what reads it there."""

    file: str
    sound: Callable[[], bytes]
    read: Callable[[Path], Any]
    examples: int = 30  # damaged files there is time for


def picture(kind: str, size: tuple[int, int] = (SIDE, SIDE), **options: Any) -> bytes:
    """Noise, in a format of Pillow's."""
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def read_picture(path: Path) -> None:
    fit(decode(path.read_bytes(), path.name), 16)


def images(source: str, *, masks: bool = False) -> Callable[[Path], None]:
    """Decode a split, objects as well."""

    def read(path: Path) -> None:
        root = path.parent.parent
        part = find_part(DataConfig.model_validate({"source": source, "masks": masks}), "train", root)
        decoded(part, View(16))

    return read


def parquet() -> bytes:
    """Images with labels and boxes, and names of classes as the Hub writes them."""
    held = {"bytes": picture("PNG"), "path": "a.png"}
    hub = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    objects = {"bbox": [[1.0, 2.0, 5.0, 6.0]], "category": [0], "difficult": [False]}
    table = pa.table({"image": [held] * 4, "label": [0, 1, 0, 1], "objects": [objects] * 4})
    out = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(hub)}), out)
    return out.getvalue()


def parquet_masks() -> bytes:
    """Images with a mask for each object."""
    held = {"bytes": picture("PNG"), "path": "a.png"}
    objects = {"mask": [picture("PNG")], "category": [0]}
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [held] * 4, "label": [0, 1, 0, 1], "objects": [objects] * 4}), out)
    return out.getvalue()


def read_mask(path: Path) -> None:
    """The mask of the only image of a folder beside it."""
    image = path.parent.parent.with_name("pets") / "cat" / "a.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(picture("PNG"))
    listing = with_masks(list_folder(image.parent.parent, image.parent.parent), path.parent.parent)
    load_part(Part(listing, torch.arange(1)), View(16))


def packed_mask() -> dict[str, Any]:
    """Run lengths as pycocotools packs them."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[3:9, 2:20] = 1
    found = encode_mask(mask)
    return {"size": found["size"], "counts": cast(bytes, found["counts"]).decode()}


RUNS = {"size": [SIDE, SIDE], "counts": [100, 76, 400]}
CAT = {"image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 10], "segmentation": [[1, 2, 9, 2, 9, 9.5, 3, 8]]}
DOG = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 4, 4], "segmentation": RUNS}
CROWD = {"image_id": 1, "category_id": 7, "bbox": [3, 3, 4, 4], "iscrowd": 1, "segmentation": packed_mask()}
COCO = {
    "images": [{"id": 0, "file_name": "0.png"}, {"id": 1, "file_name": "1.png"}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [CAT, DOG, CROWD],
}


def read_coco(path: Path) -> None:
    folder = path.parent.parent / "train2017"
    folder.mkdir(exist_ok=True)
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes(picture("PNG"))
    listing = list_coco(path.parent.parent, "train", masks=True)
    assert listing is not None
    load_part(Part(listing, torch.arange(len(listing.labels))), View(16))


@cache
def authors() -> dict[str, torch.Tensor]:
    """Tensors with the names of the authors' smallest network; their shapes are no network's."""
    names = ("features.0.op.0.weight", "encode.8.weight", "encode.8.bias", "decode.weight", "decode.bias", "emb.weight")
    return {name: torch.zeros(4, 640) for name in names}


def pth() -> bytes:
    out = io.BytesIO()
    torch.save({"state_dict": authors(), "epoch": 3}, out)
    return out.getvalue()


def checkpoint() -> bytes:
    header = {"kind": "checkpoint", "recipe": json.loads(Recipe().model_dump_json()), "epoch": 1, "classes": 10}
    return encode({"model.weight": torch.zeros(3)}, header)


def read_checkpoint(path: Path) -> None:
    write_rows(path.parent / "log.parquet", [{"epoch": 1, "validation_accuracy": 0.5}])
    stored_rows(Recipe(), path.parent)


@cache
def model() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The bundled network: its tensors and its header."""
    return read_tensors(BUNDLED["digits"], "model")


USAGE = torch.tensor([3, 0, 1])


@cache
def figure_files() -> dict[str, bytes]:
    """A small figure, its sidecar and its data, by their names."""
    anchors, occupancy = torch.tensor([0.1, 0.5, 0.9]), torch.ones(1, 3)
    return files_of(
        lambda folder: anchor_usage(USAGE, anchors, class_names=["x"], occupancy=occupancy).save(
            folder / "usage.png", dpi=20
        )
    )


def files_of(write: Callable[[Path], object]) -> dict[str, bytes]:
    """All that is written into a folder, by its place there."""
    with TemporaryDirectory() as name:
        write(Path(name))
        return {str(one.relative_to(name)): one.read_bytes() for one in Path(name).rglob("*") if one.is_file()}


def put(files: dict[str, bytes], folder: Path, without: str = "") -> None:
    """Write files again, but one of them."""
    for name, content in files.items():
        if name != without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)


def facts() -> dict[str, Any]:
    failure = {"model": "net", "method": "lrp", "images": [0], "error": "none"}
    return {
        "images": 2,
        "forward_passes": 9,
        "failures": [failure],
        "data": {"net": "0" * 12},
        "skipped": ["x"],
        "device": "CPU",
        "seconds": 0.5,
    }


def plan() -> dict[str, Any]:
    return {
        "suite": SuiteConfig().model_dump(mode="json"),
        "data": "0" * 12,
        "images": 10,
        "grid": [4, 4],
        "annotated": False,
        "metrics": ["srg"],
        "left_out": [{"reason": "no boxes"}],
        "models": {
            "net": {
                "name": "net",
                "weights": "1" * 12,
                "class_names": ["a", "b"],
                "size": 16,
                "memory_format": None,
                "protocols": {},
                "methods": ["Grad-CAM"],
            }
        },
    }


def study() -> dict[str, Any]:
    each = {"low": 0.0, "mean": 0.1, "high": None, "n": 3, "excluded": 0}
    return {"images": 3, "worth": {"effect": [each, each]}, "usage": {"anchors": [0.1, 0.9]}}


def shard() -> bytes:
    of = {"model": "net", "method": "cam"}
    [content] = files_of(lambda folder: write_shard(folder, pack(torch.rand(2, 4, 4)), start=0, of=of)).values()
    return content


def rows() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"image": [0, 1], "value": [0.5, None], "name": ["a", "b"]}), out)
    return out.getvalue()


RECIPE = b"""
[data]
source = "folder"
image_size = 32
[model]
latent = 8
[training]
epochs = 3
warmup = [0.01, 0.1]
schedule = { kind = "milestones", after = [60, 120], factor = 0.2 }
"""
SUITE = b"""
images = 50
models = [{ name = "runs/a", label = "A" }]
methods = [{ method = "grad_cam", options = { layer = "x" } }]
protocols = [{ preset = "rise", steps = 12, grid = [4, 4] }]
"""
VOC = b"""<annotation><object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax>
<ymax>9</ymax></bndbox></object></annotation>"""


def read_voc(path: Path) -> None:
    root = path.parent.parent
    lists = {"ImageSets/Main/train.txt": b"a\nb\n", "Annotations/b.xml": path.read_bytes()}
    for name, content in (lists | {f"JPEGImages/{one}.jpg": picture("JPEG") for one in "ab"}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    images("voc2012")(path)


def write_result(folder: Path) -> None:
    """A small result of the network "digits", with maps, whose tables and figures seem to be drawn."""
    write_results(folder, images=4, pictures=2, models=("digits",))
    for method in ("Attention", "Grad-CAM"):
        write_shard(folder, pack(torch.rand(4, 4, 4)), start=0, of={"model": "digits", "method": method})
    for name in presentation(read_results(folder)):
        (folder / name).touch()


@cache
def result() -> dict[str, bytes]:
    """The files of a small result by their names."""
    return files_of(write_result)


def read_circumstances(path: Path) -> None:
    """Beside tables of the network that they name, as a page shows them."""
    put(result(), path.parent, without=path.name)
    write_report(path.parent)


def circumstances() -> dict[str, Any]:
    return json.loads(result()["circumstances.json"])


# Files of bytes: whatever a place of theirs holds.
BYTES: dict[str, Parser] = {
    **{
        f"image {kind}": Parser("a.img", lambda kind=kind: picture(kind), read_picture)
        for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM", "GIF")
    },
    "packed TIFF": Parser("a.img", lambda: picture("TIFF", compression="tiff_lzw"), read_picture),
    "EXIF": Parser("a.img", lambda: picture("JPEG", (8, 8), exif=exif()), read_picture),
    "Parquet images": Parser("in/train.parquet", parquet, images("parquet")),
    "Parquet masks": Parser("in/train.parquet", parquet_masks, images("parquet", masks=True)),
    "mask": Parser("pets-masks/cat/a.png", lambda: picture("PNG"), read_mask),
    "rows": Parser("rows.parquet", rows, read_rows),
    "COCO": Parser("annotations/instances_train2017.json", lambda: json.dumps(COCO).encode(), read_coco),
    "VOC": Parser("Annotations/a.xml", lambda: VOC, read_voc),
    "authors' weights": Parser("a.pth", pth, load_official),
    "weights": Parser(
        "a.safetensors",
        lambda: save_tensors({"a": torch.zeros(3)}),
        lambda path: load_published("torchvision/squeezenet1_0", path),
        5,
    ),
    "checkpoint": Parser("checkpoint.safetensors", checkpoint, read_checkpoint),
    "recipe": Parser("a.toml", lambda: RECIPE, lambda path: read_toml(path, Recipe)),
    "suite": Parser("a.toml", lambda: SUITE, lambda path: read_toml(path, SuiteConfig)),
    "shard": Parser("00000000-0123456789abcdef.safetensors", shard, read_shard),
}


def exif() -> bytes:
    found = Image.Exif()
    found[0x0112], found[0x011A], found[0x010E] = 6, 72.0, "a photograph"
    return found.tobytes()


def read_part(path: Path) -> None:
    part = part_folder(path.parent, 0)
    part.mkdir(parents=True, exist_ok=True)
    (part / FACTS_FILE).write_bytes(path.read_bytes())
    read_facts(path.parent, 0)


def read_model(path: Path) -> None:
    tensors, _ = model()
    path.with_suffix(".safetensors").write_bytes(encode(tensors, json.loads(path.read_bytes())))
    load_model(path.with_suffix(".safetensors"))


def read_figure(path: Path) -> None:
    """With its data beside it."""
    put(figure_files(), path.parent, without=path.name)
    redraw_figure(path)


def figure() -> dict[str, Any]:
    return json.loads(figure_files()["usage.json"])


class Held(NamedTuple):
    """Where a JSON file lies, what it soundly holds, what reads it, and how many twists there is time for."""

    file: str
    sound: Callable[[], Any]
    read: Callable[[Path], Any]
    examples: int


JSON: dict[str, Held] = {
    "COCO": Held("annotations/instances_train2017.json", lambda: COCO, read_coco, 40),
    "plan": Held(FILE, plan, lambda path: read_plan(path.parent), 60),
    "facts of a part": Held("facts", facts, read_part, 60),
    "study of anchors": Held("anchors.json", study, lambda path: read_worth(path.parent), 60),
    "circumstances": Held("circumstances.json", circumstances, read_circumstances, 6),
    "header of a model": Held("a.json", lambda: model()[1], read_model, 15),
    "sidecar": Held("usage.json", figure, read_figure, 8),
}
