import json
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from results import CONTROLS, METHODS, write_results

from ibviz.benchmark.results import COLUMNS, read_results, rebuild
from ibviz.errors import InputError


def test_a_folder_is_read_as_it_was_written(tmp_path):
    found = read_results(write_results(tmp_path / "a", images=6, models=("one", "two"), pictures=2))
    assert found.folder == tmp_path / "a"
    assert found.circumstances == json.loads((tmp_path / "a" / "circumstances.json").read_text())
    assert len(found.rows) == 2 * 6 * (4 * len(METHODS) + 3)
    assert set(found.rows["method"][found.rows["control"]]) == set(CONTROLS)
    assert found.images["picture"].notna().tolist() == [True] * 2 + [False] * 4
    assert bytes(found.images["picture"].tolist()[0]).startswith(b"\x89PNG")
    assert found.images["label"].isna().tolist() == [False] * 5 + [True]
    area = found.curves.apply(lambda row: np.trapezoid(row["scores"], row["fractions"]), axis=1)
    keys = ["model", "image", "method", "side"]
    common = found.rows.query("not native").assign(side=found.rows["metric"])
    joined = found.curves.assign(area=area).merge(common, on=keys)
    assert len(joined) == len(found.curves)
    assert joined["area"].tolist() == pytest.approx(joined["value"].tolist(), abs=1e-6)


def test_a_folder_without_a_result_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"lacks circumstances.json, rows.parquet, images.parquet, pred.*`ibviz eval"):
        read_results(tmp_path)
    folder = write_results(tmp_path / "a")
    (folder / "curves.parquet").unlink()
    with pytest.raises(InputError, match=r"holds no finished result, for it lacks curves.parquet; expected what"):
        read_results(folder)


@pytest.mark.parametrize("name", [f"{one}.parquet" for one in COLUMNS])
def test_files_of_something_else_are_one_clear_error(tmp_path, name):
    folder = write_results(tmp_path)
    (folder / name).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=rf"cannot read .*{name} as Parquet"):
        read_results(folder)
    pd.DataFrame({"image": [0]}).to_parquet(folder / name)
    with pytest.raises(InputError, match=rf"{name} has no column .*run the suite again"):
        read_results(folder)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_broken_circumstances_are_one_clear_error(tmp_path, content):
    folder = write_results(tmp_path)
    (folder / "circumstances.json").write_text(content)
    with pytest.raises(InputError, match=r"circumstances.json"):
        read_results(folder)


def test_tables_are_rebuilt_from_the_folder_alone_to_the_same_bytes(tmp_path):
    folder = write_results(tmp_path)
    rebuild(folder)
    tables = {path.name: path.read_bytes() for path in folder.glob("table.*")}
    assert {*tables} == {f"table.{suffix}" for suffix in ("txt", "md", "tex", "csv", "json", "parquet")}
    for path in folder.glob("table.*"):
        path.write_bytes(b"edited")
    found = rebuild(folder)
    assert {path.name: path.read_bytes() for path in folder.glob("table.*")} == tables
    table = pd.read_csv(folder / "table.csv").query("not native and stratum == 'all images'")
    means = table.set_index(["method", "metric"])["mean"].to_dict()
    common: Any = found.rows.query("not native")
    assert means == pytest.approx(common.groupby(["method", "metric"])["value"].mean().to_dict())


def test_tables_read_only_the_columns_that_they_need_and_one_at_a_time(tmp_path, monkeypatch):
    folder, plain, read = write_results(tmp_path, models=("one", "two")), pq.ParquetFile.read, []

    def noted(file, columns=None, **options):
        read.append(columns)
        return plain(file, columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read", noted)
    monkeypatch.setattr(pq, "read_table", None)
    rebuild(folder)
    unused = {"grid", "target", "f_image", "levels", "zero_share"}
    assert read == [[name] for name in COLUMNS["rows"] if name not in unused]


def test_curves_of_a_network_are_those_of_its_rows_and_shorter_ones_repeat_their_last_point(tmp_path):
    folder = write_results(tmp_path, models=("one", "two"))
    table = pq.read_table(folder / "curves.parquet").to_pylist()
    for row in table[1::5]:
        row["fractions"], row["scores"] = row["fractions"][:-2], row["scores"][:-2]
    pq.write_table(pa.Table.from_pylist(table), folder / "curves.parquet", row_group_size=7)
    expected: dict[tuple[str, str], list[list[list[float]]]] = {}
    for row in table:
        if row["model"] == "two":
            pair = [points + points[-1:] * (5 - len(points)) for points in (row["fractions"], row["scores"])]
            expected.setdefault((row["side"], row["method"]), []).append(pair)
    sides = read_results(folder).curves_of("two", "default")
    found = {(side, method): curves for side, own in sides.items() for method, curves in own.items()}
    assert list(found) == sorted(expected, key=itemgetter(0))  # in the order of the rows, side by side
    for key, (fractions, scores) in found.items():
        assert fractions.tolist() == [points for points, _ in expected[key]]
        assert scores.tolist() == [points for _, points in expected[key]]
    assert read_results(folder).curves_of("three", "default") == {}


def test_a_curve_without_points_is_one_clear_error(tmp_path):
    folder = write_results(tmp_path)
    table = pq.read_table(folder / "curves.parquet").to_pylist()
    table[3]["fractions"] = []
    pq.write_table(pa.Table.from_pylist(table), folder / "curves.parquet")
    with pytest.raises(InputError, match=r"cannot read .*curves.parquet as Parquet: .*a curve has no points; run the"):
        read_results(folder).curves_of("net", "default")


def test_rows_of_some_images_are_a_selection_of_all_rows(tmp_path):
    found = read_results(write_results(tmp_path))
    rows: Any = found.rows
    expected: Any = rows[rows["image"].isin([3, 7])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.rows_of([3, 7]), expected, check_dtype=False)  # all labels are known


def test_a_failure_leaves_the_tables_as_they_were(tmp_path):
    folder = write_results(tmp_path)
    rebuild(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rows = pd.read_parquet(folder / "rows.parquet")
    pd.concat([rows, rows[:1]]).to_parquet(folder / "rows.parquet")
    with pytest.raises(InputError, match="two rows for Attention by srg"):
        rebuild(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "rows.parquet"} == {
        name: content for name, content in before.items() if name != "rows.parquet"
    }
