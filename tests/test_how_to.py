"""The snippets of docs/how-to run as they stand, with random weights in the place of published ones."""

import json
import re
import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image

PAGES = Path(__file__).parents[1] / "docs/how-to"
INSTEAD = {  # of downloads and of long runs
    "backbone": {},
    "data-set": {},
    "method": {},
    "metric": {"images=8": "images=2"},
    "figures": {"count=100": "count=6"},
    "detectors": {
        'weights="DEFAULT"': "weights=None, weights_backbone=None, num_classes=3, rpn_post_nms_top_n_test=9",
        "masks=500": "masks=3",
    },
    "segmenters": {'weights="DEFAULT"': "weights=None, weights_backbone=None, num_classes=3"},
    "texts": {"openai/clip-vit-base-patch32": "FOLDER"},
}
PRINTED = {"data-set": "('0', '1') tensor(["}  # of pages that write no file
SIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def keep_small_clip(folder: Path, side: int = 32) -> None:
    transformers = pytest.importorskip("transformers")
    text = {**SIDE, "vocab_size": 60, "max_position_embeddings": 24, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**SIDE, "image_size": side, "patch_size": 8}
    torch.manual_seed(0)
    transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    letters = [letter + end for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")]
    words = {word: place for place, word in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    transformers.CLIPTokenizer(vocab=words, merges=[]).save_pretrained(folder)
    prepared = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "image_mean": [0.5] * 3,
        "image_std": [0.25] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))


@pytest.mark.parametrize("page", INSTEAD)
def test_a_snippet_runs(page, tmp_path, monkeypatch, capsys):
    [snippet] = re.findall(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text(), re.DOTALL)
    assert len(snippet.splitlines()) <= 25
    for published, small in INSTEAD[page].items():
        assert published in snippet
        snippet = snippet.replace(published, small.replace("FOLDER", str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((80, 64), 60).convert("RGB").save("photo.jpg")
    if page == "texts":
        keep_small_clip(tmp_path)
    torch.manual_seed(0)
    named = re.match(r"# (\w+\.py)\n", snippet)
    file = tmp_path / (named[1] if named else "snippet.py")  # the name by which the page calls it
    file.write_text(snippet)
    before = {*tmp_path.iterdir()}
    runpy.run_path(str(file), run_name="__main__")
    assert {*tmp_path.iterdir()} > before or capsys.readouterr().out.startswith(PRINTED[page])


def test_every_page_is_run():
    assert {page.stem for page in PAGES.glob("*.md")} == {*INSTEAD}
