"""Where the pictures come from, as columns and SQL: what was fetched, what is wrong with it, and which domains do it.

Whether a domain has more suspicious pairs than the others is a binomial test that SQL cannot do, so ``store.domains``
is filled while the database is built (``audit/domains.py``), by the rule ``fdr <= FLAG_FDR`` alone; decisions of people
change ``by_domain.n_flagged`` and not the test.
"""

from __future__ import annotations

from roclip_audit.core.fetched import DEAD, FETCH_REASONS
from roclip_audit.core.schema import FETCHED, FLAG_FDR, Column

MANY_URLS = 3
"""One picture behind so many different URLs is a finding: a placeholder, a parked domain, or a campaign."""

_UID = Column("uid", "VARCHAR", "Identity of the pair; null if the URL gave none")
_DOMAIN = Column("domain", "VARCHAR", "Host of the url; null for pairs without a usable url")
FETCHED_TABLE = (_UID, *FETCHED, Column("domain", "VARCHAR", "Host of the url, lower case; null if there is none"))

ABOUT_DOMAIN = (
    Column("n_urls", "UBIGINT", "URLs that were tried; null if it is not known what was fetched"),
    Column("n_failed", "UBIGINT", "URLs of them that gave no pair, for whatever reason"),
    Column("n_dead", "UBIGINT", f"URLs of them whose link is dead ({', '.join(DEAD)})"),
    Column("n_hash_mismatch", "UBIGINT", "URLs whose content is not what the list published, kept or not"),
    Column("n_shared_pictures", "UBIGINT", "Pairs whose very picture came from another domain as well"),
    Column("base_rate", "DOUBLE", f"Share of pairs with fdr <= {FLAG_FDR} outside of the domain"),
    Column(
        "p_value",
        "DOUBLE",
        f"P(so many pairs with fdr <= {FLAG_FDR} or more in a domain of this size by chance); null if not tested",
    ),
    Column("p_corrected", "DOUBLE", "The same, corrected for the number of domains that were tested"),
)
DOMAINS_TABLE = (_DOMAIN, *ABOUT_DOMAIN)

INTEGRITY = (
    Column("finding", "VARCHAR", "What was found: a reason of fetched, hash_mismatch or same_picture"),
    _UID,
    *(column for column in FETCHED if column.name in {"shard", "key"}),
    Column("url", "VARCHAR", "The URL concerned"),
    FETCHED_TABLE[-1],
    Column("detail", "VARCHAR", "What exactly was found"),
)
INTEGRITY_BY_KIND = (
    INTEGRITY[0],
    Column("meaning", "VARCHAR", "What that means"),
    Column("n_urls", "UBIGINT", "URLs it was found for"),
    Column("n_pairs", "UBIGINT", "Pairs among them: they are in the shards in spite of it"),
    Column("n_domains", "UBIGINT", "Domains that have it"),
    Column("example_url", "VARCHAR", "A URL that has it"),
    Column("example_detail", "VARCHAR", "What exactly was found there"),
)
SAME_PICTURE = (
    Column("image_sha256", "VARCHAR", "SHA-256 of the image member, the same for all these pairs"),
    Column("n_pairs", "UBIGINT", "Pairs with this very picture"),
    Column("n_urls", "UBIGINT", "Different URLs it came from"),
    Column("n_domains", "UBIGINT", "Different domains it came from"),
    Column("n_captions", "UBIGINT", "Different captions it has: many are the mark of a placeholder"),
    Column("mean_suspicion", "DOUBLE", "Mean suspicion of the scored pairs among them"),
    Column("example_uid", "VARCHAR", "One of the pairs"),
    Column("example_url", "VARCHAR", "Its URL"),
    Column("example_caption", "VARCHAR", "Its caption"),
)

SELECT_SAME_PICTURE = """
    select p.image_sha256, count(*)::ubigint as n_pairs, count(distinct p.url)::ubigint as n_urls,
        count(distinct p.domain)::ubigint as n_domains, count(distinct p.caption)::ubigint as n_captions,
        avg(s.suspicion) as mean_suspicion, arg_min(p.uid, p.pair) as example_uid,
        arg_min(p.url, p.pair) as example_url, arg_min(p.caption, p.pair) as example_caption
    from pairs p left join store.scored s on s.pair = p.pair
    where p.image_sha256 is not null group by p.image_sha256 having count(distinct p.url) > 1
    order by n_urls desc, n_pairs desc, p.image_sha256"""

SELECT_INTEGRITY = f"""
    select coalesce(reason, 'hash_mismatch') as finding, uid, shard, key, url, domain,
        coalesce(detail, 'published ' || published_hash || ', downloaded sha256:' || sha256) as detail
    from fetched where reason is not null or hash_matches = false
    union all
    select 'same_picture', p.uid, p.shard, p.key, p.url, p.domain,
        'one of ' || n_urls || ' URLs of ' || n_domains || ' domains with this very picture, under ' || n_captions
        || ' captions'
    from same_picture join pairs p using (image_sha256) where n_urls >= {MANY_URLS}"""  # noqa: S608 - our own numbers


def _meanings() -> str:
    same = f"The very picture lies behind {MANY_URLS} or more URLs: a placeholder, a parked domain, or a campaign"
    rows = (FETCH_REASONS | {"same_picture": same}).items()
    return ", ".join("('" + finding + "', '" + meaning.replace("'", "''") + "')" for finding, meaning in rows)


SELECT_INTEGRITY_BY_KIND = f"""
    select finding, any_value(meaning) as meaning, count(*)::ubigint as n_urls, count(uid)::ubigint as n_pairs,
        count(distinct domain)::ubigint as n_domains, min(url) as example_url,
        arg_min_null(detail, url) as example_detail
    from integrity left join (values {_meanings()}) as meanings(finding, meaning) using (finding)
    group by finding order by n_urls desc, finding"""  # noqa: S608 - our own words


def select_by_domain(flagged: str) -> str:
    """Return the SQL of ``by_domain``; ``flagged`` is the condition of the view ``flagged``."""
    about = ", ".join(f"d.{column.name}" for column in ABOUT_DOMAIN)
    return f"""
        with scores as (
            select domain, count(*)::ubigint as n_scored, (count(*) filter (where {flagged}))::ubigint as n_flagged,
                sum(suspicion) as expected_mismatched, avg(suspicion) as mean_suspicion
            from store.scored group by domain
        )
        select coalesce(s.domain, d.domain) as domain, coalesce(n_scored, 0)::ubigint as n_scored,
            coalesce(n_flagged, 0)::ubigint as n_flagged, n_flagged / n_scored as flagged_share,
            coalesce(expected_mismatched, 0) as expected_mismatched, mean_suspicion, {about}
        from scores s full join store.domains d on s.domain = d.domain
        order by expected_mismatched desc, domain"""  # noqa: S608 - our own names
