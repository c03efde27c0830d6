"""Takes the ledger's tables. Gives the page that names every column. Knows nothing of who reads or writes them."""

from sqlalchemy import Column, Table
from sqlalchemy.dialects import postgresql

from db import models
from docs.generate import markdown, remarks

HEAD = """\
# Tables

The ledger is SQLite or PostgreSQL; both have the same tables, made by `imagemill db upgrade`. Read them as you like,
and leave the writing to imagemill. Columns that end in `_s` are seconds; those that end in `_at_s` count from 1970, in
UTC. Types are PostgreSQL's.

"""


def page() -> str:
    """Give the page."""
    kinds = [mapper.class_ for mapper in models.Base.registry.mappers]
    kinds.sort(key=lambda kind: list(models.metadata.tables).index(kind.__tablename__))
    return (HEAD + "".join(map(_section, kinds))).rstrip() + "\n"


def _section(kind: type[models.Base]) -> str:
    said = remarks.fields(kind)
    table = kind.__table__
    assert isinstance(table, Table)  # noqa: S101 - every class here has a table of its own
    rows = (
        (markdown.code(column.name), _type(column), _key(column), said.get(column.name, "")) for column in table.columns
    )
    return f"## {table.name}\n\n{remarks.about(kind)}\n\n" + markdown.table(("column", "type", "key", "meaning"), rows)


def _type(column: "Column[object]") -> str:
    spelled = column.type.compile(dialect=postgresql.dialect()).lower()  # type: ignore[no-untyped-call]
    return spelled + (", or NULL" if column.nullable else "")


def _key(column: "Column[object]") -> str:
    primary = ["primary"] if column.primary_key else []
    tables = sorted(key.column.table.name for key in column.foreign_keys)
    return ", ".join([*primary, *(f"[{table}](#{table})" for table in tables)])
