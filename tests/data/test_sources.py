import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from ibviz.data.config import DataConfig
from ibviz.data.decode import fit, read_image
from ibviz.data.folder import IMAGE_SUFFIXES, image_files
from ibviz.data.listing import Listing, checked_listing
from ibviz.data.objects import labelled_object
from ibviz.data.parquet import split_files
from ibviz.data.parquet_objects import read_objects
from ibviz.data.sources import choose_images, find_part, load_images
from ibviz.errors import InputError
from ibviz.settings import read_toml
from ibviz.training.recipe import Recipe

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def config(**changes: object) -> DataConfig:
    return DataConfig.model_validate(changes)


FOLDER, PARQUET = config(source="folder"), config(source="parquet")


def picture(number: int, size: tuple[int, int] = (9, 9)) -> Image.Image:
    """A picture that tells its number: the red of every pixel."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[..., 0] = number
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def write_parquet(path: Path, numbers: list[int], metadata: dict[str, str] | None = None, **columns: pa.Array) -> None:
    images = pa.array([{"bytes": png(picture(one)), "path": f"{one}.png"} for one in numbers], IMAGE)
    table = pa.table({"image": images, **columns}).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=7)


def write_folder(root: Path, numbers: list[int]) -> None:
    for one in numbers:
        folder = root / ("cat", "dog")[one % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(one).save(folder / f"{one:03d}.png")


def numbers(image_set) -> list[int]:
    return image_set.images[:, 0, 0, 0].tolist()


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("plain")
    write_folder(root, list(range(60)))
    return root


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Train in two files and a test split, 20 rows, even numbers 0, odd ones 1."""
    root = tmp_path_factory.mktemp("hub")
    for part, rows in enumerate((list(range(12)), list(range(12, 20)))):
        write_parquet(
            root / "data" / f"train-0000{part}-of-00002.parquet", rows, label=pa.array([one % 2 for one in rows])
        )
    write_parquet(root / "data" / "test-00000-of-00001.parquet", [30, 31], label=pa.array([0, 1]))
    return root


def test_parquet_gives_the_png_pixels_back_exactly(hub):
    test = load_images(PARQUET, "test", hub)
    for image, number in zip(test.images, (30, 31), strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(picture(number)))
    assert test.names == ("30.png", "31.png")
    assert test.class_names == ("0", "1")
    assert test.masks is None
    assert test.boxes is None


def test_the_hold_out_and_train_are_disjoint_and_complete(hub):
    settings = config(source="parquet", validation_share=0.25, seed=3)
    train, validation = (load_images(settings, split, hub) for split in ("train", "validation"))
    assert len(numbers(validation)) == 5
    assert sorted(numbers(train) + numbers(validation)) == list(range(20))
    for part in (train, validation):
        assert part.labels.tolist() == [one % 2 for one in numbers(part)]
        assert part.names == tuple(f"{one}.png" for one in numbers(part))


def test_another_seed_holds_out_others_and_the_limit_keeps_the_hold_out(hub):
    first = load_images(PARQUET.model_copy(update={"validation_share": 0.5}), "validation", hub)
    other = load_images(PARQUET.model_copy(update={"validation_share": 0.5, "seed": 1}), "validation", hub)
    assert numbers(first) != numbers(other)
    limited = PARQUET.model_copy(update={"validation_share": 0.5, "limit": 4})
    assert numbers(load_images(limited, "validation", hub)) == numbers(first)
    few = numbers(load_images(limited, "train", hub))
    assert len(few) == 4
    assert not set(few) & set(numbers(first))


def test_a_folder_without_splits_falls_into_three_disjoint_parts(plain_folder):
    parts = [numbers(load_images(FOLDER, split, plain_folder)) for split in ("test", "validation", "train")]
    assert [len(part) for part in parts] == [6, 5, 49]
    assert sorted(one for part in parts for one in part) == list(range(60))


def test_class_folders_are_classes_in_alphabetical_order(plain_folder):
    train = load_images(FOLDER, "train", plain_folder)
    assert train.class_names == ("cat", "dog")
    assert train.labels.tolist() == [one % 2 for one in numbers(train)]
    assert train.names[0] == f"cat/{numbers(train)[0]:03d}.png"


def test_split_folders_are_taken_as_they_are(tmp_path):
    write_folder(tmp_path / "train", [0, 1, 2])
    write_folder(tmp_path / "val", [7])
    assert sorted(numbers(load_images(FOLDER, "train", tmp_path))) == [0, 1, 2]
    for split in ("validation", "test"):  # without a test split, test is validation
        found = load_images(FOLDER, split, tmp_path)
        assert (numbers(found), found.labels.tolist(), found.class_names) == ([7], [1], ("cat", "dog"))


