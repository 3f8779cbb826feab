import io
import json
import re
from typing import Any

import pandas as pd
import pytest
from results import card, write_results

from ibviz.benchmark.results import read_results
from ibviz.benchmark.table_text import verdict
from ibviz.benchmark.tables import TABLE_FORMATS, Tables, comma_separated, latex, markdown, parquet, tabulate, text
from ibviz.errors import InputError

STRANGE = "A_1 & 50% #~^\\{}|$ <b>"  # everything that LaTeX, Markdown or HTML could take for its own


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Tables:
    found = read_results(write_results(tmp_path_factory.mktemp("result"), images=24))
    return tabulate(found.rows.replace({"method": {"Attention": STRANGE}}), found.circumstances)


def test_machine_readable_formats_hold_the_lines_at_full_precision(tables):
    lines = tables.summary.lines
    read: dict[str, Any] = {
        "parquet": pd.read_parquet(io.BytesIO(parquet(tables))),
        "csv": pd.read_csv(io.StringIO(comma_separated(tables))),
        "json": pd.DataFrame(json.loads(TABLE_FORMATS["json"](tables))["lines"]),
    }
    for found in read.values():
        found[["rank", "clusters"]] = found[["rank", "clusters"]].astype("Int64")
        found["largest_cluster"] = found["largest_cluster"].astype(float)
        pd.testing.assert_frame_equal(found, lines, check_dtype=False, check_column_type=False, rtol=0, atol=0)
    content = json.loads(TABLE_FORMATS["json"](tables))
    assert content["circumstances"] == tables.circumstances
    assert len(content["agreement"]) == len(tables.summary.agreement)


def numbers(tables: Tables) -> list[str]:
    """The cell of each method by SRG, made by hand."""
    lines: Any = tables.summary.lines
    kept = lines[(lines["metric"] == "srg") & (lines["stratum"] == "all images") & ~lines["native"]]
    return [
        f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}] ({one.rank})".replace("-0.000", "0.000")
        for one in kept.itertuples(index=False)
    ]


@pytest.mark.parametrize("form", [text, markdown])
def test_printed_formats_hold_each_estimate_and_its_rank(tables, form):
    printed = form(tables)
    for cell in numbers(tables):
        assert cell in printed


def test_controls_stand_last_behind_a_rule(tables):
    lines = text(tables).splitlines()
    rule = [i for i, line in enumerate(lines) if line.startswith("---")][:2]
    assert [line.split("  ")[0] for line in lines[rule[0] + 1 : rule[1]]] == [STRANGE, "Grad-CAM"]
    assert [line.split("  ")[0] for line in lines[rule[1] + 1 :][:2]] == ["centre", "uniform"]


def test_markdown_has_as_many_cells_in_each_line(tables):
    for block in markdown(tables).split("\n\n"):
        rows = [re.split(r"(?<!\\)\|", line) for line in block.splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) <= 1
    assert "| *centre* |" in markdown(tables)
    assert "\\{}\\|$" in markdown(tables)


def test_latex_is_balanced_escaped_and_rectangular(tables):
    printed = latex(tables)
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+\*?)\}", printed):
        opened.append(name) if kind == "begin" else None
        assert kind == "begin" or opened.pop() == name
    assert not opened
    bare = re.sub(r"\\([&%$#_{}])", "", printed.partition("\n")[2])  # what is escaped is text
    bare = re.sub(r"\$\\?(uparrow|downarrow|<|>|\||-)\$|\$\^\{(\+|-|\\circ)\}\$", "", bare)
    assert not re.search(r"[%$#_~^<>|]", bare)
    assert bare.count("{") == bare.count("}")
    assert set(re.findall(r"\\([a-z]+)", bare)) <= {
        *("begin", "end", "centering", "small", "caption", "toprule", "midrule", "bottomrule", "textit", "par"),
        *("footnotesize", "scriptsize", "setlength", "tabcolsep", "parbox", "raggedright", "sloppy", "medskip"),
        *("allowbreak", "strut"),
        *("textbackslash", "textasciitilde", "textasciicircum"),
    }
    for table in re.findall(r"\\begin\{tabular\}\{@\{\}(l+)@\{\}\}(.*?)\\end\{tabular\}", bare, re.DOTALL):
        rows = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1
        assert {row.count("&") + 1 for row in rows} == {len(table[0])}


def test_latex_has_methods_above_a_rule_and_controls_in_italics_below(tables):
    body = latex(tables).partition("\\midrule")[2].partition("\\bottomrule")[0]
    above, below = body.split("\\midrule")
    assert [line.split(" & ")[0] for line in above.split("\n") if line][1] == "Grad-CAM"
    assert [line.split(" & ")[0] for line in below.split("\n") if line] == [r"\textit{centre}", r"\textit{uniform}"]


def test_a_method_that_is_not_separated_from_a_control_is_said_so_in_words(tables):
    lines: Any = tables.summary.lines.set_index(["stratum", "native", "method", "metric"])
    p = lines.loc[("all images", False, "Grad-CAM", "srg"), "p"]
    assert f"not separated from centre, p = {p:.3f}" in text(tables)
    effect = lines.loc[("all images", False, STRANGE, "srg")]
    by = "{:.3f} [{:.3f}, {:.3f}]".format(*effect[["difference", "difference_low", "difference_high"]])
    assert effect["p"] < 0.001
    assert f"better than centre by {by}, p < 0.001" in text(tables)
    by_pointing = lines.loc[("all images", False, "Grad-CAM", "pointing_game"), "p"]
    assert f"by Pointing not separated from centre, p = {by_pointing:.3f}." in text(tables)


