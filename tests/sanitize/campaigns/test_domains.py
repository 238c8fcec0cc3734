"""The host of a url is what the database says it is."""

from __future__ import annotations

import duckdb

from roclip_audit.audit.relations import DOMAIN_SQL
from roclip_audit.sanitize.campaigns.domains import domain_of

URLS = (
    "https://Example.ORG/a.jpg", "http://user:pw@host.example:8080/x", "//cdn.example/x", "iconify://tabler/bolt",
    "https://good.example\\@evil.example/", "https://evil.example..", "ftp://[::1]:21/x", "https://", "no url", "",
    "ht\ttps://tab.example/", "  https://space.example", "https://a b/", "https://x.example:99999999/", "mailto:a@b.c",
    "https://münchen.example/?q", "https://x.example#f", "https://" + "a" * 300 + "/", "javascript:alert(1)//x.example",
    "https://x.example\n", "https://%41.example/", "https://x.example:80", "a" * 5_000 + "//x.example/",
)  # fmt: skip


def test_it_agrees_with_the_database() -> None:
    said = [duckdb.execute(f"select {DOMAIN_SQL} from (select ? as url)", [url]).fetchall()[0][0] for url in URLS]
    assert [domain_of(url) for url in URLS] == said
    assert domain_of(None) is None