def test_boxes_follow_the_resize_and_crop_of_a_wide_image(tmp_path):
    """400x200 becomes 100x50 and loses 25 on either side: x 100..200 becomes 25..50 - 25."""
    images = pa.array([{"bytes": png(picture(1, (400, 200))), "path": None}] * 2, IMAGE)
    objects = pa.array(
        [
            {"bbox": [[100.0, 40.0, 100.0, 80.0], [0.0, 0.0, 400.0, 200.0]], "category": [1, 0]},
            {"bbox": [], "category": []},
        ]
    )
    table = pa.table({"image": images, "label": pa.array([1, 0]), "objects": objects})
    pq.write_table(table, tmp_path / "test.parquet")
    test = load_images(config(source="parquet", image_size=50), "test", tmp_path)
    assert test.boxes is not None
    torch.testing.assert_close(test.boxes[0], torch.tensor([0.0, 10.0, 25.0, 30.0]))
    assert test.boxes[1].isnan().all()
    assert test.names == ("row_000000", "row_000001")


def test_resize_comes_before_the_crop_for_pixels_and_boxes(tmp_path):
    """A 400x200 image becomes 100x50, and the crop of 40 starts at 30, 5."""
    wide = picture(1, (400, 200))
    objects = pa.array([{"bbox": [[160.0, 40.0, 80.0, 80.0]], "category": [0]}])
    images = pa.array([{"bytes": png(wide), "path": None}], IMAGE)
    pq.write_table(pa.table({"image": images, "label": [0], "objects": objects}), tmp_path / "test.parquet")
    test = load_images(config(source="parquet", image_size=40, resize=50), "test", tmp_path)
    assert test.images[0].equal(fit(wide, 40, 50))
    assert test.boxes is not None
    torch.testing.assert_close(test.boxes[0], torch.tensor([10.0, 5.0, 30.0, 25.0]))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("layout", ["plain", "train only", "all splits"])
def test_resize_holds_for_every_way_to_a_split(tmp_path, split, layout):
    folders = {"plain": [""], "train only": ["train", "test"], "all splits": ["train", "validation", "test"]}
    for folder in folders[layout]:
        write_folder(tmp_path / folder, list(range(6)))
    found = load_images(config(source="folder", image_size=8, resize=18), split, tmp_path)
    for image, number in zip(found.images, numbers(found), strict=True):
        assert image.equal(fit(picture(number), 8, 18))


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        (
            {"bbox": [[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 3.0, 2.0]], "category": [5, 7, 7]},
            (1.0, 1.0, 4.0, 3.0),
        ),
        ({"bbox": [[0.0, 0.0, 9.0, 9.0]], "category": [5]}, None),
        ({"bbox": [[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 9.0, 9.0]], "category": ["cup", "table"]}, (0.0, 0.0, 9.0, 9.0)),
        (
            {
                "bbox": [[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 9.0, 9.0]],
                "category": ["cup", "man"],
                "imagenet": [[7, 8], []],
            },
            (1.0, 1.0, 3.0, 3.0),
        ),
        ({"bbox": [[0.0, 0.0, 2.0, 2.0]]}, (0.0, 0.0, 2.0, 2.0)),
        ({}, None),
    ],
    ids=["largest of the label", "none of the label", "named: largest", "class lists", "no categories", "no objects"],
)
def test_the_box_is_that_of_the_labelled_object(objects, expected):
    found = read_objects(objects, 7, Image.new("RGB", (20, 20)))
    row = labelled_object(found, 7)
    assert (None if row is None else tuple(found.boxes[row].tolist())) == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"class_names": json.dumps(["a", "b", "c"])}, ("a", "b", "c")),
        ({"huggingface": json.dumps({"info": {"features": {"label": {"names": ["x", "y"]}}}})}, ("x", "y")),
        (None, ("0", "1")),
    ],
    ids=["class_names", "huggingface", "numbers"],
)
def test_class_names_come_from_the_metadata(tmp_path, metadata, expected):
    write_parquet(tmp_path / "test.parquet", [0, 1], metadata, label=pa.array([0, 1]))
    assert load_images(PARQUET, "test", tmp_path).class_names == expected


