"""Compile ``$filter`` to a SQLAlchemy condition, as strict about types as the service.

The ``odata-query`` library reads the text; what it does not know is put into words it does
know first: ``Microsoft.Dynamics.CRM.In`` with its JSON list, ``not(`` without a space, and
columns whose names begin like a keyword (``allowemail``).

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query/filter-rows
"""

from __future__ import annotations

import datetime as dt
import json
import operator
import re
from collections.abc import Callable, Iterator
from typing import Any, cast

import sqlalchemy as sa
from odata_query import ast
from odata_query.exceptions import ODataException
from odata_query.grammar import ODataLexer, ODataParser

from ..data.columns import GUID, Member, Storage, guid_rank, moment_text
from ..data.store import StoredTable
from .answers import ServiceError, bad_request, unknown_property

MAX_CONDITIONS = 500

Condition = sa.ColumnElement[bool]

_PREPARE = re.compile(
    r"(?P<text>'(?:[^']|'')*')"
    r'|=(?P<list>\[(?:[^\]"]|"(?:[^"\\]|\\.)*")*\])'
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
_MIRRORED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}
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
    """The filter as a tree; any text that is none is refused with the service's status."""
    try:
        tree = ODataParser().parse(ODataLexer().tokenize(_PREPARE.sub(_prepare, text).strip()))
    except (ODataException, ValueError) as error:
        raise bad_request(f"Syntax error in '{text}'.") from error
    return cast(ast._Node, tree)


def _prepare(match: re.Match[str]) -> str:
    if match["list"]:
        return "='" + match["list"].replace("'", "''") + "'"
    if match["not"]:
        return "not "
    return _SHIELD + match["name"] if match["name"] else match[0]


def column_name(node: ast.Identifier) -> str:
    return node.name.removeprefix(_SHIELD)


def function_name(node: ast.Call) -> str:
    return ".".join((*node.func.namespace, node.func.name))


