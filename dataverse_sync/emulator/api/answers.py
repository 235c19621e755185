"""Answers: a body, a page that faults can still change, an error in the service's words."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

JSON_TYPE = "application/json; odata.metadata=minimal; odata.streaming=true"
_ERROR_TYPE = "application/json; odata.metadata=minimal"
USER_ID = "4026be43-6b69-e111-8f65-78e7d1620f5e"


def to_json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(slots=True)
class Page:
    """An answer that is a list of records; faults change it before it becomes bytes."""

    context: str
    records: list[bytes]
    entity_set: str
    next_link: str | None = None
    delta_link: str | None = None

    def to_bytes(self) -> bytes:
        head = {"@odata.context": self.context}
        if self.delta_link is not None:
            head["@odata.deltaLink"] = self.delta_link
        opening = to_json(head)[:-1] + b',"value":['
        closing = b"]}"
        if self.next_link is not None:
            closing = b'],"@odata.nextLink":' + to_json(self.next_link) + b"}"
        return b"".join((opening, b",".join(self.records), closing))


@dataclass(slots=True)
class Answer:
    """One HTTP answer, before it is compressed and sent."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = JSON_TYPE
    headers: list[tuple[str, str]] = field(default_factory=list)
    page: Page | None = None  # its bytes are the body, once the faults are done with it

    def payload(self) -> bytes:
        return self.body if self.page is None else self.page.to_bytes()


class ServiceError(Exception):
    """A refusal, with the service's own status, code and words."""

    def __init__(
        self, status: int, code: str, message: str, headers: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = list(headers)

    def answer(self) -> Answer:
        body = to_json({"error": {"code": self.code, "message": self.message}})
        return Answer(self.status, body, _ERROR_TYPE, list(self.headers))


def json_answer(value: object) -> Answer:
    return Answer(body=to_json(value))


def bad_request(message: str, code: str = "0x80060888") -> ServiceError:
    return ServiceError(400, code, message)


def unknown_property(name: str, type_name: str) -> ServiceError:
    type_name = f"Microsoft.Dynamics.CRM.{type_name}"
    return bad_request(f"Could not find a property named '{name}' on type '{type_name}'.", "0x0")


def unknown_segment(segment: str) -> ServiceError:
    return ServiceError(404, "0x8006088a", f"Resource not found for the segment '{segment}'.")


def missing_privilege(logical_name: str) -> ServiceError:
    privilege_id = to_privilege_id(logical_name)
    missing = f"is missing prvRead{logical_name} privilege (Id={privilege_id})"
    return ServiceError(403, "0x80040220", f"Principal user (Id={USER_ID}, type=8) {missing}")


def to_privilege_id(logical_name: str) -> str:
    """The id of the privilege to read a table."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"prvRead{logical_name}"))
