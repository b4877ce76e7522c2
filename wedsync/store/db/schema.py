"""Metadata that all tables share, and the column shorthands."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, Text
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def text(name: str, *args: Any, **options: Any) -> Column[str]:
    """Make a text column, NOT NULL unless the options say otherwise."""
    return Column(name, Text, *args, nullable=options.pop("nullable", False), **options)


def instant(name: str, **options: Any) -> Column[Any]:
    """Make a timestamptz column, NOT NULL unless the options say otherwise."""
    return Column(name, DateTime(timezone=True), nullable=options.pop("nullable", False), **options)


def document(name: str, **options: Any) -> Column[Any]:
    """Make a jsonb column, NOT NULL unless the options say otherwise."""
    return Column(name, JSONB(none_as_null=True), nullable=options.pop("nullable", False), **options)


def number(name: str, kind: type[Integer] = Integer) -> Column[int]:
    """A number column, NOT NULL, 0 by default."""
    return Column(name, kind, nullable=False, server_default=sql("0"))


def flag(name: str) -> Column[bool]:
    """A boolean column, NOT NULL, false by default."""
    return Column(name, Boolean, nullable=False, server_default=sql("false"))