@pytest.mark.parametrize("column", ["labels", "fine_label", "kind"])
def test_other_label_columns_are_found_and_null_is_no_label(tmp_path, column):
    write_parquet(tmp_path / "valid.parquet", [0, 1], None, **{column: pa.array([None, 3]), "note": pa.array(["", ""])})
    assert load_images(PARQUET, "validation", tmp_path).labels.tolist() == [-1, 3]


def refused(settings: DataConfig, split: str, root: Path | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_images(settings, split, root)  # pyright: ignore[reportArgumentType]


def test_a_missing_or_empty_root_is_one_clear_error(tmp_path):
    for settings in (FOLDER, PARQUET):
        refused(settings, "train", None, r"needs the path of its files \(--data\); expected ROOT")
        refused(settings, "train", tmp_path / "nowhere", "no folder .*nowhere for source")
    refused(FOLDER, "train", tmp_path, "no images in .*expected ROOT/")
    refused(PARQUET, "train", tmp_path, r"no train split.*expected ROOT/\*\*/train\*\.parquet.*found nothing")


def test_a_missing_split_names_what_is_there(tmp_path):
    write_parquet(tmp_path / "test.parquet", [0], label=pa.array([0]))
    for split in ("train", "validation"):
        refused(PARQUET, split, tmp_path, f"no {split} split of source parquet.*found test.parquet")


@pytest.mark.parametrize("names", [["b", "a", "b", "a"], [7, 3, 7, 3]])
def test_a_cluster_column_follows_its_images(tmp_path, names):
    write_parquet(tmp_path / "test-0.parquet", [0, 1], label=pa.array([0, 1]), cluster=pa.array(names[:2]))
    write_parquet(tmp_path / "test-1.parquet", [2, 3], label=pa.array([0, 1]), cluster=pa.array(names[2:]))
    assert load_images(PARQUET, "test", tmp_path).clusters == tuple(map(str, names))
    assert choose_images(PARQUET, "test", tmp_path).read(1, 3).clusters == (str(names[1]), str(names[2]))
    write_parquet(tmp_path / "test-1.parquet", [2, 3], label=pa.array([0, 1]), cluster=pa.array([names[2], None]))
    refused(PARQUET, "test", tmp_path, r"test-1\.parquet: row 1 has no cluster; name that of every image")


def test_a_listing_needs_as_many_clusters_as_images():
    listing = Listing(torch.tensor([0, 0]), ("cat",), ("x", "y"), lambda _: iter([]), clusters=("a",))
    with pytest.raises(InputError, match="pets: clusters name the cluster of each image: expected 2 names, got 1"):
        checked_listing(listing, "pets")


def test_unusable_parquet_is_one_clear_error(tmp_path):
    write_parquet(tmp_path / "a" / "test.parquet", [0], {"class_names": '["only"]'}, label=pa.array([4]))
    refused(PARQUET, "test", tmp_path / "a", r"labels must be -1 \(none\) to 0, one per class name; got 4 to 4")
    write_parquet(tmp_path / "b" / "test.parquet", [0], x=pa.array([1]), y=pa.array([2]))
    refused(PARQUET, "test", tmp_path / "b", "integer column named label or labels or fine_label.*x: int64, y: int64")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "test.parquet").write_text("not parquet")
    refused(PARQUET, "test", tmp_path / "c", "cannot read .*test.parquet as Parquet")
    pq.write_table(
        pa.table({"image": pa.array([{"bytes": None, "path": "far.png"}], IMAGE), "label": [0]}),
        tmp_path / "b" / "test.parquet",
    )
    refused(PARQUET, "test", tmp_path / "b", r"far.png \(row 0\) has no bytes")


@pytest.mark.parametrize(
    "columns",
    [
        {"image": pa.array([{"bytes": b"", "path": ""}], IMAGE)},
        {"image": pa.array([{"bytes": b"", "path": ""}], IMAGE), "kind": [1]},
        {"image": pa.array([{"bytes": b"", "path": ""}], IMAGE), "label": ["cat"]},
        {"label": [1]},
    ],
    ids=["no label", "another label", "text as label", "no image"],
)
def test_a_parquet_file_of_other_columns_is_named(tmp_path, columns):
    write_parquet(tmp_path / "test-0.parquet", [0], label=pa.array([0]))
    pq.write_table(pa.table(columns), tmp_path / "test-1.parquet")
    refused(PARQUET, "test", tmp_path, r"test-1\.parquet: .*label")


