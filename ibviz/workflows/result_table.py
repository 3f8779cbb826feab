"""A table of chosen metrics and rows of a result, for the terminal or a paper."""

from collections.abc import Sequence
from pathlib import Path

from ibviz.benchmark.chosen_table import chosen, render_chosen
from ibviz.benchmark.results import read_results
from ibviz.errors import InputError
from ibviz.figures.settings import find_template
from ibviz.files import replacing
from ibviz.reading import parsing

PAGE, COLUMN = "cvpr", " column"  # the default page; the end of the names of columns


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
    name = template or PAGE
    width = find_template(name).width
    results = read_results(folder)
    with parsing(f"the tables of {folder} do not belong together", "run the suite again"):
        tables = results.tabulated()
    table = render_chosen(chosen(tables, metrics, rows), form, width=width, column=name.endswith(COLUMN))
    if out is not None:
        with replacing(out) as beside:
            beside.write_text(table, encoding="utf-8")
    return table
