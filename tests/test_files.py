import errno
import os
import subprocess

import pyarrow.parquet as pq
import pytest

from ibviz.benchmark.runner.result import commit
from ibviz.errors import InputError
from ibviz.files import command, locked, read_rows, remove_abandoned, replacing, replacing_folder, write_rows


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


@pytest.fixture
def canary(tmp_path):
    """A file outside of the folder, which nobody may change."""
    path = tmp_path / "canary"
    path.write_text("alive")
    yield path
    assert path.read_text() == "alive"
    assert not path.is_symlink()


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_a_lock_that_is_a_link_is_refused_and_empties_nothing(tmp_path, canary, plant):
    (tmp_path / "run").mkdir()
    plant(canary, tmp_path / "run" / ".lock")
    with pytest.raises(InputError, match=r"cannot write .*run/\.lock"), locked(tmp_path / "run"):
        pass


def test_a_lock_that_is_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(InputError, match="no file of its own"), locked(tmp_path):
        pass


def test_a_lock_of_strange_bytes_is_taken_over(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe")
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_a_linked_folder_inside_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "maps").mkdir(parents=True)
    (tmp_path / "run" / "maps" / "net").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="maps/net is a link"), locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_that_is_named_by_a_link_is_used(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with locked(tmp_path / "run"), replacing(tmp_path / "run" / "file") as beside:
        beside.write_text("x")
    assert (tmp_path / "disk" / "file").read_text() == "x"


def test_a_link_is_replaced_and_not_followed(tmp_path, canary):
    (tmp_path / "rows.parquet").symlink_to(canary)
    write_rows(tmp_path / "rows.parquet", [{"a": 1}])
    assert not (tmp_path / "rows.parquet").is_symlink()
    assert read_rows(tmp_path / "rows.parquet") == [{"a": 1}]


def test_what_is_half_written_has_another_name_each_time_and_is_made_anew(tmp_path, canary, monkeypatch):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a.txt") as beside, replacing_folder(tmp_path / "b") as folder:
            names |= {beside.name, folder.name}
        (tmp_path / "b").rmdir()
    assert len(names) == 6
    monkeypatch.setattr("secrets.randbelow", lambda _: 7)
    (tmp_path / ".a.txt.000000000000000007.part.txt").symlink_to(canary)
    with pytest.raises(InputError, match="cannot write"), replacing(tmp_path / "a.txt") as beside:
        beside.write_text("dead")


def test_asking_git_runs_nothing_that_a_checkout_names(tmp_path, canary, monkeypatch):
    """Its configuration may name a program that watches files; a checkout may come from anybody."""
    monkeypatch.chdir(tmp_path)
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\necho dead > {canary}\n")
    trap.chmod(0o755)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for asked in (["init", "-q"], ["add", "canary"], [*who, "commit", "-qm", "a"]):
        subprocess.run(["git", *asked], check=True)
    subprocess.run(["git", "config", "core.fsmonitor", str(trap)], check=True)
    assert len((commit() or "").removesuffix("-dirty")) == 40


def test_what_a_dead_writer_left_is_removed_and_what_another_writes_stays(tmp_path):
    """A process that is killed as it writes leaves a hidden file; the system has taken its lock back."""
    dead = tmp_path / f".panel.png.{'0' * 18}.part.png"
    theirs = [tmp_path / name for name in (".panel.png.12.part.png", ".note.part", "a.000000000000000001.part")]
    for path in (dead, *theirs):
        path.write_text("half")
    with replacing(tmp_path / "panel.pdf") as living:
        remove_abandoned(tmp_path)
        assert {*tmp_path.iterdir()} == {living, *theirs}
        living.write_text("whole")
    assert (tmp_path / "panel.pdf").read_text() == "whole"


def test_links_and_folders_of_such_names_stay(tmp_path, canary):
    link, folder = (tmp_path / f".{name}.{'1' * 18}.part" for name in "ab")
    link.symlink_to(canary)
    folder.mkdir()
    remove_abandoned(tmp_path)
    assert {link, folder} < {*tmp_path.iterdir()}
