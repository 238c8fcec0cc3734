"""docs/schema.md is what the declarations say, and its examples run."""

from __future__ import annotations

from pathlib import Path

import pytest

from roclip_audit.audit.query import run_query
from roclip_audit.audit.relations import RELATIONS
from roclip_audit.audit.schema_doc import EXAMPLES, Example, main, schema_markdown
from roclip_audit.core.errors import ConfigError
from roclip_audit.core.problems import REASONS
from roclip_audit.core.run import RunFolder

PAGE = Path(__file__).parents[2] / "docs" / "schema.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == schema_markdown(), "run `make docs`"


def test_everything_people_query_is_on_the_page() -> None:
    text = schema_markdown()
    for relation in RELATIONS:
        if "." not in relation.name:
            assert f"### {relation.name} ({relation.kind})" in text
            assert all(f"| `{column.name}` | {column.type} |" in text for column in relation.columns)
    assert all(f"| `{reason}` |" in text for reason in REASONS)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.question)
def test_the_examples_run(shared_run: RunFolder, example: Example) -> None:
    with run_query(shared_run, example.sql) as result:
        rows = list(result.rows())
    assert len(rows) <= 20
    assert example.sql in schema_markdown()


def test_it_is_written_where_asked(tmp_path: Path) -> None:
    main([str(tmp_path / "schema.md")])
    assert (tmp_path / "schema.md").read_text(encoding="utf-8") == schema_markdown()
    with pytest.raises(ConfigError, match="usage"):
        main([])
