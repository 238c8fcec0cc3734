"""A run with real shards and made-up evidence, and a client that has the cookie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.testclient import TestClient

from roclip_audit.audit.ingest import ingest
from roclip_audit.audit.review.app import make_app
from roclip_audit.audit.review.desk import Desk
from roclip_audit.audit.review.guard import Access
from roclip_audit.core.run import RunFolder
from roclip_audit.core.schema import CAMPAIGN_PAIRS, CAMPAIGNS
from roclip_audit.core.tables import arrow_schema
from tests.audit.runkit import make_run, pairs_of, uid_of
from tests.shardkit import draw_samples, make_shard, sample

BASE = "http://127.0.0.1"
HOSTILE = (
    "<script>document.title = 'owned'</script>",
    '"><img src=x onerror="document.title = 1">',
    "user\u202etxt.exe \u2066",
    "\x1b[31mred\x1b]0;title\x07",
    "x" * 100_000,
    "{{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    '=HYPERLINK("https://evil.example")',
)


def build_run(folder: Path, *, n_pairs: int = 90, captions: tuple[str, ...] = ()) -> RunFolder:
    """Return an ingested run over one real shard; ``captions`` come after the drawn pairs."""
    odd = [sample(f"odd{i}", caption=caption) for i, caption in enumerate(captions)]
    shard = make_shard(folder / "shards" / "00000.tar", [*draw_samples(n_pairs, px=48), *odd])
    pairs = pairs_of(shard)
    run = make_run(folder / "audit", {"00000.tar": pairs}, shard_folder=folder / "shards")
    write_campaigns(run, [uid_of("00000.tar", i) for i in range(12)])
    ingest(run)
    return run


def write_campaigns(run: RunFolder, uids: list[str]) -> None:
    """Write one campaign over some pairs; every other one of them is suspicious."""
    row: dict[str, Any] = {column.name: None for column in CAMPAIGNS} | {
        "campaign": 1, "kind": "captions", "label": "<b>banana</b>", "n_pairs": len(uids), "share": 0.5,
        "n_suspicious": (len(uids) + 1) // 2, "base_rate": 0.06, "p_value": 1e-9, "p_corrected": 1e-7,
        "sentence": "12 pairs say <b>banana</b>; half of them are suspicious.",
    }  # fmt: skip
    pairs = [{"campaign": 1, "uid": uid, "suspicious": i % 2 == 0} for i, uid in enumerate(uids)]
    pq.write_table(
        pa.Table.from_pylist([row], schema=arrow_schema(CAMPAIGNS)), run.file("campaigns", "campaigns.parquet")
    )
    pq.write_table(
        pa.Table.from_pylist(pairs, schema=arrow_schema(CAMPAIGN_PAIRS)), run.file("campaigns", "pairs.parquet")
    )


def client_of(run: RunFolder, *, reviewer: str = "anna", limit_s: float = 10.0) -> TestClient:
    """Return a client that came in through the printed address."""
    access = Access()
    client = TestClient(
        make_app(Desk(run, limit_s=limit_s), access, reviewer=reviewer), base_url=BASE, headers={"origin": BASE}
    )
    assert client.get("/", params={"token": access.token}).status_code == 200
    return client


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    """Act as the page's script does; return the answer."""
    answer = client.post(path, json=body, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())
