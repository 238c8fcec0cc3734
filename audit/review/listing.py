"""What list of pairs somebody is looking at: read from a query string, turned into SQL, and written as a query string.

Lists are paged by keyset: a page begins after (or ends before) a pair, whatever was decided meanwhile, and a page deep
in a million pairs costs what the first one costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode

from roclip_audit.audit.relations import SUSPICION
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.schema import FLAG_FDR

TYPES: Final = {column.name: column.type for column in SUSPICION if not column.type.endswith("[]")}
"""Columns that can be sorted and filtered by."""
DEFAULT_SORT: Final = "risk"
SHOW: Final = {
    "all": "true",
    "flagged": f"fdr <= {FLAG_FDR}",
    "undecided": "decision is null",
    "decided": "decision is not null",
    "keep": "decision = 'keep'",
    "drop": "decision = 'drop'",
}
KINDS: Final = ("image", "caption")
_TEXT_ONLY: Final = "contains"
OPERATORS: Final = {
    "is": "{0} = {1}",
    "is not": "{0} is distinct from {1}",
    "<": "{0} < {1}",
    "<=": "{0} <= {1}",
    ">": "{0} > {1}",
    ">=": "{0} >= {1}",
    "contains": "contains(lower({0}), lower({1}))",
    "is empty": "{0} is null",
    "is not empty": "{0} is not null",
}
MAX_TEXT: Final = 2000


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one column; ``value`` is text as it was typed."""

    column: str
    operator: str
    value: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot become SQL.

        Raises:
            ConfigError: no such column or operator, or a value of another type.
        """
        if self.column not in TYPES:
            raise ConfigError(f"no column {self.column!r} to filter by")
        if self.operator not in OPERATORS:
            raise ConfigError(f"no comparison {self.operator!r}; use {', '.join(OPERATORS)}")
        if self.operator == _TEXT_ONLY and TYPES[self.column] != "VARCHAR":
            raise ConfigError(f"{self.column} is no text, it cannot contain anything")
        self.typed()

    def typed(self) -> object:
        """Return the value in the column's type, None where the operator takes none."""
        kind = TYPES[self.column]
        if "empty" in self.operator:
            return None
        if kind == "VARCHAR":
            return self.value
        try:
            return _BOOLEANS[self.value.strip().lower()] if kind == "BOOLEAN" else float(self.value)
        except (ValueError, KeyError):
            wanted = "true or false" if kind == "BOOLEAN" else "a number"
            raise ConfigError(f"{self.column} is compared with {wanted}, not {self.value[:60]!r}") from None

    @property
    def text(self) -> str:
        """As people read it."""
        return f"{self.column} {self.operator} {self.value}".rstrip()


