"""The command: options, exit codes, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from roclip_audit.cli.fetch import describe, describe_drift, exit_code
from roclip_audit.cli.main import main
from roclip_audit.sanitize.fetch.recheck import DomainDrift, RecheckReport
from roclip_audit.sanitize.fetch.summary import FetchReport
from tests.sanitize.fetch.test_recheck import make_out
from tests.sanitize.fetch.webkit import serve


def report(**what: Any) -> FetchReport:
    facts: dict[str, Any] = {
        "n_rows": 10, "n_pairs": 7, "n_failed": 2, "n_rejected": 1, "n_shards": 1, "n_unfinished": 0, "n_hashes": 4,
        "n_verified": 3, "failures": {"http_gone": 2}, "rejected": {"url_scheme": 1}, "reused": 0, "seconds": 3.0,
        "hosts": {"http_gone": {"evil\x1b[31m.example": 2}}, "img2dataset": "1.47.0",
    }  # fmt: skip
    return FetchReport(**(facts | what))


@pytest.mark.parametrize(
    ("what", "max_failed", "code"),
    [
        ({}, 0.0, 3),
        ({}, 0.3, 0),
        ({}, 0.29, 3),
        ({"n_pairs": 10, "n_failed": 0, "n_rejected": 0}, 0.0, 0),
        ({"n_unfinished": 1}, 1.0, 3),
    ],
)
def test_exit_codes_are_honest(what: dict[str, Any], max_failed: float, code: int) -> None:
    assert exit_code(report(**what), max_failed) == code


def test_the_summary_says_what_failed_where_and_why() -> None:
    facts = list(describe(report(), Path("out")))
    assert ("", "2 http_gone (evil\x1b[31m.example 2)") in facts
    assert ("not tried", "1 row; see out/fetch/rejected.parquet") in facts
    assert ("verified", "3 pairs have their published hash, 4 rows name one") in facts


def test_drift_is_told_by_domain() -> None:
    drift = DomainDrift(domain="d.example", n_checked=8, n_changed=5, n_gone=1, p_value=1e-6, p_corrected=2e-6)
    found = RecheckReport(
        checked_at="2026-01-01T00:00:00+00:00", n_known=100, n_checked=20, n_same=14, n_changed=5, n_gone=1, n_failed=0,
        reasons={}, domains=[drift], file="x.parquet",
    )  # fmt: skip
    assert ("domain", "d.example: 5 changed, 1 gone of 8, p corrected 2e-06") in list(describe_drift(found))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a list and a folder"),
        (["list.csv"], "name a list and a folder"),
        (["list.csv", "--recheck", "out"], "takes no list"),
        (["list.csv", "out", "--types", "exe"], "choose from jpeg"),
        (["list.csv", "out", "--allow-address", "everything"], "allowed address"),
        (["list.csv", "out", "--img2dataset", "nowhere/img2dataset"], "cannot be read"),
    ],
)
def test_what_cannot_work_ends_with_2(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["fetch", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_recheck_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve() as web:
        make_out(tmp_path, web, ["good/1.png", "missing/2"])
        with pytest.raises(SystemExit) as caught:
            main(["fetch", "--recheck", str(tmp_path), "--allow-address", "127.0.0.1", "--json", "-q"])
    assert caught.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_same"], found["n_gone"], found["domains"][0]["n_gone"]) == (1, 1, 1)
