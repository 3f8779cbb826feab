"""Add to the site what lies outside `docs/`: README, results and whatever pages link to; API reference and settings.

A file keeps its path in the repository, without a leading `docs/`. Links between files therefore work in both places.
"""

import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import ibviz

sys.path.insert(0, os.path.dirname(__file__))  # MkDocs loads this file alone
import settings_pages

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ibviz.__all__ if inspect.ismodule(getattr(ibviz, name))]
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> None:
    """Replace each folder of the navigation by its pages."""
    config.nav = [
        {title: place if isinstance(place, str) else [page for entry in place for page in pages_of(entry)]}
        for section in config.nav or []
        for title, place in section.items()
    ]


def pages_of(entry: str) -> list[str]:
    """Return the pages of a folder, or the page itself; a page named README or index comes first."""
    if entry == "settings/":
        return [*settings_pages.PAGES]
    if entry == "reference/":
        return ["reference/ibviz.md", *(f"reference/{name}.md" for name in PACKAGES)]
    if not entry.endswith("/"):
        return [entry]
    if entry == "evaluation/results/":
        return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / entry).glob("*/README.md"))
    pages = sorted((ROOT / "docs" / entry).glob("*.md"), key=lambda path: (path.stem != "index", path.stem))
    return [path.relative_to(ROOT / "docs").as_posix() for path in pages]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API reference and every file outside `docs/` that the navigation or a link leads to."""
    for package in ("", *PACKAGES):
        place = f"reference/{package or 'ibviz'}.md"
        files.append(File.generated(config, place, content=reference(package)))
    for place, page in settings_pages.PAGES.items():
        files.append(File.generated(config, place, content=page()))
    outside = [place for section in config.nav or [] for page in section.values() for place in listed(page)]
    pages = [place for file in files.documentation_pages() if (place := source_of(file.src_uri))]
    for place in reachable([*outside, *pages]):
        if files.get_file_from_path(site_path(place)) is None:
            files.append(File.generated(config, site_path(place), abs_src_path=str(ROOT / place)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links between files of the repository into links between files of the site."""
    source = source_of(page.file.src_uri)
    if source is None:
        return markdown
    if source == "README.md":
        page.meta["hide"] = ["navigation"]
    markdown = re.sub(r"\A<!--.*?-->\s*", "", markdown)  # before it MkDocs would not see the title
    here = os.path.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = resolved(source, link[0])
        return os.path.relpath(site_path(target), here or ".") if (ROOT / target).is_file() else link[0]

    return LINK.sub(moved, markdown)


def listed(page: Any) -> list[str]:
    """Return the files of one entry of the navigation that are not written by `reference`."""
    places = [page] if isinstance(page, str) else page
    return [source for place in places if (source := source_of(place))]


def site_path(place: str) -> str:
    """Return the path within the site of a file of the repository."""
    return place.removeprefix("docs/")


def source_of(site: str) -> str | None:
    """Return the path within the repository of a file of the site; None if the file is generated."""
    candidates = (place for place in (f"docs/{site}", site) if (ROOT / place).is_file())
    return next(candidates, None)


def resolved(source: str, link: str) -> str:
    """Return the path within the repository that a relative link in the file `source` leads to."""
    return os.path.normpath(os.path.join(os.path.dirname(source), link))


def reachable(places: list[str]) -> Iterator[str]:
    """Yield these files and all files of the repository to which they link, directly or through other pages."""
    waiting, known = list(places), set(places)
    while waiting:
        place = waiting.pop()
        yield place
        if not place.endswith(".md"):
            continue
        targets = {resolved(place, link) for link in LINK.findall((ROOT / place).read_text(encoding="utf-8"))}
        fresh = sorted(target for target in targets - known if (ROOT / target).is_file())
        waiting += fresh
        known.update(fresh)


def reference(package: str) -> str:
    """Return the page of one package: its docstring, then an entry for each public name."""
    module = getattr(ibviz, package) if package else ibviz
    names = [name for name in module.__all__ if not (package == "" and name in PACKAGES)]
    entries = [entry(module, name) for name in names]
    return "\n\n".join([f"# {module.__name__}", inspect.cleandoc(module.__doc__ or ""), *entries]) + "\n"


def entry(module: Any, name: str) -> str:
    """Return the Markdown of one public name; mkdocstrings fills in the docstring of functions and classes."""
    value = getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        return f"::: {value.__module__}.{value.__qualname__}\n    options: {{heading: {name}, toc_label: {name}}}"
    choices = f": {', '.join(f'`{choice}`' for choice in value)}" if isinstance(value, dict | tuple) else ""
    return f"## {name}\n\nA {type(value).__name__}{choices}."
