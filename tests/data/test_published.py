import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from data.drawn import BIRDS, OBJECTS, save, scene, visible, write, write_coco, write_cub, write_tiny, write_voc
from PIL import Image

from ibviz.data.config import DataConfig
from ibviz.data.image_set import ImageSet, regions
from ibviz.data.listing import DecodedImage, decode_rows
from ibviz.data.objects import View
from ibviz.data.sources import find_part, load_images
from ibviz.errors import InputError

WHITE = 127
coco_masks = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11


def config(source: str, **changes: object) -> DataConfig:
    return DataConfig.model_validate({"source": source, "validation_share": 0.34} | changes)


def bright(image: torch.Tensor) -> list[int]:
    """Box around the white pixels, which are the object's."""
    place = (image[0] > WHITE).nonzero()
    return [*place.amin(0).flip(0).tolist(), *(place.amax(0) + 1).flip(0).tolist()]


def refused(settings: DataConfig, root: Path, message: str, split: str = "test") -> None:
    with pytest.raises(InputError, match=message):
        load_images(settings, split, root)  # pyright: ignore[reportArgumentType]


def test_cub_has_its_own_split_its_classes_and_its_boxes(tmp_path):
    write_cub(tmp_path)
    parts = {split: load_images(config("cub"), split, tmp_path) for split in ("train", "validation", "test")}
    assert sorted(parts["train"].names + parts["validation"].names) == sorted(BIRDS)[:3]
    assert len(parts["validation"].names) == 1
    assert parts["test"].names == ("002.White_Bird/d.jpg",)
    for part in parts.values():
        assert part.class_names == ("Black Bird", "White Bird")
        assert part.labels.tolist() == [BIRDS[name][0] for name in part.names]
        assert part.boxes is not None
        assert part.boxes.tolist() == [[*map(float, BIRDS[name][1])] for name in part.names]
        assert part.masks is None


def test_cubs_root_may_be_the_folder_itself_and_masks_are_its_segmentations(tmp_path):
    write_cub(tmp_path)
    found = load_images(config("cub", masks=True), "train", tmp_path / "CUB_200_2011")
    assert found.masks is not None
    for mask, name in zip(found.masks, found.names, strict=True):
        assert mask.equal(torch.from_numpy(np.array(scene(BIRDS[name][1]))[..., 0] > 0))
    seen = regions(found)
    assert seen is not None
    assert seen.equal(found.masks)


def test_a_box_crop_is_the_square_of_its_box_whatever_the_shape(tmp_path):
    """As the authors do: box, 40 x 40 pixels, centre 32. White fills it, and the box covers it all."""
    write_cub(tmp_path)
    found = load_images(config("cub", masks=True, crop="box", image_size=32, resize=40), "train", tmp_path)
    assert found.images.shape[1:] == (3, 32, 32)
    assert found.images.min() > 250
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0.0, 0.0, 32.0, 32.0]] * len(found.names)
    assert found.masks is not None
    assert found.masks.all()


def test_cub_without_segmentations_or_with_lists_cut_off_is_one_clear_error(tmp_path):
    write_cub(tmp_path, segmentations=False)
    refused(config("cub", masks=True), tmp_path, "no segmentations in .*CUB_200_2011 or beside it; put them there or")
    boxes = tmp_path / "CUB_200_2011" / "bounding_boxes.txt"
    boxes.write_text("1 6.0 10.0 30.0 15.0\n")
    refused(config("cub"), tmp_path, "lists of .*CUB_200_2011 disagree or are cut off: '4'")
    boxes.unlink()
    refused(config("cub"), tmp_path, "cannot read .*bounding_boxes.txt: No such file.*expected CUB_200_2011/ with")


def test_a_box_beyond_the_image_is_an_error_that_names_it(tmp_path):
    write_cub(tmp_path)
    save(scene().resize((20, 20)), tmp_path / "CUB_200_2011" / "images" / "002.White_Bird" / "d.jpg")
    refused(
        config("cub"), tmp_path, r"White_Bird/d\.jpg: a box reaches outside the image of 20x20 pixels: x 9 to 21, y 9"
    )


def test_a_label_beyond_the_classes_is_an_error(tmp_path):
    write_cub(tmp_path)
    write(tmp_path / "CUB_200_2011" / "classes.txt", "1 001.Black_Bird")
    refused(config("cub"), tmp_path, r"labels must be -1 \(none\) to 0, one per class name; got 1 to 1")


def test_tiny_imagenet_takes_val_as_test_and_makes_inclusive_corners_half_open(tmp_path):
    write_tiny(tmp_path)
    test = load_images(config("tiny_imagenet"), "test", tmp_path)
    assert test.class_names == ("toad", "goldfish")
    assert (test.names, test.labels.tolist()) == (("val_0.JPEG", "val_1.JPEG"), [1, 0])
    assert test.boxes is not None
    assert test.boxes.tolist() == [[0.0, 0.0, 20.0, 40.0], [6.0, 10.0, 36.0, 25.0]]
    parts = [load_images(config("tiny_imagenet"), split, tmp_path) for split in ("train", "validation")]
    assert sorted(name for part in parts for name in part.names) == [f"n0{c}_{i}.JPEG" for c in (1, 2) for i in (0, 1)]
    assert all(part.labels.tolist() == [2 - int(name[2]) for name in part.names] for part in parts)


