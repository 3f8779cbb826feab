"""Chosen metrics and rows of a result as tables that fit the page, with verdicts as marks."""

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from results import write_results

from ibviz import cli
from ibviz.benchmark.chosen_table import chosen, render_chosen, styled
from ibviz.benchmark.evaluation import Evaluation
from ibviz.benchmark.results import read_results
from ibviz.benchmark.table_notes import COMPARED
from ibviz.benchmark.tables import Tables, latex, tabulate
from ibviz.errors import InputError
from ibviz.figures.settings import TEMPLATES
from ibviz.metrics.protocol import Card, CurveProtocol
from ibviz.table_formats import TextTable, latex_of

STRANGE = "A_1 & 50% #~^\\{}|$ <b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_results(tmp_path_factory.mktemp("result"), images=24)


@pytest.fixture(scope="module")
def tables(folder) -> Tables:
    results = read_results(folder)
    return tabulate(results.rows, results.circumstances)


def test_a_chosen_table_keeps_order_ranks_and_tests_of_the_whole(tables):
    few: Any = chosen(tables, ["pointing", "srg"], ["uniform", "grad_cam"]).summary.lines
    assert list(few["metric"]) == ["pointing_game"] * 2 + ["srg"] * 2
    assert list(few["method"]) == ["uniform", "Grad-CAM"] * 2
    whole: Any = tables.summary.lines
    whole = whole[(whole["stratum"] == "all images") & ~whole["native"]]
    kept = whole.merge(few[["metric", "method"]], on=["metric", "method"])
    assert set(few[COMPARED]) == {4}  # the lines of the result, for whose pairs p was corrected
    few = few.drop(columns=COMPARED)
    sorted_few, sorted_kept = (frame.sort_values(["metric", "method"], ignore_index=True) for frame in (few, kept))
    pd.testing.assert_frame_equal(sorted_few, sorted_kept, check_dtype=False)


def test_verdicts_of_the_tests_are_marks(tables):
    lines: Any = chosen(tables, ["srg"]).summary.lines
    marks = {"better": "$^{+}$", "worse": "$^{-}$", "not separated": r"$^{\circ}$"}
    printed = render_chosen(chosen(tables, ["srg"]), "tex")
    for line in lines[lines["verdict"].notna()].itertuples(index=False):
        mark = next(mark for start, mark in marks.items() if line.verdict.startswith(start))
        row = next(row for row in printed.splitlines() if row.startswith(f"{line.method} &"))
        assert f"({line.rank}){mark}" in row
    assert "by a paired test" in printed
    assert "not separated from centre, p" not in printed


def test_one_call_gives_the_table_of_an_evaluation_in_memory_in_latex(folder):
    results = read_results(folder)
    protocol = CurveProtocol(colour=(0.5, 0.5, 0.5), grid=(4, 4))
    card = Card(protocol=protocol, data="0" * 12, weights="1" * 12, versions={})
    rows = results.rows.to_dict("records")
    drawn = Evaluation(rows, {}, {}, card, 0).latex(["srg"], ["Grad-CAM", "centre"], template="cvpr column")
    lines = drawn.splitlines()
    assert lines[2:4] == [r"\begin{table}", r"\centering\small\setlength{\tabcolsep}{3pt}"]
    assert [line.split(" & ")[0] for line in lines if " & " in line] == ["method", "Grad-CAM", r"\textit{centre}"]
    with pytest.raises(InputError, match=r"unknown template 'cvprr'.*did you mean 'cvpr'"):
        Evaluation(rows, {}, {}, card, 0).latex(template="cvprr")


def test_a_notebook_has_the_best_in_bold_and_controls_in_grey(tables):
    page = styled(chosen(tables, ["srg", "pointing"])).to_html()
    assert page.count("font-weight: bold") >= 1
    assert "color: #666666" in page
    assert "Grad-CAM" in page


