"""Pictures with known objects, and data sets of them in the layouts of published archives."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (60, 40)  # width, height


def scene(*boxes: tuple[int, int, int, int]) -> Image.Image:
    """Black, with a white rectangle on the pixels of each box (half-open edges)."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    for x0, y0, x1, y1 in boxes:
        pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


BIRDS = {  # class, box, split
    "001.Black_Bird/a.jpg": (0, (6, 10, 36, 25), 1),
    "001.Black_Bird/b.jpg": (0, (0, 0, 20, 40), 1),
    "002.White_Bird/c.jpg": (1, (30, 5, 60, 35), 1),
    "002.White_Bird/d.jpg": (1, (9, 9, 21, 33), 0),
}


def write_cub(root: Path, *, segmentations: bool = True) -> None:
    folder = root / "CUB_200_2011"
    rows = list(enumerate(BIRDS.items(), 1))
    write(folder / "images.txt", *(f"{one} {file}" for one, (file, _) in rows))
    write(folder / "image_class_labels.txt", *(f"{one} {label + 1}" for one, (_, (label, _, _)) in rows))
    write(folder / "train_test_split.txt", *(f"{one} {split}" for one, (_, (_, _, split)) in rows))
    edges = [(one, *box[:2], box[2] - box[0], box[3] - box[1]) for one, (_, (_, box, _)) in rows]
    write(folder / "bounding_boxes.txt", *(f"{one} {x:.1f} {y:.1f} {w:.1f} {h:.1f}" for one, x, y, w, h in edges))
    write(folder / "classes.txt", "1 001.Black_Bird", "2 002.White_Bird")
    for file, (_, box, _) in BIRDS.items():
        save(scene(box), folder / "images" / file)
        if segmentations:
            save(scene(box).convert("L"), (root / "segmentations" / file).with_suffix(".png"))


def write_tiny(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    write(folder / "wnids.txt", "n02", "n01")
    write(folder / "words.txt", "n01\tgoldfish, Carassius auratus", "n02\ttoad, anuran", "n03\tother")
    for one, files in {"n01": ("n01_0.JPEG", "n01_1.JPEG"), "n02": ("n02_0.JPEG", "n02_1.JPEG")}.items():
        write(folder / "train" / one / f"{one}_boxes.txt", *(f"{file}\t6\t10\t35\t24" for file in files))
        for file in files:
            save(scene((6, 10, 36, 25)), folder / "train" / one / "images" / file)
    write(folder / "val" / "val_annotations.txt", "val_0.JPEG\tn01\t0\t0\t19\t39", "val_1.JPEG\tn02\t6\t10\t35\t24")
    save(scene((0, 0, 20, 40)), folder / "val" / "images" / "val_0.JPEG")
    save(scene((6, 10, 36, 25)), folder / "val" / "images" / "val_1.JPEG")


OBJECTS = {  # name, box, difficult or crowd
    "one": [("cat", (6, 10, 36, 25), 0), ("dog", (40, 0, 50, 10), 0), ("person", (0, 0, 60, 40), 1)],
    "two": [("dog", (0, 0, 20, 40), 0), ("dog", (30, 10, 45, 25), 0)],
    "none": [("person", (0, 0, 9, 9), 1)],
    "four": [("person", (3, 3, 33, 33), 0)],
}


def visible(name: str) -> Image.Image:
    return scene(*(box for _, box, hard in OBJECTS[name] if not hard))


def write_voc(folder: Path, lists: dict[str, list[str]]) -> None:
    """An object numbered k fills its box, except where a later one lies over it."""
    for kind in ("Main", "Segmentation"):
        for name, images in lists.items():
            write(folder / "ImageSets" / kind / f"{name}.txt", *images)
    for name, objects in OBJECTS.items():
        save(visible(name), folder / "JPEGImages" / f"{name}.jpg")
        numbers = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        for number, (_, (x0, y0, x1, y1), _) in reversed(list(enumerate(objects, 1))):
            numbers[y0:y1, x0:x1] = number
        mask = Image.fromarray(numbers, "L").convert("P")
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0])
        mask.putdata(numbers.flatten().tolist())
        save(mask, folder / "SegmentationObject" / f"{name}.png")
        found = "".join(
            f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{x0 + 1}</xmin>"
            f"<ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for kind, (x0, y0, x1, y1), hard in objects
        )
        write(folder / "Annotations" / f"{name}.xml", f"<annotation>{found}</annotation>")


CATEGORIES = {"person": 1, "cat": 17, "dog": 18}  # with gaps, as in COCO


def write_coco(root: Path, split: str, names: list[str]) -> None:
    annotations = []
    for number, name in enumerate(names):
        save(visible(name), root / f"{split}2017" / f"{name}.png")
        for kind, (x0, y0, x1, y1), crowd in OBJECTS[name]:
            polygon = [[x0, y0, x1, y0, x1, y1, x0, y1]]
            counts = [x0 * SIZE[1], (x1 - x0) * SIZE[1], (SIZE[0] - x1) * SIZE[1]]  # full height, column by column
            annotations.append(
                {
                    "image_id": number,
                    "category_id": CATEGORIES[kind],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": crowd,
                    "segmentation": {"size": [SIZE[1], SIZE[0]], "counts": counts} if crowd else polygon,
                }
            )
    content = {
        "images": [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names)],
        "annotations": annotations,
        "categories": [{"id": one, "name": name} for name, one in sorted(CATEGORIES.items(), reverse=True)],
    }
    write(root / "annotations" / f"instances_{split}2017.json", json.dumps(content))
