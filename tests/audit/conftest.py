"""Fixtures of the audit's tests: an ordinary run and one whose captions are hostile, both ingested."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from roclip_audit.audit.ingest import ingest
from roclip_audit.core.run import RunFolder
from tests.audit.runkit import HOSTILE, fake, make_run, random_shards


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three shards, 60 pairs, some of them unscored; not to be changed."""
    made = make_run(tmp_path_factory.mktemp("shared") / "audit", random_shards(n_shards=3, n_pairs=20, seed=1))
    ingest(made)
    return made


@pytest.fixture
def run(shared_run: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of ``shared_run`` to change."""
    shutil.copytree(shared_run.root, tmp_path / "audit")
    return RunFolder(tmp_path / "audit")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run with every hostile text as caption, key and url."""
    pairs = [fake(text, key=text[:200], url=text[:200], suspicion=0.9) for text in HOSTILE.values()]
    made = make_run(tmp_path_factory.mktemp("hostile") / "audit", {"00000.tar": pairs})
    ingest(made)
    return made
