"""The run folder: completion markers, atomic writes and the lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roclip_audit.core.errors import ConfigError, StoreError, StoreLockedError
from roclip_audit.core.run import RunFolder, work_key, write_atomic, write_json

HOLDER = """
import sys
from pathlib import Path
from roclip_audit.core.run import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_the_order_of_keys_does_not_matter(settings: dict[str, object]) -> None:
    assert work_key("stage", settings) == work_key("stage", dict(reversed(settings.items())))
    assert len(work_key(settings)) == 32


def test_everything_a_work_key_is_made_of_counts() -> None:
    keys = {work_key("a", 1), work_key("a", 2), work_key("a", "1"), work_key(["a", 1]), work_key("a1")}
    assert len(keys) == 5


def test_work_is_done_when_marked_with_the_same_key(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.stats_if_done("index", "a", "key") is None
    run.mark_done("index", "a", "key", {"n_pairs": 3})
    assert run.stats_if_done("index", "a", "key") == {"n_pairs": 3}
    assert run.stats_if_done("index", "a", "other") is None
    run.forget("index", "a")
    run.forget("index", "a")
    assert run.stats_if_done("index", "a", "key") is None


def test_a_damaged_marker_names_itself(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.mark_done("index", "a", "key", {})
    marker = tmp_path / "done" / "index" / "a.json"
    marker.write_text("{")
    with pytest.raises(StoreError, match=str(marker)):
        run.stats_if_done("index", "a", "key")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    before = path.read_bytes()

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "audit")
    command = [sys.executable, "-c", HOLDER, str(run.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match=f"process {holder.pid}"), run.locked():
            pass
        holder.kill()
    with run.locked():
        assert (run.root / ".lock").read_text() == str(os.getpid())


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.txt"), RunFolder(folder).locked():
        pass
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="is a file"), RunFolder(folder / "thesis.txt").locked():
        pass


def test_an_empty_folder_and_an_old_run_are_fine(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked():
        pass
    (tmp_path / "pairs").mkdir()
    with RunFolder(tmp_path).locked():
        pass
