"""Read EntityDefinitions: columns for a sync, choice columns and their labels, a list of tables.

Pure functions from decoded JSON to values of ours. What is missing, null or additional is
taken as the service means it; what does not fit raises ``msgspec.ValidationError``.

https://learn.microsoft.com/power-apps/developer/data-platform/webapi/query-metadata-web-api
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain

import msgspec

from dataverse_sync.model import IDENTIFIER, Column, Entity, Kind

_INTEGERS = ("Integer", "BigInt", "Boolean", "Picklist", "State", "Status")
_REALS = ("Double", "Decimal", "Money")
_LOOKUPS = ("Lookup", "Owner", "Customer")
_NAVIGATION_ONLY = ("PartyList", "CalendarRules")
_IMAGE_COMPANIONS = ("_timestamp", "_url")
# The relationship of an owner column names the abstract table that both kinds of owner share.
_ABSTRACT_TARGETS = {"owner": ("systemuser", "team"), "principal": ("systemuser", "team")}
# Signs of the kind of a table, where TableType does not tell.
_NO_PROVIDER = "00000000-0000-0000-0000-000000000000"
_ELASTIC_PROVIDER = "1d9bde74-9ebd-4da9-8ff5-aa74945b9f74"  # the same in every environment
_ELASTIC_COLUMNS = {"partitionid", "ttlinseconds"}
CHOICE_KINDS = ("Picklist", "State", "Status", "MultiSelectPicklist", "Boolean")


def definitions_filter(names: Iterable[str]) -> str:
    """The ``$filter`` for the definitions of these entity sets."""
    return " or ".join(f"EntitySetName eq '{name}'" for name in names)


def find_name(definition: object) -> str:
    """The name of the entity whose definition does not fit."""
    known = definition if isinstance(definition, Mapping) else {}
    names = (known.get(name) for name in ("EntitySetName", "LogicalName"))
    return next((name for name in names if isinstance(name, str)), "an entity")


# An entity and its columns


class _TypeName(msgspec.Struct, rename="pascal"):
    value: str | None = None


class Attribute(msgspec.Struct, rename="pascal"):
    """What of a column decides on how a record's JSON has it."""

    logical_name: str
    attribute_type: str | None
    attribute_type_name: _TypeName | None = None
    attribute_of: str | None = None
    is_valid_for_read: bool | None = True
    is_valid_odata: bool | None = msgspec.field(default=None, name="IsValidODataAttribute")

    @property
    def type_name(self) -> str:
        return (self.attribute_type_name and self.attribute_type_name.value) or ""


class _Relationship(msgspec.Struct, rename="pascal"):
    referencing_attribute: str
    referenced_entity: str


class _Definition(msgspec.Struct, rename="pascal"):
    logical_name: str
    entity_set_name: str
    primary_id_attribute: str
    attributes: list[Attribute]
    is_intersect: bool | None = None
    change_tracking_enabled: bool | None = None
    table_type: object = None
    data_provider_id: object = None
    many_to_one_relationships: list[_Relationship] | None = None


_LISTS = ("Attributes", "ManyToOneRelationships")  # not selected but expanded
_SELECT = tuple(name for name in _Definition.__struct_encode_fields__ if name not in _LISTS)
_ATTRIBUTES = (
    "LogicalName,AttributeType,AttributeTypeName,AttributeOf,IsValidForRead,IsValidODataAttribute"
)
_EXPAND = (
    "Attributes($select={}),ManyToOneRelationships($select=ReferencingAttribute,ReferencedEntity)"
)


@dataclass(frozen=True, slots=True)
class DefinitionQuery:
    """What definitions are asked for."""

    select: tuple[str, ...]
    expand: str
    older: DefinitionQuery | None  # asked for where a service refuses this one


_OLDEST = DefinitionQuery(
    tuple(name for name in _SELECT if name != "TableType"), _EXPAND.format(_ATTRIBUTES), None
)
# Services of 2022 and before, on-premises ones too, refuse a $select that names TableType.
_OLDER = DefinitionQuery(
    (*_OLDEST.select, "Privileges"), _EXPAND.format(f"{_ATTRIBUTES},IsSecured,MetadataId"), _OLDEST
)
NEWEST = DefinitionQuery((*_SELECT, "Privileges"), _OLDER.expand, _OLDER)