def damage(path: Path, column: int) -> None:
    """Overwrite the middle half of the pages of a column, but not the footer."""
    chunk = pq.read_metadata(path).row_group(0).column(column)
    start, size = chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size
    content = bytearray(path.read_bytes())
    content[start : start + size // 2] = b"\xff" * (size // 2)
    path.write_bytes(content)


@pytest.mark.parametrize("column", [0, 2], ids=["images", "labels"])
def test_a_parquet_file_with_damaged_pages_is_named(tmp_path, column):
    for part in range(2):
        write_parquet(tmp_path / f"test-{part}.parquet", [0, 1], label=pa.array([0, 1]))
    damage(tmp_path / "test-1.parquet", column)
    refused(PARQUET, "test", tmp_path, r"cannot read .*test-1\.parquet as Parquet")


def test_a_file_name_that_is_not_text_is_an_error_of_its_file(tmp_path):
    broken = pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string())
    images = pa.StructArray.from_arrays([pa.array([png(picture(0))]), broken], fields=list(IMAGE))
    pq.write_table(pa.table({"image": images, "label": [0]}), tmp_path / "test.parquet")
    refused(PARQUET, "test", tmp_path, r"cannot read .*test\.parquet as Parquet: .*codec")


def test_the_split_stands_in_the_name_of_the_parquet_file_or_of_its_folder(tmp_path):
    root = tmp_path / "test"  # its own name says nothing
    layout = {
        "train": ["data/train-00000-of-00001.parquet", "default/train/0000.parquet", "default/train/0001.parquet"],
        "validation": ["default/valid/0000.parquet", "default/validation/0000.parquet", "train/val.parquet"],
        "test": ["default/test/0000.parquet", "train/test-00000-of-00001.parquet"],
    }
    others = ["0000.parquet", "trains/0000.parquet", "train/part/0000.parquet", "train/._0000.parquet"]
    for file in [*(file for files in layout.values() for file in files), *others]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    for split, files in layout.items():
        assert split_files(root, split) == [root / file for file in files]


def test_the_converted_layout_of_the_hub_loads(tmp_path):
    write_parquet(tmp_path / "default" / "train" / "0000.parquet", [0, 1, 2], label=pa.array([0, 1, 0]))
    write_parquet(tmp_path / "default" / "validation" / "0000.parquet", [7], label=pa.array([1]))
    assert numbers(load_images(PARQUET, "train", tmp_path)) == [0, 1, 2]
    assert numbers(load_images(PARQUET, "validation", tmp_path)) == [7]


def test_image_files_are_found_at_any_depth_but_not_the_hidden_ones(tmp_path):
    root = tmp_path / ".cache" / "images"  # hidden above the folder does not count
    wanted = ["a/b/c.png", "a/deep.JPG", *(f"z{suffix}" for suffix in sorted(IMAGE_SUFFIXES))]
    others = ["._z.jpg", ".z.jpg", ".thumbnails/z.jpg", "a/._deep.jpg", "a/note.txt", "png"]
    for file in [*wanted, *others]:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / "folder.jpg").mkdir()
    with pytest.warns(UserWarning, match=r"1 with the name of an image .*: folder\.jpg$"):
        assert image_files(root) == [root / file for file in wanted]


def test_only_the_images_that_lie_in_a_class_folder_itself_count(tmp_path):
    write_folder(tmp_path / "test", [2, 4])
    folder = tmp_path / "test" / "cat"
    picture(6).save(folder / "a.PNG")
    for other in ("._z.png", ".thumbnails/z.png", "z.png/z.txt", "note.txt"):
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).touch()
    with pytest.warns(UserWarning, match=r"1 with the name of an image .*: z\.png$"):
        found = load_images(FOLDER, "test", tmp_path)
    assert found.names == ("cat/002.png", "cat/004.png", "cat/a.PNG")


@pytest.mark.parametrize("held", [("0.tif", "1.tif"), ("deep/0.png",), ("scan.dcm",), ()], ids=str)
@pytest.mark.filterwarnings("ignore:. with the name of an image")
def test_a_class_of_which_nothing_is_read_is_refused_by_name(tmp_path, held):
    """As by torchvision's ImageFolder, which finds no valid file for it."""
    write_folder(tmp_path, list(range(8)))
    (tmp_path / "fox").mkdir()
    for name in held:
        (tmp_path / "fox" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "fox" / name).touch()
    if "deep/0.png" not in held:  # torchvision reads deeper folders as well
        with pytest.raises(FileNotFoundError, match="fox"):
            ImageFolder(tmp_path, is_valid_file=lambda file: file.endswith(IMAGE_SUFFIXES))
    first = held[0].split("/")[0] if held else "nothing"
    refused(FOLDER, "train", tmp_path, rf"class 'fox' has no image: .*holds {first}")


