"""A table of chosen metrics and rows of a result, for the terminal or a paper."""

from collections.abc import Sequence
from pathlib import Path

from ibviz.benchmark.chosen_table import PAGE, chosen, render_chosen
from ibviz.benchmark.results import read_results
from ibviz.errors import InputError
from ibviz.files import replacing
from ibviz.pages import page_size
from ibviz.reading import parsing
from ibviz.workflows.flags import split_names


def names_or_all(flag: str, names: str) -> list[str]:
    """Return names that are separated by commas, an empty list for all; a list without a name is refused.

    >>> names_or_all("--table", "srg,pointing"), names_or_all("--table", "all")
    (['srg', 'pointing'], [])
    """
    chosen = split_names(names)
    if names and not chosen:
        raise InputError(f"{flag} {names!r} names nothing; give names, separated by commas, or all")
    return [] if chosen == ["all"] else chosen


def write_chosen(
    folder: Path,
    out: Path | None,
    metrics: Sequence[str],
    rows: Sequence[str],
    *,
    form: str | None = None,
    template: str | None = None,
) -> str:
    """Return a table of a result, and write it to a file if one is given.

    Args:
        folder: The folder of the result.
        out: The file to write; its suffix is the form if none is named.
        metrics: Names of metrics, or their beginnings; by default all.
        rows: Names or labels of methods and controls; by default all.
        form: "txt", "md", "tex", "csv" or "json".
        template: Name of the page or column that a table in LaTeX has to fit.

    Raises:
        InputError: A metric, a row, the form or the template is unknown, or no row is left.
    """
    given = "" if out is None else out.suffix[1:]
    form = form or given or "txt"
    if template is not None and form != "tex":
        raise InputError(f"a template is the page of a table in LaTeX, --format tex; got {form!r}")
    page_size(template or PAGE)  # before rows are read
    results = read_results(folder)
    with parsing(f"the tables of {folder} do not belong together", "run the suite again"):
        tables = results.tabulated()
    table = render_chosen(chosen(tables, metrics, rows), form, template=template or PAGE)
    if out is not None:
        with replacing(out) as beside:
            beside.write_text(table, encoding="utf-8")
    return table