def parse_definition(definition: object) -> Entity:
    """One element of the answer to a ``DefinitionQuery``."""
    found = msgspec.convert(definition, _Definition)
    targets: dict[str, list[str]] = {}
    for relationship in found.many_to_one_relationships or ():
        referenced = relationship.referenced_entity
        names = _ABSTRACT_TARGETS.get(referenced, (referenced,))
        targets.setdefault(relationship.referencing_attribute, []).extend(names)
    # The first of a name counts. No attribute of Dataverse is named otherwise than an identifier;
    # what else comes stays in the JSON.
    columns: dict[str, Column] = {}
    for column in chain.from_iterable(columns_of(each, targets) for each in found.attributes):
        if IDENTIFIER.fullmatch(column.name):
            columns.setdefault(column.name, column)
    key = found.primary_id_attribute
    if not columns or not IDENTIFIER.fullmatch(key):
        raise msgspec.ValidationError("no usable PrimaryIdAttribute")
    columns.setdefault(key, Column(key, "TEXT"))
    return Entity(
        name=found.entity_set_name,
        key=key,
        columns=tuple(columns.values()),
        source="metadata",
        logical_name=found.logical_name,
        is_intersect=bool(found.is_intersect),
        change_tracking=bool(found.change_tracking_enabled),
        kind=find_kind(found.table_type, found.data_provider_id, columns),
    )


def find_kind(table_type: object, provider: object, columns: Collection[str]) -> Kind:
    """The kind of a table, by ``TableType``, ``DataProviderId`` and its columns.

    An elastic table has a data provider too: always the same.
    """
    told = table_type.strip().lower() if isinstance(table_type, str) else ""
    provider = to_id(provider)
    # Activities and what else may come are told apart by the other signs.
    is_known = told in ("standard", "elastic", "virtual")
    if told == "elastic" or provider == _ELASTIC_PROVIDER:
        return "elastic"
    if not is_known and set(columns) >= _ELASTIC_COLUMNS:
        return "elastic"
    has_provider = provider not in ("", _NO_PROVIDER)
    return "virtual" if told == "virtual" or has_provider else "standard"


def columns_of(attribute: Attribute, targets: Mapping[str, Sequence[str]]) -> Iterable[Column]:
    """The columns under the names they have in JSON: none, one, or two for a file."""
    name, kind = attribute.logical_name, attribute.attribute_type
    if not _is_readable(attribute) or kind in _NAVIGATION_ONLY:
        return ()
    if kind in _LOOKUPS:
        pointed = tuple(sorted(set(targets.get(name, ()))))
        return (Column(f"_{name}_value", "TEXT", pointed),)
    if attribute.type_name == "FileType":
        return (Column(name, "TEXT"), Column(f"{name}_name", "TEXT"))
    return (Column(name, "INTEGER" if kind in _INTEGERS else "REAL" if kind in _REALS else "TEXT"),)


def _is_readable(attribute: Attribute) -> bool:
    """Whether the Web API sends the attribute; older services do not have the flag."""
    if attribute.is_valid_odata is not None:
        return attribute.is_valid_odata
    name, parent = attribute.logical_name, attribute.attribute_of
    if parent is None:
        return bool(attribute.is_valid_for_read)
    return name == parent or name in [parent + suffix for suffix in _IMAGE_COMPANIONS]


# What decides on whether it may be read


class _Privilege(msgspec.Struct, rename="pascal"):
    name: str
    privilege_id: str | None = None
    privilege_type: object = None


@dataclass(frozen=True, slots=True)
class Security:
    """What rights a caller needs to read a table, and which of its columns need one of their own.

    Its records need a privilege; a column that is secured is null for who may not read it.
    """

    privilege: str | None = None  # its name; None: it has none of its own, as junction tables
    privilege_id: str = ""
    # Column → id of its attribute; None: an older service, which tells nothing of rights.
    secured: Mapping[str, str] | None = None


def parse_security(definition: Mapping[str, object]) -> Security:
    """The security part of an element that ``parse_definition`` has accepted."""
    attributes = definition.get("Attributes")
    listed = attributes if isinstance(attributes, list) else []
    if "Privileges" not in definition and not any("IsSecured" in each for each in listed):
        return Security()
    secured: dict[str, str] = {}
    for each in listed:
        if each.get("IsSecured") is True:
            columns = columns_of(msgspec.convert(each, Attribute), {})
            secured.update((column.name, to_id(each.get("MetadataId"))) for column in columns)
    with suppress(msgspec.ValidationError):
        for found in msgspec.convert(definition.get("Privileges"), list[_Privilege]):
            if found.privilege_type in ("Read", 2):
                return Security(found.name, to_id(found.privilege_id), secured)
    return Security(secured=secured)