def test_tiny_imagenet_of_another_layout_is_one_clear_error(tmp_path):
    refused(config("tiny_imagenet"), tmp_path, "no Tiny ImageNet under .*expected tiny-imagenet-200/ with wnids.txt")
    write_tiny(tmp_path)
    write(tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt", "val_0.JPEG\tn09\t0\t0\t9\t9")
    refused(config("tiny_imagenet"), tmp_path, "val_0.JPEG is of n09, which wnids.txt lacks")
    write(tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t9")
    refused(config("tiny_imagenet"), tmp_path, "val_0.JPEG: its box should be four numbers, is '0 0 9'")


@pytest.fixture(params=["voc2007", "voc2012", "coco"])
def boxed(request, tmp_path) -> tuple[str, Path]:
    """A data set of many objects whose test split holds `one`, `two` and `none`."""
    if request.param == "coco":
        write_coco(tmp_path, "train", ["four", "two"])
        write_coco(tmp_path, "val", ["one", "two", "none"])
    else:
        last = {"voc2007": "test", "voc2012": "val"}[request.param]
        lists = {"train": ["four", "two"], "val": ["four"]} | {last: ["one", "two", "none"]}
        write_voc(tmp_path / "VOCdevkit" / f"VOC{request.param[3:]}", lists)
    return request.param, tmp_path


def test_the_label_is_the_class_of_the_largest_object_that_is_not_difficult(boxed):
    source, root = boxed
    test = load_images(config(source), "test", root)
    assert [name.split(".")[0] for name in test.names] == ["one", "two"]  # `none` has a difficult object only
    assert [test.class_names[label] for label in test.labels] == ["cat", "dog"]
    assert source != "coco" or test.class_names == ("person", "cat", "dog")  # in the order of their numbers
    assert test.boxes is not None
    assert test.boxes.tolist() == [[6.0, 10.0, 36.0, 25.0], [0.0, 0.0, 20.0, 40.0]]


def test_all_objects_are_kept_with_their_flags(boxed):
    source, root = boxed
    test = load_images(config(source), "test", root)
    assert test.objects is not None
    for name, objects in zip(("one", "two"), test.objects, strict=True):
        assert objects is not None
        assert [test.class_names[label] for label in objects.labels] == [kind for kind, _, _ in OBJECTS[name]]
        assert objects.boxes.tolist() == [[*map(float, box)] for _, box, _ in OBJECTS[name]]
        assert objects.difficult.tolist() == [bool(hard) for _, _, hard in OBJECTS[name]]
        assert objects.masks is None


def test_splits_of_boxed_sets(boxed):
    source, root = boxed
    train, validation = (load_images(config(source), split, root).names for split in ("train", "validation"))
    if source == "voc2007":  # its own
        assert (train, validation) == (("four.jpg", "two.jpg"), ("four.jpg",))
    else:
        assert sorted(name.split(".")[0] for name in train + validation) == ["four", "two"]


def masks_of(images: ImageSet) -> dict[str, torch.Tensor]:
    assert images.objects is not None
    return {
        name.split(".")[0]: objects.masks
        for name, objects in zip(images.names, images.objects, strict=True)
        if objects is not None and objects.masks is not None
    }


def rectangle(box: tuple[int, int, int, int]) -> torch.Tensor:
    return torch.from_numpy(np.array(scene(box))[..., 0] > 0)


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_voc_masks_are_numbered_as_the_objects_are(tmp_path, year):
    write_voc(tmp_path / f"VOC{year}", {"train": ["four"], "val": ["one", "two"], "test": ["one", "two"]})
    test = load_images(config(f"voc{year}", masks=True), "test", tmp_path)
    masks = masks_of(test)
    cat, dog, crowd = (rectangle(box) for _, box, _ in OBJECTS["one"])
    assert masks["one"].equal(torch.stack([cat, dog, crowd & ~cat & ~dog]))
    assert test.masks is not None
    assert test.masks[0].equal(cat)
    assert test.masks[1].equal(rectangle(OBJECTS["two"][0][1]))


@coco_masks
def test_coco_masks_are_drawn_from_polygons_and_run_lengths(tmp_path):
    pytest.importorskip("pycocotools")
    write_coco(tmp_path, "val", ["one", "two"])
    test = load_images(config("coco", masks=True), "test", tmp_path)
    for name, masks in masks_of(test).items():
        assert masks.equal(torch.stack([rectangle(box) for _, box, _ in OBJECTS[name]]))
    assert test.masks is not None
    assert test.masks[0].equal(rectangle(OBJECTS["one"][0][1]))


def test_coco_masks_without_pycocotools_say_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    refused(config("coco", masks=True), tmp_path, r"need pycocotools: pip install 'ibviz\[coco\]', or leave masks out")


@pytest.mark.parametrize("view", [{"image_size": 20}, {"image_size": 24, "resize": 30}, {}])
def test_boxes_and_masks_follow_the_pixels_through_every_view(tmp_path, view):
    """The white pixels, the box and the mask of one object must agree, to half a pixel and to one."""
    whole = (10, 6, 40, 30)
    write_voc(tmp_path, {"train": ["four"], "test": ["four"]})
    save(scene(whole), tmp_path / "JPEGImages" / "four.jpg")
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), (11, 7, 40, 30), strict=True))
    write(
        tmp_path / "Annotations" / "four.xml",
        f"<annotation><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>",
    )
    numbers = Image.fromarray(np.array(scene(whole))[..., 0] // 255, "L")
    save(numbers, tmp_path / "SegmentationObject" / "four.png")
    found = load_images(config("voc2007", masks=True, **view), "test", tmp_path)
    assert found.boxes is not None
    assert found.masks is not None
    torch.testing.assert_close(found.boxes[0], torch.tensor(bright(found.images[0])).float(), atol=0.51, rtol=0)
    edges = bright(found.masks[:1].expand(3, -1, -1).byte() * 255)
    torch.testing.assert_close(found.boxes[0], torch.tensor(edges).float(), atol=1.0, rtol=0)


def test_annotations_that_cannot_be_read_are_one_clear_error(tmp_path):
    write_voc(tmp_path / "voc", {"train": ["four"], "val": ["one"]})
    (tmp_path / "voc" / "Annotations" / "one.xml").write_text("<annotation><object><name>unicorn</name></object>")
    refused(config("voc2012"), tmp_path / "voc", "one.xml is no annotation of VOC's 20 classes")
    write(tmp_path / "coco" / "annotations" / "instances_val2017.json", "{}")
    refused(
        config("coco"),
        tmp_path / "coco",
        "instances_val2017.json is no COCO instances file: .*categories: Field required",
    )
    refused(config("coco"), tmp_path, "no COCO annotations under .*expected annotations/instances_train2017.json")


def test_a_mask_of_another_size_is_an_error(tmp_path):
    write_cub(tmp_path)
    save(Image.new("L", (9, 9)), tmp_path / "segmentations" / "002.White_Bird" / "d.png")
    refused(config("cub", masks=True), tmp_path, "d.jpg: its mask is 9x9 pixels, the image 60x40")


def test_masks_are_refused_where_there_are_none(tmp_path):
    refused(config("svhn", masks=True), tmp_path, "source svhn has no masks to read; those that have: cub, voc2007")


def test_a_box_crop_needs_a_size_and_a_box(tmp_path):
    write_coco(tmp_path, "val", ["one"])
    refused(config("coco", crop="box"), tmp_path, "needs image_size: boxes differ in size")
    save(visible("one"), tmp_path / "test" / "cat" / "x.png")
    refused(config("folder", crop="box", image_size=8), tmp_path, 'cat/x.png: no box of its class to crop to.*"image"')


def run_lengths(rle: dict) -> torch.Tensor:
    """Runs of 0 and 1 in turn, down one column after the other."""
    height, width = rle["size"]
    runs = np.repeat(np.arange(len(rle["counts"])) % 2 == 1, rle["counts"])
    return torch.from_numpy(runs.reshape(width, height).T.copy())


def in_cocos_form(records: list[dict]) -> dict:
    categories = sorted({one["category"] for record in records for one in record["objects"]})
    return {
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories)],
        "images": [{"id": number, "file_name": record["file"]} for number, record in enumerate(records)],
        "annotations": [
            {
                "image_id": number,
                "category_id": categories.index(one["category"]),
                "bbox": one["bbox"],
                "iscrowd": one["crowd"],
                "segmentation": one["rle"] if one["crowd"] else one["polygons"],
            }
            for number, record in enumerate(records)
            for one in record["objects"]
        ],
    }


@coco_masks
def test_masks_of_real_photographs_have_the_published_areas(tmp_path, shared):
    """COCO's authors computed the areas of objects from the same polygons; crowds are run lengths, read literally."""
    pytest.importorskip("pycocotools")
    records = json.loads((shared / "data" / "photos" / "annotations.json").read_text())["images"]
    write(tmp_path / "annotations" / "instances_val2017.json", json.dumps(in_cocos_form(records)))
    (tmp_path / "val2017").symlink_to(shared / "data" / "photos" / "images")
    part = find_part(config("coco", masks=True), "test", tmp_path)
    assert len(part.rows) == 126  # two have no object
    of_file = {record["file"]: record["objects"] for record in records}
    for name, found in zip(part.listing.names, decode_rows(part, View()), strict=True):
        assert isinstance(found, DecodedImage)
        assert found.annotation is not None
        masks = found.annotation.objects.masks
        assert masks is not None
        for mask, one in zip(masks, of_file[name], strict=True):
            if one["crowd"]:
                assert mask.equal(run_lengths(one["rle"]))
            else:
                assert int(mask.sum()) == pytest.approx(one["area"], rel=0.02, abs=4 * one["area"] ** 0.5), name