def test_a_class_without_images_is_fine_in_a_split_that_nothing_is_learned_from(tmp_path):
    write_folder(tmp_path / "train", list(range(8)))
    write_folder(tmp_path / "test", [2, 4])
    (tmp_path / "test" / "dog").mkdir()
    assert numbers(load_images(FOLDER, "test", tmp_path)) == [2, 4]
    (tmp_path / "test" / "dog" / "1.gif").touch()
    with pytest.warns(UserWarning, match="1 with the name"):
        refused(FOLDER, "test", tmp_path, r"class 'dog' has no image: .*holds 1\.gif")


def test_what_is_not_used_of_a_class_folder_is_listed(tmp_path):
    write_folder(tmp_path / "test", [2, 4])
    folder = tmp_path / "test" / "cat"
    for name in ("a.tif", "b.HEIC", "note.txt"):
        (folder / name).touch()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "null.bmp").symlink_to("/dev/null")
    with pytest.warns(UserWarning, match=r"4 with .* not used, .*: a\.tif, b\.HEIC, null\.bmp, pipe\.jpg$"):
        assert numbers(load_images(FOLDER, "test", tmp_path)) == [2, 4]


def test_images_beside_and_below_the_class_folders_are_listed(tmp_path):
    write_folder(tmp_path / "test", [2, 4])
    image = next((tmp_path / "test" / "cat").glob("*.png"))
    for folder in ("cat/more", "cat/.hidden", "cat/empty"):
        (tmp_path / "test" / folder).mkdir()
    for place in ("cat/more/deep.png", "cat/.hidden/x.png", "loose.png"):
        shutil.copy(image, tmp_path / "test" / place)
    with pytest.warns(UserWarning, match="lie where none are read") as heard:
        assert numbers(load_images(FOLDER, "test", tmp_path)) == [2, 4]
    deeper, beside = (str(warning.message).partition(";")[0] for warning in heard)
    assert deeper.endswith("read: more/")
    assert beside.endswith("read: loose.png")


def test_a_link_that_leads_nowhere_counts_as_an_image_that_cannot_be_read(tmp_path):
    write_folder(tmp_path / "test", [2, 4])
    (tmp_path / "test" / "cat" / "gone.jpg").symlink_to("nowhere")
    refused(FOLDER, "test", tmp_path, r"1 of 3 images cannot be read.*gone\.jpg: No such file")


def test_a_file_s_name_may_be_any_bytes(tmp_path):
    """What cannot be written as UTF-8 is shown with escapes; the file is read by its own name."""
    write_folder(tmp_path / "test", [2])
    for name in (b"caf\xe9.png", b"\xff" * 200 + b".png", b"new\nline.png"):
        shutil.copy(tmp_path / "test" / "cat" / "002.png", os.fsencode(tmp_path / "test" / "cat") + b"/" + name)
    os.rename(tmp_path / "test" / "cat", os.fsencode(tmp_path / "test") + b"/cat\xe9")
    found = load_images(FOLDER, "test", tmp_path)
    assert numbers(found) == [2, 2, 2, 2]
    assert found.class_names == (r"cat\udce9",)
    assert r"cat\udce9/caf\udce9.png" in found.names
    assert all(name.encode() for name in found.names)


def test_a_folder_one_level_too_deep_is_refused_rather_than_read_as_classes(tmp_path):
    write_folder(tmp_path / "training", [0, 1])
    refused(FOLDER, "train", tmp_path, "no images in .*expected ROOT/")


def test_a_broken_file_among_many_is_named(tmp_path):
    write_folder(tmp_path / "test", [0, 1])
    (tmp_path / "test" / "dog" / "broken.jpg").write_text("hello")
    refused(FOLDER, "test", tmp_path, r"cannot decode .*dog/broken\.jpg")


def test_one_broken_file_in_a_hundred_is_left_out_and_listed(tmp_path):
    write_folder(tmp_path / "test", list(range(200)))
    (tmp_path / "test" / "dog" / "051.png").write_text("hello")
    (tmp_path / "test" / "cat" / "000.png").write_bytes(png(picture(0))[:50])
    found = load_images(FOLDER, "test", tmp_path)
    assert sorted(numbers(found)) == [one for one in range(1, 200) if one != 51]
    assert found.labels.tolist() == [one % 2 for one in numbers(found)]
    assert found.names == tuple(f"{('cat', 'dog')[one % 2]}/{one:03d}.png" for one in numbers(found))
    assert [fault.name for fault in found.faults] == ["cat/000.png", "dog/051.png"]
    assert "unknown format or not an image" in found.faults[1].reason