def compile_filter(text: str, table: StoredTable) -> Condition:
    compiler = _Compiler(table)
    try:
        condition = compiler.condition(parse_filter(text))
    except ValueError as error:  # the 31st of February
        raise bad_request(f"Syntax error in '{text}'.") from error
    if compiler.conditions > MAX_CONDITIONS:
        raise ServiceError(
            400,
            "0x8004430C",
            f"Number of conditions in query exceeded maximum limit of {MAX_CONDITIONS}.",
        )
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
            return self._call(node)
        if isinstance(node, ast.Identifier):
            member = self._member(node)
            if member.storage is Storage.BOOLEAN:
                return self._table.sql.c[member.name] == 1
        raise bad_request("The $filter expression must evaluate to a single boolean value.", "0x0")

    def _member(self, node: ast._Node) -> Member:
        if not isinstance(node, ast.Identifier):
            raise bad_request("The $filter expression is not supported here.")
        name = column_name(node)
        member = self._table.spec.members.get(name)
        if member is None or node.namespace:
            raise unknown_property(name, self._table.spec.logical_name)
        return member

    def _comparison(self, node: ast.Compare) -> Condition:
        left, right, comparator = node.left, node.right, type(node.comparator)
        if not isinstance(left, ast.Identifier) and isinstance(right, ast.Identifier):
            left, right = right, left
            comparator = _MIRRORED.get(comparator, comparator)
        if comparator not in _OPERATORS:
            raise bad_request("The 'in' operator is not supported; use the In function.")
        member = self._member(left)
        name, compare = _OPERATORS[comparator]
        column = self._table.sql.c[member.name]
        if isinstance(right, ast.Null):
            # In SQL nothing is greater or less than null.
            return {"Equal": column.is_(None), "NotEqual": column.is_not(None)}.get(
                name, sa.false()
            )
        if isinstance(right, ast.Identifier):
            other = self._member(right)
            if other.storage is not member.storage:
                raise _incompatible(member.edm, other.edm, name)
            result = compare(self._expression(member), self._expression(other))
        else:
            result = compare(*self._operands(member, right, name))
        return cast(Condition, result)

    def _expression(self, member: Member) -> sa.ColumnElement[Any]:
        return comparable(self._table, member)

    def _operands(
        self, member: Member, literal: ast._Node, operator_name: str
    ) -> tuple[sa.ColumnElement[Any], Any]:
        expression, storage = self._expression(member), member.storage
        if storage is Storage.GUID and isinstance(literal, ast.GUID):
            if operator_name in {"Equal", "NotEqual"} and member.name != self._table.spec.key:
                return self._table.sql.c[member.name], literal.val.lower()
            return expression, guid_rank(literal.val)
        if storage is Storage.TEXT and isinstance(literal, ast.String):
            return expression, literal.val
        if storage in {Storage.WHOLE, Storage.NUMBER}:
            if isinstance(literal, ast.Integer):
                return expression, literal.py_val
            if isinstance(literal, ast.Float):
                return expression, literal.py_val
        if storage is Storage.BOOLEAN and isinstance(literal, ast.Boolean):
            return expression, int(literal.py_val)
        if storage is Storage.MOMENT:
            if isinstance(literal, ast.Date):
                midnight = "" if member.column.date_only else "T00:00:00Z"
                return expression, literal.val + midnight
            if isinstance(literal, ast.DateTime) and not member.column.date_only:
                return expression, _moment_literal(literal)
        edm = _EDM.get(type(literal), "Edm.Untyped")
        raise _incompatible(member.edm, edm, operator_name)

    def _call(self, node: ast.Call) -> Condition:
        name = function_name(node)
        if name in {"Microsoft.Dynamics.CRM.In", "Microsoft.Dynamics.CRM.NotIn"}:
            condition = self._in(node)
            return condition if name.endswith(".In") else sa.not_(condition)
        affixes = {"contains": ("%", "%"), "startswith": ("", "%"), "endswith": ("%", "")}
        if name not in affixes:
            raise bad_request(f"The function '{name}' is not supported in $filter.")
        target, text = node.args
        member = self._member(target)
        if member.storage is not Storage.TEXT or not isinstance(text, ast.String):
            raise bad_request(
                f"No function signature for the function with name '{name}' matches the"
                " specified arguments.",
                "0x0",
            )
        before, after = affixes[name]
        column = self._table.sql.c[member.name]
        return sa.func.matches(column, f"{before}{text.val}{after}") == 1

    def _in(self, node: ast.Call) -> Condition:
        given = {
            parameter.name.name: parameter.param.val
            for parameter in node.args
            if isinstance(parameter, ast.NamedParam) and isinstance(parameter.param, ast.String)
        }
        if set(given) != {"PropertyName", "PropertyValues"}:
            raise bad_request("The In function takes PropertyName and PropertyValues.")
        member = self._member(ast.Identifier(given["PropertyName"]))
        try:
            values = json.loads(given["PropertyValues"])
        except ValueError as error:
            raise bad_request("PropertyValues is not a list of strings.") from error
        if not all(isinstance(value, str) for value in values) or not values:
            raise bad_request("PropertyValues is not a list of strings.")
        # Whether each value counts as a condition is not documented: here it does.
        self.conditions += len(values) - 1
        expression = self._expression(member)
        return expression.in_([_list_value(member, value) for value in values])


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
    if member.storage is Storage.COMPLEX:
        raise bad_request(f"The property '{member.name}' is complex and cannot be compared.")
    return column


def flatten(node: ast.BoolOp) -> list[ast._Node]:
    """The parts of ``a or b or c``: without recursion, the tree may be hundreds deep."""
    return list(reversed(list(_spine(node))))


def _spine(node: ast.BoolOp) -> Iterator[ast._Node]:
    current: ast._Node = node
    while isinstance(current, ast.BoolOp) and type(current.op) is type(node.op):
        yield current.right
        current = current.left
    yield current


def _moment_literal(literal: ast.DateTime) -> str:
    moment = literal.py_val
    text = moment_text(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    # Between two whole seconds: after this one's text, before the next one's.
    return text + "z" if moment.microsecond else text


def _list_value(member: Member, value: str) -> object:
    if member.storage is Storage.GUID:
        if not GUID.fullmatch(value):
            raise bad_request(f"'{value}' is not a guid.")
        return guid_rank(value)
    if member.storage in {Storage.WHOLE, Storage.NUMBER}:
        try:
            return float(value) if member.storage is Storage.NUMBER else int(value)
        except ValueError as error:
            raise bad_request(f"'{value}' is not a number.") from error
    return value


def _incompatible(left: str, right: str, operator_name: str) -> ServiceError:
    return bad_request(
        "A binary operator with incompatible types was detected. Found operand types"
        f" '{left}' and '{right}' for operator kind '{operator_name}'.",
        "0x0",
    )