def to_id(value: object) -> str:
    """A GUID as it is compared, whatever way it is written in."""
    return value.strip(" {}").lower() if isinstance(value, str) else ""


# Choice columns and their labels

CHOICES_SELECT = ("LogicalName", "EntitySetName", "PrimaryNameAttribute")
# Not selected, attributes come with the properties of their own types, for the dictionary.
CHOICES_EXPANDS = ("Attributes", "Attributes($select=LogicalName,AttributeType,AttributeTypeName)")


class ChoicesDefinition(msgspec.Struct, rename="pascal"):
    """An element of an answer with ``CHOICES_SELECT`` and one of ``CHOICES_EXPANDS``."""

    logical_name: str
    entity_set_name: str
    attributes: list[Attribute]
    primary_name_attribute: str | None = None

    @property
    def kinds(self) -> dict[str, str]:
        """Column → one of ``CHOICE_KINDS``."""
        return {
            attribute.logical_name: kind
            for attribute in self.attributes
            # The type of a column of several choices is Virtual; the type's name tells.
            for kind in (attribute.attribute_type, attribute.type_name.removesuffix("Type"))
            if kind in CHOICE_KINDS
        }


class _Label(msgspec.Struct, rename="pascal"):
    label: str | None = None
    language_code: int | None = None


class Labels(msgspec.Struct, rename="pascal"):
    """A text in several languages, as metadata has it."""

    localized_labels: list[_Label] | None = None
    user_localized_label: _Label | None = None


class Option(msgspec.Struct, rename="pascal"):
    """One value of a choice column, and its labels."""

    value: int | None = None
    label: Labels | None = None

    @property
    def labels(self) -> list[_Label]:
        """One for each language."""
        return (self.label and self.label.localized_labels) or []

    @property
    def user_language(self) -> int | None:
        """The language of the label that the service chose for the app itself."""
        chosen = self.label and self.label.user_localized_label
        return chosen.language_code if chosen else None


class _OptionSet(msgspec.Struct, rename="pascal"):
    options: list[Option] | None = None
    false_option: Option | None = None
    true_option: Option | None = None


class _ChoiceAttribute(msgspec.Struct, rename="pascal"):
    logical_name: str
    option_set: _OptionSet | None = None
    global_option_set: _OptionSet | None = None


def iter_options(attributes: Iterable[object]) -> Iterator[tuple[str, Option]]:
    """Column and option, of an answer of choice columns; columns that do not fit are left out."""
    for attribute in attributes:
        with suppress(msgspec.ValidationError):
            found = msgspec.convert(attribute, _ChoiceAttribute)
            # A column has options of its own, or those of a global choice.
            known = found.option_set or found.global_option_set or _OptionSet()
            options = (*(known.options or ()), known.false_option, known.true_option)
            yield from ((found.logical_name, option) for option in options if option)


# A list of tables


class TableDefinition(msgspec.Struct, rename="pascal"):
    """A table as a list of tables shows it."""

    logical_name: str
    entity_set_name: str
    primary_id_attribute: str
    display_name: object = None
    display_collection_name: object = None
    is_custom_entity: bool | None = None
    is_intersect: bool | None = None
    is_private: bool | None = None
    data_provider_id: object = None  # of a virtual table

    @property
    def title(self) -> str:
        """The display name in one line, or else the entity set."""
        titles = (_title(self.display_collection_name), _title(self.display_name))
        return next(filter(None, titles), self.entity_set_name)


TABLES_SELECT = TableDefinition.__struct_encode_fields__


def parse_table(definition: object) -> TableDefinition | None:
    """One element of an answer with ``TABLES_SELECT``; None if it cannot be an entity of ours."""
    try:
        found = msgspec.convert(definition, TableDefinition)
    except msgspec.ValidationError:
        return None
    names = (found.entity_set_name, found.logical_name, found.primary_id_attribute)
    return found if not found.is_private and all(map(IDENTIFIER.fullmatch, names)) else None


def _title(labels: object) -> str:
    try:
        chosen = msgspec.convert(labels, Labels).user_localized_label
    except msgspec.ValidationError:
        return ""
    text = (chosen.label if chosen else None) or ""
    # What any file and console can hold.
    text = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(text.split())[:100]
