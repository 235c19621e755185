"""Compile ``$filter`` to a SQLAlchemy condition, as strict about types as the service.

A condition compares a property with a literal; functions are refused until the client needs one.
The ``odata-query`` library reads the text; what it does not know is put into words it does
know first: ``not(`` without a space, and columns whose names begin like a keyword
(``allowemail``).

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query/filter-rows
"""

from __future__ import annotations

import datetime as dt
import operator
import re
from collections.abc import Callable
from typing import Any, cast

import sqlalchemy as sa
from odata_query import ast
from odata_query.exceptions import ODataException
from odata_query.grammar import ODataLexer, ODataParser

from ..data.columns import Member, Storage, guid_rank, moment_text
from ..data.records import StoredTable
from .answers import bad_request, unknown_property

MAX_CONDITIONS = 500

Condition = sa.ColumnElement[bool]

_PREPARE = re.compile(
    r"(?P<text>'(?:[^']|'')*')"
    r"|(?<![\w.-])(?P<not>not)(?=\()"
    r"|(?<![\w.-])(?P<name>(?:true|false|null|any|all)\w+)",
    re.IGNORECASE,
)
_SHIELD = "column_"
_OPERATORS: dict[type[ast._Node], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Eq: ("Equal", operator.eq),
    ast.NotEq: ("NotEqual", operator.ne),
    ast.Lt: ("LessThan", operator.lt),
    ast.LtE: ("LessThanOrEqual", operator.le),
    ast.Gt: ("GreaterThan", operator.gt),
    ast.GtE: ("GreaterThanOrEqual", operator.ge),
}
_EDM: dict[type[ast._Node], str] = {
    ast.String: "Edm.String",
    ast.Integer: "Edm.Int32",
    ast.Float: "Edm.Decimal",
    ast.Boolean: "Edm.Boolean",
    ast.GUID: "Edm.Guid",
    ast.Date: "Edm.Date",
    ast.DateTime: "Edm.DateTimeOffset",
}


def parse_filter(text: str) -> ast._Node:
    """The filter as a tree; any other text is refused with the service's status."""
    try:
        tree = ODataParser().parse(ODataLexer().tokenize(_PREPARE.sub(_prepare, text).strip()))
    except (ODataException, ValueError) as error:
        raise bad_request(f"Syntax error in '{text}'.") from error
    return cast(ast._Node, tree)


def _prepare(match: re.Match[str]) -> str:
    if match["not"]:
        return "not "
    return _SHIELD + match["name"] if match["name"] else match[0]


def column_name(node: ast.Identifier) -> str:
    return node.name.removeprefix(_SHIELD)


def compile_filter(text: str, table: StoredTable) -> Condition:
    compiler = _Compiler(table)
    try:
        condition = compiler.condition(parse_filter(text))
    except ValueError as error:  # the 31st of February
        raise bad_request(f"Syntax error in '{text}'.") from error
    if compiler.conditions > MAX_CONDITIONS:
        message = f"Number of conditions in query exceeded maximum limit of {MAX_CONDITIONS}."
        raise bad_request(message, "0x8004430C")
    return condition


class _Compiler:
    def __init__(self, table: StoredTable) -> None:
        self._table = table
        self.conditions = 0

    def condition(self, node: ast._Node) -> Condition:
        if isinstance(node, ast.BoolOp):
            parts = [self.condition(part) for part in flatten(node)]
            return sa.or_(*parts) if isinstance(node.op, ast.Or) else sa.and_(*parts)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return sa.not_(self.condition(node.operand))
        self.conditions += 1
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call):
            raise bad_request(f"The function '{node.func.name}' is not supported here.")
        raise bad_request("The $filter expression must evaluate to a single boolean value.", "0x0")

    def _comparison(self, node: ast.Compare) -> Condition:
        comparator = type(node.comparator)
        if not isinstance(node.left, ast.Identifier) or comparator not in _OPERATORS:
            raise bad_request("The $filter expression is not supported here.")
        name = column_name(node.left)
        member = self._table.spec.members.get(name)
        if member is None or node.left.namespace:
            raise unknown_property(name, self._table.spec.logical_name)
        name, compare = _OPERATORS[comparator]
        column = self._table.sql.c[member.name]
        if isinstance(node.right, ast.Null):
            # In SQL nothing is greater or less than null.
            nulls = {"Equal": column.is_(None), "NotEqual": column.is_not(None)}
            return nulls.get(name, sa.false())
        value = _literal_value(member, node.right)
        if value is None:
            edm = _EDM.get(type(node.right), "Edm.Untyped")
            raise bad_request(
                "A binary operator with incompatible types was detected. Found operand types"
                f" '{member.edm}' and '{edm}' for operator kind '{name}'.",
                "0x0",
            )
        return cast(Condition, compare(comparable(self._table, member), value))


def _literal_value(member: Member, literal: ast._Node) -> object:
    """What SQLite compares the member with; None if their types do not go together."""
    storage = member.storage
    if storage is Storage.GUID and isinstance(literal, ast.GUID):
        return guid_rank(literal.val)
    if storage is Storage.TEXT and isinstance(literal, ast.String):
        return literal.val
    if storage in {Storage.WHOLE, Storage.NUMBER} and isinstance(literal, ast.Integer | ast.Float):
        return cast(object, literal.py_val)
    if storage is Storage.BOOLEAN and isinstance(literal, ast.Boolean):
        return int(literal.py_val)
    if storage is not Storage.MOMENT:
        return None
    if isinstance(literal, ast.Date):
        return literal.val + ("" if member.column.date_only else "T00:00:00Z")
    if isinstance(literal, ast.DateTime) and not member.column.date_only:
        moment = literal.py_val
        text = moment_text(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
        # Between two whole seconds: after this one's text, before the next one's.
        return text + "z" if moment.microsecond else text
    return None


def comparable(table: StoredTable, member: Member) -> sa.ColumnElement[Any]:
    """A member as SQL that compares and sorts the way the service does."""
    column = table.sql.c[member.name]
    if member.name == table.spec.key:
        return table.rank
    if member.storage is Storage.GUID:
        return sa.func.guid_rank(column)
    if member.storage is Storage.TEXT:
        return sa.collate(column, "service")
    if member.storage is Storage.NUMBER:
        return sa.cast(column, sa.Float)
    return column


def flatten(node: ast.BoolOp) -> list[ast._Node]:
    """The parts of ``a or b or c``: without recursion, the tree may be hundreds deep."""
    parts: list[ast._Node] = []
    current: ast._Node = node
    while isinstance(current, ast.BoolOp) and type(current.op) is type(node.op):
        parts.append(current.right)
        current = current.left
    return [current, *reversed(parts)]
