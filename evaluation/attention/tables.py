"""Tables of what `judge.py` found.

usage: python evaluation/attention/tables.py RESULTS     RESULTS holds its JSON files; prints Markdown
"""

import json
import sys
from pathlib import Path
from typing import Any

ORDER = ("SRG", "AUROC", "pointing game", "energy, normalised")


def main(folder: Path) -> None:
    pages = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    print("| training | accuracy | own | " + " | ".join(("at mean", "average", "another's", "reversed")) + " |")
    print("| --- " * 7 + "|")
    for name, page in pages.items():
        use = page["use"]
        own = said(use["own"]["accuracy"])
        values = [f"{use[kind]['accuracy']['mean']:.3f} / {use[kind]['cross-entropy']['mean']:.2f}" for kind in use]
        print(f"| {name} | {own} | " + " | ".join(values) + " |")
    for name, page in pages.items():
        print(f"\n**{name}** ({len(page['runs'])} trainings, {page['images']} images; SRG: {page['images of SRG']})\n")
        print("| map | " + " | ".join(ORDER) + " |")
        print("| --- " * (1 + len(ORDER)) + "|")
        rows = {**page["maps"], **page["differences"]}
        for row, values in rows.items():
            print(f"| {row} | " + " | ".join(said(values[metric]) for metric in ORDER) + " |")


def said(one: dict[str, Any]) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
