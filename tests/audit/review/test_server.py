"""The command prints an address that opens, serves on loopback, and leaves the decisions in the file when stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import httpx2

from tests.audit.review.reviewkit import build_run
from tests.audit.runkit import uid_of


def test_serve_decide_stop(tmp_path: Path) -> None:
    run = build_run(tmp_path, n_pairs=4)
    command = [sys.executable, "-m", "roclip_audit.cli.main", "review", "--audit", str(run.root), "--reviewer", "anna"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        address = process.stdout.readline().split(": ", 1)[1].strip()
        base = address.split("/?")[0]
        assert base.startswith("http://127.0.0.1:")
        with httpx2.Client(base_url=base, headers={"origin": base}, follow_redirects=True) as client:
            assert client.get("/").status_code == 403
            assert client.get(address).status_code == 200
            answer = client.post("/decide", json={"uids": [uid_of("00000.tar", 0)], "verdict": "drop"})
            assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
    with duckdb.connect(run.database, read_only=True) as connection:
        found = connection.execute("select decision from suspicion where decision is not null").fetchall()
    assert found == [("drop",)]