_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A list of pairs: what is in it, and in which order.

    Attributes:
        search: text that the caption contains, letter case ignored.
        where: condition in SQL over the view suspicion.
        show: a key of SHOW.
        filters: conditions on columns, all of which hold.
        sort: a column; descending unless ``ascending``.
        campaign: pairs of this campaign only; of them the suspicious ones if ``suspicious``.
        like: pairs that are near to this one by ``kind``, and itself.
    """

    search: str = ""
    where: str = ""
    show: str = "all"
    filters: tuple[Filter, ...] = ()
    sort: str = DEFAULT_SORT
    ascending: bool = False
    campaign: int | None = None
    suspicious: bool = False
    like: str = ""
    kind: str = "image"

    def without(self, index: int) -> Listing:
        """Return the list without one of its filters."""
        return replace(self, filters=self.filters[:index] + self.filters[index + 1 :])

    def query(self, **more: str) -> str:
        """Return the query string that ``parse_listing`` reads, with more parameters behind."""
        values: list[tuple[str, str]] = []
        for name in ("search", "where", "show", "sort", "like", "kind"):
            value = getattr(self, name)
            if value != getattr(_DEFAULT, name) and (name != "kind" or self.like):
                values.append((name, value))
        values += [("filter", "\t".join((one.column, one.operator, one.value))) for one in self.filters]
        values += [("ascending", "1")] if self.ascending else []
        values += [] if self.campaign is None else [("campaign", str(self.campaign))]
        values += [("suspicious", "1")] if self.suspicious else []
        return urlencode([*values, *((name, value) for name, value in more.items() if value)])

    @property
    def order(self) -> tuple[tuple[str, bool], ...]:
        """Columns to sort by, and whether each descends; the uid decides last."""
        if self.sort == DEFAULT_SORT:
            return (("risk", not self.ascending), ("suspicion", not self.ascending), ("uid", False))
        return ((self.sort, not self.ascending), ("uid", False))


_DEFAULT = Listing()


def parse_listing(values: Sequence[tuple[str, str]]) -> Listing:
    """Read a list from the parameters of a request; names that mean nothing are ignored.

    Raises:
        ConfigError: a value that cannot be.
    """
    given = {name: value.strip() for name, value in values}
    if any(len(value) > MAX_TEXT for value in given.values()):
        raise ConfigError(f"a filter has {MAX_TEXT:,} characters at most")
    filters = [_filter(value) for name, value in values if name == "filter"]
    if given.get("column"):
        filters.append(Filter(given["column"], given.get("operator", "is"), given.get("value", "")))
    show, sort, kind = given.get("show", "all"), given.get("sort", DEFAULT_SORT), given.get("kind", "image")
    if show not in SHOW or sort not in TYPES or kind not in KINDS:
        raise ConfigError(f"cannot show {show!r} pairs sorted by {sort!r}")
    campaign = given.get("campaign", "")
    if campaign and not (campaign.isascii() and campaign.isdecimal() and len(campaign) < 10):
        raise ConfigError(f"campaign {campaign[:60]!r} is no number")
    return Listing(
        search=given.get("search", ""),
        where=given.get("where", ""),
        show=show,
        filters=tuple(filters),
        sort=sort,
        ascending=given.get("ascending", "") == "1",
        campaign=int(campaign) if campaign else None,
        suspicious=given.get("suspicious", "") == "1",
        like=given.get("like", ""),
        kind=kind,
    )


def _filter(text: str) -> Filter:
    parts = text.split("\t", 2)
    if len(parts) != 3:
        raise ConfigError(f"filter {text[:60]!r} is not: column, comparison, value")
    return Filter(*parts)


def condition(listing: Listing) -> tuple[str, dict[str, Any]]:
    """Return the SQL condition that the pairs of a list meet, over ``scored_now``, and its parameters.

    The caller has checked ``where`` to be one condition, and adds what ``like`` means.
    """
    parts, values = [SHOW[listing.show]], dict[str, Any]()
    if listing.search:
        parts.append("contains(lower(caption), lower($search))")
        values["search"] = listing.search
    for number, one in enumerate(listing.filters):
        value = one.typed()
        parts.append(OPERATORS[one.operator].format(f'"{one.column}"', f"$filter{number}"))
        if value is not None:
            values[f"filter{number}"] = value
    if listing.campaign is not None:
        only = " and suspicious" if listing.suspicious else ""
        parts.append(f"uid in (select uid from campaign_pairs where campaign = $campaign{only})")  # noqa: S608
        values["campaign"] = listing.campaign
    if listing.where:
        parts.append(f"uid in (select uid from suspicion where (\n{listing.where}\n))")  # noqa: S608  # checked
    return " and ".join(f"({part})" for part in parts if part != "true") or "true", values


def order_by(listing: Listing, *, backwards: bool = False) -> str:
    """Return what stands behind ``order by``; pairs without a value come last, or first when read backwards."""
    nulls = "nulls first" if backwards else "nulls last"
    return ", ".join(f'"{name}" {"desc" if down != backwards else "asc"} {nulls}' for name, down in listing.order)


def beyond(listing: Listing, at: Sequence[Any], *, backwards: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the condition for what comes after a pair (before it, if backwards), and its parameters.

    Args:
        listing: the list, whose order counts.
        at: the pair's values in the columns of ``listing.order``.
        backwards: look the other way.
    """
    ways, equal = [], list[str]()
    for number, ((name, down), value) in enumerate(zip(listing.order, at, strict=True)):
        column, here = f'"{name}"', f"$at{number}"
        further = f"{column} {'<' if down != backwards else '>'} {here}"
        if value is None:
            further = f"{column} is not null and {here} is null" if backwards else f"false and {here} is null"
        elif not backwards:
            further = f"{further} or {column} is null"
        ways.append(" and ".join([*equal, f"({further})"]))
        equal.append(f"{column} is not distinct from {here}")
    return " or ".join(f"({way})" for way in ways), {f"at{number}": value for number, value in enumerate(at)}
