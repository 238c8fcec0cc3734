from __future__ import annotations

from pathlib import Path

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.report.downloads import read_downloads
from roclip_audit.audit.store import open_readonly
from tests.audit.runkit import FakePair, fake, make_run


def pairs(domain: str, n: int, *, flagged: int) -> list[FakePair]:
    return [
        fake(f"{domain} {i}", url=f"https://{domain}/{i}.jpg", suspicion=0.9, fdr=0.01 if i < flagged else 0.9)
        for i in range(n)
    ]


def test_a_domain_that_stands_out_is_named_and_others_are_not(tmp_path: Path) -> None:
    shards = {
        "0.tar": [
            *pairs("bad.example", 20, flagged=18),
            *pairs("good.example", 60, flagged=2),
            *pairs("fine.example", 60, flagged=1),
        ]
    }
    run = make_run(tmp_path / "audit", shards)
    ingest(run)
    with open_readonly(run) as connection:
        found = read_downloads(connection)
    assert [(one.name, one.n_scored, one.n_flagged) for one in found.domains] == [("bad.example", 20, 18)]
    assert found.domains[0].p_corrected < 1e-6


def test_shards_that_say_nothing_about_downloads_have_no_findings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"0.tar": [fake("a cat"), fake("a dog")]})
    ingest(run)
    with open_readonly(run) as connection:
        found = read_downloads(connection)
    assert (found.findings, found.domains) == ((), ())