def test_rows_of_parquet_without_an_image_are_left_out_with_their_labels_and_boxes(tmp_path):
    rows = [{"bytes": png(picture(one)), "path": f"{one}.png"} for one in range(200)]
    rows[3], rows[150] = {"bytes": None, "path": "far.png"}, {"bytes": b"hello", "path": "text.png"}
    objects = [{"bbox": [[one % 7, 0, 1, 1]], "category": [one % 2]} for one in range(200)]
    table = pa.table({"image": pa.array(rows, IMAGE), "label": [one % 2 for one in range(200)], "objects": objects})
    pq.write_table(table, tmp_path / "test.parquet")
    found = load_images(PARQUET, "test", tmp_path)
    kept = [one for one in range(200) if one not in (3, 150)]
    assert numbers(found) == kept
    assert found.labels.tolist() == [one % 2 for one in kept]
    assert found.boxes is not None
    assert found.boxes[:, 0].tolist() == [one % 7 for one in kept]
    assert [fault.name for fault in found.faults] == ["far.png", "text.png"]


def test_all_objects_of_a_row_are_kept_and_the_difficult_ones_are_no_target(tmp_path):
    row = {"bbox": [[0, 0, 9, 9], [1, 2, 3, 4], [5, 5, 2, 2]], "category": [1, 1, 0], "difficult": [True, False, False]}
    image = pa.array([{"bytes": png(picture(1)), "path": "1.png"}], IMAGE)
    pq.write_table(pa.table({"image": image, "label": [1], "objects": [row]}), tmp_path / "test.parquet")
    found = load_images(PARQUET, "test", tmp_path)
    assert found.boxes is not None
    assert found.boxes.tolist() == [[1.0, 2.0, 4.0, 6.0]]
    assert found.objects is not None
    assert found.objects[0] is not None
    assert found.objects[0].labels.tolist() == [1, 1, 0]
    assert found.objects[0].difficult.tolist() == [True, False, False]
    cut = load_images(config(source="parquet", image_size=8, resize=18), "test", tmp_path)  # pixels 2.5 to 6.5
    assert cut.objects is not None
    assert cut.objects[0] is not None
    assert cut.objects[0].boxes.tolist() == [[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 3.0, 7.0], [5.0, 5.0, 8.0, 8.0]]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([5, 5, 9, 9], "1.png: a box reaches outside the image of 9x9 pixels: x 5 to 14, y 5 to 14"),
        ([-3, 0, 5, 5], "outside the image of 9x9 pixels: x -3 to 2"),
        ([float("nan"), 0, 5, 5], "outside the image of 9x9 pixels: x nan"),
        ([1, 2, 3], r"1.png: a box needs four numbers, x, y, width and height; got \[1.0, 2.0, 3.0\]"),
    ],
)
def test_a_box_outside_its_image_or_of_other_form_is_named(tmp_path, box, message):
    image = pa.array([{"bytes": png(picture(1)), "path": "1.png"}], IMAGE)
    objects = pa.array([{"bbox": [[float(edge) for edge in box]], "category": [1]}])
    pq.write_table(pa.table({"image": image, "label": [1], "objects": objects}), tmp_path / "test.parquet")
    refused(PARQUET, "test", tmp_path, message)


def test_a_suites_images_are_chosen_by_seed_and_no_others_are_decoded(tmp_path, monkeypatch):
    write_folder(tmp_path / "test", list(range(60)))
    decoded = []

    def counting(path: Path) -> Image.Image:
        decoded.append(path.name)
        return read_image(path)

    monkeypatch.setattr("ibviz.data.folder.read_image", counting)
    first, again, other = (load_images(FOLDER, "test", tmp_path, count=10, seed=seed) for seed in (0, 0, 1))
    assert len(decoded) == 30
    assert first.names == again.names != other.names
    whole = load_images(FOLDER, "test", tmp_path)
    rows = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:10].sort().values  # as suites always chose
    assert first.names == tuple(whole.names[row] for row in rows)
    assert first.images.equal(whole.images[rows])


@pytest.mark.parametrize("source", ["digits", "svhn"])
def test_a_recipe_that_mirrors_digits_is_refused(tmp_path, source):
    path = tmp_path / "recipe.toml"
    path.write_text(f'[data]\nsource = "{source}"\n[training]\nflip = true\n')
    with pytest.raises(InputError, match=rf"recipe.toml: .*mirrored digit is none: leave it out for {source}"):
        read_toml(path, Recipe)