@pytest.mark.parametrize("form", [text, markdown, latex])
def test_what_is_missing_is_named_with_its_reason(tmp_path, form):
    found = read_results(write_results(tmp_path, boxes=False))
    printed = form(tabulate(found.rows, found.circumstances))
    assert "Pointing ↑" not in printed
    assert "Left out: Pointing, for pointing" in printed
    assert "which the data does not have" in printed
    assert "Failed: Rollout on 12 images: no attention block." in printed


def test_a_metric_that_one_method_lacks_is_a_gap(tmp_path):
    found = read_results(write_results(tmp_path))
    rows = found.rows.query("method != 'Grad-CAM' or metric != 'pointing_game'")
    lines = text(tabulate(rows, found.circumstances)).splitlines()
    row = next(line for line in lines if line.startswith("Grad-CAM"))
    assert re.split(r"\s{2,}", row)[4:6] == ["-", "-"]  # pointing game and its macro mean


def test_images_without_a_value_are_counted_below(tmp_path):
    found = read_results(write_results(tmp_path))
    without = (found.rows["metric"] == "pointing_game") & (found.rows["image"] < 3)
    rows = found.rows.assign(value=found.rows["value"].mask(without))
    assert "Pointing: 3 of 12 images without a defined value excluded." in text(tabulate(rows, found.circumstances))


def test_the_legend_says_what_the_numbers_rest_on(tables):
    printed = text(tables)
    assert f"Protocol {card().hash}." in printed
    assert "Protocol default: cells of 4 x 4 replaced by RGB (0.50, 0.50, 0.50), mean of 8 tie orders" in printed
    assert "n = 24 images; 0.100 on the baseline alone; area of a random order" in printed
    assert "Object sizes are thirds" in printed
    assert printed.index("Means with 95 %") < printed.index("On each method's own grid")


def test_several_models_and_protocols_have_a_title_each(tmp_path):
    found = read_results(write_results(tmp_path, models=("a", "b")))
    for several in (found.circumstances, *found.circumstances["models"].values()):
        several["protocols"]["rise"] = several["protocols"]["default"]
        several["recipe"] = "0123"
    rows = pd.concat([found.rows, found.rows.assign(protocol="rise")])
    printed = text(tabulate(rows, found.circumstances))
    for title in ("a, protocol default", "b, protocol default", "mean of 2 trainings: a, b, protocol rise"):
        assert f"\n{title}\n" in f"\n{printed}"
    assert "b: n = 12 images" in printed
    assert "Means with 95 % intervals over 12 images and 2 trainings." in printed


def clustered(found: Any, count: int) -> Any:
    return found.rows.assign(cluster=found.rows["image"].mod(count).map("photograph {}".format))


def test_every_table_says_what_images_share(tmp_path):
    found = read_results(write_results(tmp_path, images=24))
    printed = text(tabulate(clustered(found, 8), found.circumstances))
    common, own = printed.split("On each method's own grid")
    assert common.count("Means with 95 % intervals over 24 images in 8 clusters.") == 1
    assert "correct (n = 17 in 6 clusters)" in common  # every fourth image is taken for another class: all of two
    assert own.count("Means with 95 % intervals over 24 images in 8 clusters.") == 1
    assert "by Student's t" in common
    assert "bootstrap" not in common


def test_too_few_clusters_are_refused_in_words_that_name_the_limit(tmp_path):
    found = read_results(write_results(tmp_path, images=24))
    tables = tabulate(clustered(found, 3), found.circumstances)
    lines: Any = tables.summary.lines
    printed = text(tables)
    assert (
        "SRG, Deletion, Insertion, Pointing: from 3 clusters no p is below 0.25, times 6 for the pairs of 4 lines: "
        "nothing is tested, it takes 8 clusters."
    ) in printed
    assert "cannot be tested against centre" in printed
    assert lines["rank"].isna().all()
    assert lines["p"].isna().all()
    assert "No interval from fewer than 2 clusters." in text(tabulate(clustered(found, 1), found.circumstances))
    uneven = found.rows.assign(cluster=found.rows["image"].clip(upper=8).astype(str))
    assert "The largest cluster holds 67% of the images" in text(tabulate(uneven, found.circumstances))


def test_a_p_value_that_is_a_bound_is_printed_as_one():
    line = {"verdict": "not separated from centre", "p": 0.0531, "p_at_most": True}
    line |= {"difference": 0.1, "difference_low": 0.0, "difference_high": 0.2}
    assert verdict(line) == "not separated from centre, p ≤ 0.053"


def test_a_protocol_without_its_card_is_one_clear_error(tables):
    for protocols in ({}, {"default": {"protocol": {"version": 1}}}):
        with pytest.raises(InputError, match="say nothing this ibviz understands of protocol 'default'"):
            text(Tables(tables.summary, {"protocols": protocols}))
