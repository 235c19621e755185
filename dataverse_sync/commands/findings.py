"""What ``check`` has found: as lines for a person, and as a document for a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """The result for one entity, or for a part of the surroundings such as the clock."""

    what: str  # an entity set, or sign-in, clock, database, address and so on
    result: Literal["ok", "warning", "failure"]
    text: str
    details: dict[str, Any] = field(default_factory=dict)
    cells: tuple[str, ...] = ()  # the text in parts that stand below each other
    hint: str = ""  # the way out, said once below the lines of all findings that have it


def format_findings(findings: Sequence[Finding]) -> list[str]:
    """One line each, each way out once, and how many of them are not ok."""
    width = max(len(finding.what) for finding in findings)
    rows = [finding.cells for finding in findings if finding.cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    lines = []
    for finding in findings:
        text = " ".join(finding.text.split())
        if finding.cells:
            ends = finding.cells[len(widths) :]
            padded = zip(finding.cells, widths, strict=False)
            text = "  ".join([*(cell.ljust(size) for cell, size in padded), *ends]).rstrip()
        lines.append(f"{finding.result:<7}  {finding.what.ljust(width)}  {text}")
    failures = sum(finding.result == "failure" for finding in findings)
    warnings = sum(finding.result == "warning" for finding in findings)
    if hints := list(dict.fromkeys(finding.hint for finding in findings if finding.hint)):
        lines += ["", *hints]
    return [*lines, "", f"failures: {failures}, warnings: {warnings}"]


def to_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as one JSON document."""
    failed = any(finding.result == "failure" for finding in findings)
    documents = [asdict(finding) for finding in findings]
    for document in documents:
        del document["cells"]
        if not document["hint"]:
            del document["hint"]
    return {"ok": not failed, "findings": documents}