def test_a_class_that_train_lacks_is_named(tmp_path):
    write_folder(tmp_path / "train", [0, 2])
    write_folder(tmp_path / "test", [0, 1])
    refused(FOLDER, "test", tmp_path, "classes that .*train lacks: dog")


def test_several_sizes_need_an_image_size(tmp_path):
    write_folder(tmp_path / "test", [0])
    picture(2, (20, 30)).save(tmp_path / "test" / "cat" / "wide.png")
    refused(FOLDER, "test", tmp_path, "cat/wide.png is 20x30 pixels, those before it 9x9; set image_size")
    assert load_images(config(source="folder", image_size=8), "test", tmp_path).images.shape == (2, 3, 8, 8)


def test_digits_come_in_one_size_only():
    assert load_images(config(image_size=48, limit=12), "train", None).images.shape == (12, 3, 48, 48)
    refused(config(image_size=32), "train", None, "48 pixels wide; got image_size 32")
    refused(config(image_size=48, resize=60), "train", None, "48 pixels wide; got image_size 48, resize 60")


def test_only_digits_have_a_background_to_choose(tmp_path):
    refused(config(source="folder", background="leaves"), "test", tmp_path, "leave background out for .*folder")


@pytest.mark.parametrize("source", ["digits", "folder", "parquet", "cifar10"])
@pytest.mark.parametrize(("image_size", "resize"), [(None, 48), (48, 47)])
def test_resize_needs_an_image_size_that_it_covers(tmp_path, source, image_size, resize):
    settings = config(source=source, image_size=image_size, resize=resize)
    refused(settings, "train", tmp_path, f"resize .*at least image_size; got resize {resize}, image_size {image_size}")


def write_cifar(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for file in ("test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        pixels = np.stack([np.asarray(picture(one, (32, 32))).transpose(2, 0, 1).reshape(-1) for one in range(4)])
        (folder / file).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))


def test_cifar_is_read_as_torchvision_stores_it(tmp_path, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda _: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    write_cifar(tmp_path)
    settings = config(source="cifar10", validation_share=0.2)
    test = load_images(settings, "test", tmp_path)
    assert np.array_equal(test.images[3].permute(1, 2, 0).numpy(), np.asarray(picture(3, (32, 32))))
    assert (test.labels.tolist(), test.class_names) == ([0, 1, 2, 9], tuple("abcdefghij"))
    assert len(load_images(settings, "train", tmp_path).labels) == 16
    assert len(load_images(settings, "validation", tmp_path).labels) == 4


def test_a_failed_download_says_where_it_looked_and_what_else_works(tmp_path, monkeypatch):
    def offline(*_, **__) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("ibviz.data.download.urlopen", offline)
    refused(config(source="cifar100"), "test", tmp_path, f"not under {tmp_path}.*no route to host.*parquet or folder")


def test_importing_the_sources_loads_nothing_slow():
    slow = "{'sklearn', 'skimage', 'pyarrow', 'torchvision', 'pandas'}"
    program = f"import sys, ibviz.data.sources; sys.exit(' '.join({slow} & set(sys.modules)) or None)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("pack", "split", "image_size", "count", "boxes"),
    [
        ("tiny_imagenet", "validation", None, 10_000, 2000),
        ("photos", "test", 224, 128, 102),
    ],
)
def test_real_packs_load(tmp_path, shared, pack, split, image_size, count, boxes):
    program = shared / "data" / "unpack.py"
    subprocess.run([sys.executable, program, pack, tmp_path], check=True, capture_output=True)
    settings = config(source="parquet", image_size=image_size)
    assert len(find_part(settings, split, tmp_path).rows) == count
    found = load_images(settings, split, tmp_path, count=2000)
    assert len(found.images) == len(found.names) == min(count, 2000)
    assert boxes == (0 if found.boxes is None else int((~found.boxes.isnan().any(1)).sum()))
    assert found.faults == ()


