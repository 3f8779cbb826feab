"""Write `docs/licences.md`: the licences of the dependencies, as their installed packages state them."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEAD = """# Licences of dependencies

ibviz is under the MIT licence and contains no code of these packages; `pip` installs them beside it. Quantus is under
the LGPL 3 or later by its licence file, though its metadata say GPL; ibviz imports it only when a metric `quantus:NAME`
is asked for. The other packages of the extra `peers` serve comparisons in tests and studies alone.

`python docs/licences.py` writes this table from the metadata of the packages that are installed. What they depend on in
turn has licences of its own.

| package | needed for | version seen | licence |
|---|---|---|---|
"""


def main() -> None:
    """Write the page."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {f"extra {name}": needs for name, needs in project["optional-dependencies"].items() if name != "dev"}
    lines = [
        f"| {name} | {group} | {' | '.join(version_and_licence(name))} |\n"
        for group, needs in ({"ibviz": project["dependencies"]} | extras).items()
        for name in (re.split(r"[\[<>=!~; ]", need)[0] for need in needs)
    ]
    (ROOT / "docs/licences.md").write_text(HEAD + "".join(lines))


def version_and_licence(name: str) -> tuple[str, str]:
    """Return what the metadata of a package says, by any of the three fields that packages use."""
    try:
        held: Any = metadata(name)
    except PackageNotFoundError:
        return "not installed", "see its page"
    classified = [
        line.rpartition(" :: ")[2] for line in held.get_all("Classifier") or () if line.startswith("License ::")
    ]
    stated = (held.get("License") or "not stated").strip().splitlines()[0]
    return held["Version"], held.get("License-Expression") or "; ".join(classified) or stated


if __name__ == "__main__":
    main()
