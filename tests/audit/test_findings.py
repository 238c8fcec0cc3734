"""What is told after a scan: campaigns by size, problems by number."""

from __future__ import annotations

from pathlib import Path

from roclip_audit.audit.findings import read_findings
from roclip_audit.audit.ingest import ingest
from tests.audit.runkit import fake, make_run


def test_the_largest_campaign_and_the_commonest_problem_come_first(tmp_path: Path) -> None:
    pairs = [*(fake(f"a cat {i}") for i in range(5)), fake(None), fake(None), fake("x", problem="key_repeated")]
    campaigns = {
        "small": [("a.tar", 0)],
        "large": [("a.tar", 1), ("a.tar", 2)],
        "also large": [("a.tar", k) for k in (3, 4)],
    }
    run = make_run(tmp_path / "audit", {"a.tar": pairs}, campaigns=campaigns)
    ingest(run)
    found = read_findings(run)
    assert [(one.label, one.n_suspicious) for one in found.campaigns] == [("large", 2), ("also large", 2), ("small", 1)]
    assert found.problems == (("missing_caption", 2), ("key_repeated", 1))


def test_a_run_without_campaigns(tmp_path: Path) -> None:
    run = make_run(tmp_path / "audit", {"a.tar": [fake("a cat"), fake("a dog")]})
    ingest(run)
    found = read_findings(run)
    assert (found.campaigns, found.problems) == ((), ())