def test_real_cifar10_has_the_published_pixels(tmp_path, shared, monkeypatch):
    """The sum of the first test image is published; its 250 images, for speed, are those of the first stream."""
    monkeypatch.syspath_prepend(shared / "data")
    unpack = import_module("unpack")
    pixels = list(islice(unpack.cifar_part(shared / "data" / "cifar10" / "test.npz"), 250))
    labels = np.load(shared / "data" / "cifar10" / "test.npz")["labels"][:250].astype(np.int64)
    columns = {"image": unpack.image_column([unpack.png(one) for one in pixels], ["x"] * 250), "label": labels}
    unpack.write(tmp_path / "test.parquet", columns, list("abcdefghij"))
    test = load_images(config(source="parquet", image_size=32), "test", tmp_path)
    first = test.images[0].permute(1, 2, 0).numpy().tobytes()
    assert hashlib.sha256(first).hexdigest() == "af12e1241a1e7a0c9ba326825279bef5fe961ceb5f95212a99f9b1f22711f913"
    assert test.labels[:4].tolist() == [3, 8, 8, 0]  # cat, ship, ship, airplane, as in the data set's gallery


def marked(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A mask that is white from x0, y0 to x1, y1."""
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


def test_masks_of_parquet_files_follow_the_crop_and_give_boxes(tmp_path):
    """400x200 becomes 100x50 and loses 25 on either side, as in the test of boxes."""
    masks = [png(marked((400, 200), (100, 40, 200, 120))), png(marked((400, 200), (0, 0, 400, 200)))]
    rows = pa.array([{"mask": masks, "category": [1, 0]}, {"mask": [], "category": []}])
    images = pa.array([{"bytes": png(picture(1, (400, 200))), "path": None}] * 2, IMAGE)
    pq.write_table(pa.table({"image": images, "label": [1, 0], "objects": rows}), tmp_path / "test.parquet")
    plain = load_images(config(source="parquet", image_size=50), "test", tmp_path)
    masked = load_images(config(source="parquet", image_size=50, masks=True), "test", tmp_path)
    for test in (plain, masked):
        assert test.boxes is not None
        torch.testing.assert_close(test.boxes[0], torch.tensor([0.0, 10.0, 25.0, 30.0]))
    assert plain.masks is None
    expected = torch.zeros(2, 50, 50, dtype=torch.bool)
    expected[0, 10:30, :25] = True
    assert masked.masks is not None
    assert masked.masks.equal(expected)


@pytest.mark.parametrize(
    ("objects", "masks", "says"),
    [
        ([[1.0, 2.0, 3.0, 4.0]], False, r"its column objects holds list<.*no boxes are found; expected a struct of li"),
        ({"bbox": [[1.0, 2.0, 3.0, 4.0]]}, True, "no masks are found; expected a struct"),
        (None, True, "no column objects with masks"),
        ({"bbox": [[0.0, 0.0, 3.0, 4.0]], "mask": []}, True, "1 boxes, but 0 masks"),
        ({"mask": [png(Image.new("L", (8, 9)))]}, True, "a mask has 8x9 pixels, its image 9x9"),
        ({"mask": [b"scribble"]}, False, "cannot decode the column objects as an image"),
    ],
)
def test_objects_of_a_wrong_form_are_refused(tmp_path, objects, masks, says):
    images = pa.array([{"bytes": png(picture(1)), "path": None}], IMAGE)
    columns = {} if objects is None else {"objects": pa.array([objects])}
    pq.write_table(pa.table({"image": images, "label": [0], **columns}), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=says):
        load_images(config(source="parquet", masks=masks), "test", tmp_path)


@pytest.mark.parametrize("split", ["", "test"])
def test_masks_lie_beside_a_folder_of_images(tmp_path, split):
    write_folder(tmp_path / "pets" / split, list(range(30)))
    for number in range(20):
        mask = tmp_path / "pets-masks" / split / ("cat", "dog")[number % 2] / f"{number:03d}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        marked((9, 9), (number % 5, 1, 9, 9)).save(mask)
    test = load_images(config(source="folder", masks=True), "test", tmp_path / "pets")
    assert test.masks is not None
    assert test.boxes is not None
    for number, mask, box in zip(numbers(test), test.masks, test.boxes, strict=True):
        expected = torch.zeros(9, 9, dtype=torch.bool)
        if number < 20:
            expected[1:, number % 5 :] = True
            assert box.tolist() == [number % 5, 1, 9, 9]
        assert mask.equal(expected)
        assert box.isnan().all() == (number >= 20)


def test_a_folder_without_masks_is_told_where_they_belong(tmp_path):
    write_folder(tmp_path / "pets", list(range(30)))
    with pytest.raises(InputError, match=r"no mask such as .*pets-masks/cat/000.png; expected ROOT-masks/ with a PNG"):
        load_images(config(source="folder", masks=True), "test", tmp_path / "pets")
