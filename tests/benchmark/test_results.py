import json
from typing import Any

import numpy as np
import pandas as pd
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


def test_no_more_is_read_than_is_asked_for(tmp_path, monkeypatch):
    folder, plain, read = write_results(tmp_path, models=("one", "two")), pq.read_table, []

    def noted(path, **options):
        found = plain(path, **options)
        read.append((path.name, len(found)))
        return found

    monkeypatch.setattr(pq, "read_table", noted)
    found = rebuild(folder)
    assert [name for name, _ in read] == ["rows.parquet"]
    own = found.curves_of("two", "default")
    assert read[1:] == [("curves.parquet", len(own))]
    expected: Any = found.curves[found.curves["model"] == "two"].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, expected)


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
