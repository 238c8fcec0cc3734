"""What every peer promises, whatever its formula."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn.functional import normalize

from roclip_audit.core.errors import ConfigError, MissingExtraError
from roclip_audit.core.schema import EVIDENCE
from roclip_audit.sanitize.peers import PEERS, build_peer
from roclip_audit.sanitize.peers.scikit_learn import require_sklearn
from tests.sanitize.peers.peerkit import peer_input

every = pytest.mark.parametrize("name", PEERS)


@every
def test_has_its_name_and_says_what_it_is(name: str) -> None:
    peer = build_peer(name)
    assert peer.name == name
    assert name not in {column.name for column in EVIDENCE}, "a peer must not be taken for a column of ours"
    for part in ("score(x) =", "Cost:", "Blind spot:", "Source:", "Differs from it:"):
        assert part in (type(peer).__doc__ or ""), part
    peer.check()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="one of clipscore"):
        build_peer("nonsense")


def test_the_names_can_be_listed_without_torch() -> None:
    code = "import sys, roclip_audit.sanitize.peers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named_with_its_install_line() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'roclip-audit\[bench\]'"):
        require_sklearn("gmm", "no_such_module")


@every
@pytest.mark.parametrize("n", [1, 2, 3, 17, 40, 200])
def test_finite_float64_whatever_the_number_of_pairs(name: str, n: int) -> None:
    score = build_peer(name).score(peer_input(n))
    assert score.shape == (n,)
    assert score.dtype == torch.float64
    assert score.isfinite().all()


@every
def test_finite_among_copies(name: str) -> None:
    vectors = normalize(torch.ones(60, 4), dim=1)
    vectors[50:] = normalize(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    assert build_peer(name).score(peer_input(60, vectors=vectors)).isfinite().all()


@every
def test_repeatable_and_the_same_for_any_number_of_workers(name: str) -> None:
    one, other = (build_peer(name).score(peer_input(150, workers=workers)) for workers in (1, 3))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", [name for name in PEERS if name not in ("clipscore", "gmm")])
def test_a_stray_image_is_suspicious(name: str) -> None:
    """A cap of two hundred, and ten images each alone in another direction; LID is for strays off a thin surface."""
    rng = torch.Generator().manual_seed(1)
    centre, plane = torch.eye(24)[:1], torch.randn(3, 24, generator=rng)
    cap = normalize(centre + 0.1 * torch.randn(200, 3, generator=rng) @ plane, dim=1)
    strays = normalize(torch.randn(10, 24, generator=rng), dim=1)
    score = build_peer(name).score(peer_input(210, vectors=torch.cat([cap, strays])))
    assert score[200:].median() > score[:200].quantile(0.9)
