import errno

import pyarrow.parquet as pq
import pytest

from ibviz.errors import InputError
from ibviz.files import command, read_rows, replacing, write_rows


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failure_inside_the_block_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a" / "file"
    with replacing(path) as beside:
        beside.write_text("old")
    with pytest.raises(KeyError), replacing(path) as beside:
        beside.write_text({}["half"])
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_rows_survive_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    write_rows(path, [{"a": 1, "b": None}, {"a": 2, "b": None}])
    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(InputError, match=r"cannot write .*rows.parquet: No space left on device"):
        write_rows(path, [{"a": 3, "b": None}])
    assert read_rows(path) == [{"a": 1, "b": None}, {"a": 2, "b": None}]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), replacing(tmp_path / "file" / "inside") as beside:
        beside.write_text("x")


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["/env/bin/ibviz", "demo", "--out", "a"], "ibviz demo --out a"),
        (["/env/lib/ibviz/__main__.py", "evaluate", "my suite.toml"], "ibviz evaluate 'my suite.toml'"),
        (["evaluation/cost.py"], "cost.py"),
    ],
)
def test_a_command_can_be_typed_again(typed, said, monkeypatch):
    monkeypatch.setattr("sys.argv", typed)
    assert command() == said