def run(monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["ibviz", "report", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.run()
    return int(stopped.value.code or 0)


def test_one_command_writes_the_table(folder, tmp_path, monkeypatch, capsys):
    flags = ["--table", "srg,pointing", "--rows", "attention,grad_cam"]
    assert run(monkeypatch, folder, *flags) == 0
    printed = capsys.readouterr().out
    head = re.split(r"\s{2,}", printed.splitlines()[0])
    assert head[:3] == ["method", "SRG \u2191", "Pointing \u2191"]
    assert [line.split("  ")[0] for line in printed.splitlines()[2:4]] == ["Attention", "Grad-CAM"]
    assert run(monkeypatch, folder, *flags, "--out", tmp_path / "t.tex", "--template", "cvpr column") == 0
    assert (tmp_path / "t.tex").read_text().count(r"\begin{table}") == 1
    assert run(monkeypatch, folder, *flags, "--format", "csv") == 0
    assert "0.0" in capsys.readouterr().out


def test_a_table_of_several_trainings_names_in_each_part_its_own_protocol_and_in_their_mean_all_of_them(tmp_path):
    results = read_results(write_results(tmp_path, images=24, models=("a", "b", "c")))
    rows = results.rows.assign(hash=["0123-" + model for model in results.rows["model"]])
    models = {model: facts | {"recipe": "r"} for model, facts in results.circumstances["models"].items()}
    tables = tabulate(rows, results.circumstances | {"models": models})
    notes = [line for line in render_chosen(chosen(tables, ["srg"]), "txt").splitlines() if "Protocol" in line]
    each = ["0123-a", "0123-b", "0123-c"]
    assert [re.findall("0123-.", note) for note in notes] == [*([own] for own in each), each]


def test_a_part_of_a_result_says_what_the_whole_was_corrected_for_and_explains_no_mark_that_it_lacks(tmp_path):
    results = read_results(write_results(tmp_path, images=7))
    tables = tabulate(results.rows, results.circumstances)
    whole = render_chosen(chosen(tables, ["srg"]), "tex")
    part = render_chosen(chosen(tables, ["srg"], ["attention", "centre"]), "tex")
    reason = "times 6 for the pairs of 4 lines: nothing is tested"
    assert reason in whole
    assert reason in part
    for text in (whole, part):
        assert "by a paired test" not in text
        assert "Ranks in parentheses" not in text


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--table", "srgg"], "unknown metric 'srgg'; known: .*did you mean 'srg'"),
        (["--table", "srg", "--rows", "gradcam"], "unknown row 'gradcam'; known: .*did you mean 'grad_cam'"),
        (["--table", "srg", "--rows", ","], "--rows ',' names nothing; give names, separated by commas, or all"),
        (["--table", " , "], "--table ' , ' names nothing"),
        (["--table", "srg", "--format", "docx"], "unknown format 'docx'"),
        (["--table", "srg", "--format", "tex", "--template", "cvprr"], "unknown template 'cvprr'.*did you mean 'cvpr'"),
        (["--table", "srg", "--template", "cvpr"], "--format tex"),
        (["--rows", "uniform"], "there is nothing for --rows to do"),
    ],
)
def test_what_cannot_be_chosen_is_one_line(folder, monkeypatch, capsys, flags, says):
    assert run(monkeypatch, folder, *flags) == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert error.count("\n") == 1


def test_no_row_left_is_one_line(tables):
    lines: Any = tables.summary.lines
    few = lines[(lines["metric"] != "pointing_game") | (lines["method"] != "Grad-CAM")]
    with pytest.raises(InputError, match="no row is left: none of Grad-CAM was judged by pointing_game"):
        chosen(tables._replace(summary=replace(tables.summary, lines=few)), ["pointing_game"], ["Grad-CAM"])


PAGE = r"""\documentclass[10pt,twocolumn,letterpaper]{article}
\usepackage{booktabs}
%s
\setlength{\textwidth}{%.4fin}\setlength{\columnsep}{%.4fin}
\begin{document}
%s
\end{document}
"""


def log_of(table: str, name: str, tmp_path: Path, font: str) -> str:
    """Set a table in two columns of a page of figures and return the log."""
    page = TEMPLATES[name.removesuffix(" column")].width
    between = page - 2 * TEMPLATES[name].width if name.endswith(" column") else 0.3125
    (tmp_path / "t.tex").write_text(PAGE % (font, page, between, table), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").exists()
    return done.stdout


needs_latex = pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here: pdflatex is not installed")


@needs_latex
@pytest.mark.parametrize("font", ["", r"\usepackage{times}"], ids=["computer modern", "times"])
@pytest.mark.parametrize("name", ["cvpr", "cvpr column", "ijcai column", "neurips"])
@pytest.mark.parametrize("metrics", [("srg", "pointing"), ()], ids=["two", "all"])
def test_a_table_of_a_template_has_no_overfull_box(folder, tmp_path, name, metrics, font):
    results = read_results(folder)
    tables = tabulate(results.rows.replace({"method": {"Attention": STRANGE}}), results.circumstances)
    log = log_of(render_chosen(chosen(tables, metrics), "tex", template=name), name, tmp_path, font)
    assert "Overfull" not in log


@needs_latex
def test_the_whole_page_of_tables_has_no_overfull_box(tables, tmp_path):
    assert "Overfull" not in log_of(latex(tables), "neurips", tmp_path, "")


@needs_latex
def test_a_long_label_is_broken_and_a_table_too_wide_is_split(tmp_path):
    cells = [["file.py:a_rather_long_name_of_a_method_that_somebody_wrote", *["0.500 [0.400, 0.600] (1)"] * 9]]
    table = latex_of(TextTable("", [f"metric {place}" for place in range(10)], cells), width=3.25, column=True)
    assert table.count(r"\begin{tabular}") > 1
    assert table.count("0.500") == 9
    log = log_of(table, "cvpr column", tmp_path, "")
    assert "Overfull" not in log
