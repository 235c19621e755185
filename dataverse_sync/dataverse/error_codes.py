"""The service's own error codes: what they ask of the person who runs the job.

A 403 alone says little: the code tells a missing privilege from an app that is not a user of the
environment, and a state of the environment that will end from one that somebody must end.

https://learn.microsoft.com/power-apps/developer/data-platform/reference/web-service-error-codes
"""

from __future__ import annotations

import re

ADMINISTRATION_MODE = "0x8004a113"
DISABLED = "0x8004a104"

_PRIVILEGE = "Give the application user a role with this privilege (organization level read)."
_RESTRICTED = (
    "The environment's access control does not let this app in: ask its administrator to allow it."
)
_ADDRESS = (
    "The environment does not let this address in (IP firewall): ask its administrator to allow it."
)
_UNKNOWN = "Ask the administrator of the environment why this app is refused."
_BY_CODE = {
    "0x80040220": _PRIVILEGE,
    "0x80072560": "The app is not a user of this environment: make the application user in the "
    "Power Platform admin center.",
    "0x80042f09": "The application user has no role: give it any role that may read these tables.",
    "0x80095ffc": _RESTRICTED,
    "0x80095ffe": _RESTRICTED,
    "0x80040225": "The application user is disabled: enable it in the Power Platform admin center.",
    ADMINISTRATION_MODE: "The environment is in administration mode, which may last for hours: "
    "run again once it has ended.",
    DISABLED: "The environment is disabled: run again once it is enabled, in the Power Platform "
    "admin center.",
}
HINTS = (*dict.fromkeys((*_BY_CODE.values(), _ADDRESS, _UNKNOWN)),)
_BLOCKED_ADDRESS = re.compile(r"\bIP[ -]?(address|firewall)", re.IGNORECASE)
_NAMES_PRIVILEGE = re.compile(r"privilege|\bprv[A-Z]", re.IGNORECASE)


def normalize_code(code: str) -> str:
    """A code as ``0x`` and eight lower-case digits, also where it came as a negative number."""
    code = code.strip()
    if re.fullmatch(r"-\d{1,10}", code):
        return f"0x{int(code) & 0xFFFFFFFF:08x}"
    return code.lower()


def is_state(code: str) -> bool:
    """Whether the environment itself is closed for now, so that asking again soon is in vain."""
    return normalize_code(code) in (ADMINISTRATION_MODE, DISABLED)


def find_access_hint(status: int, code: str, message: str) -> str:
    """The way out for a refused access; empty if the answer is about something else."""
    by_code = _BY_CODE.get(normalize_code(code), "")
    if by_code in ("", _RESTRICTED) and _BLOCKED_ADDRESS.search(message):
        return _ADDRESS if status == 403 or by_code else ""
    if by_code or status != 403:
        return by_code
    return _PRIVILEGE if _NAMES_PRIVILEGE.search(message) else _UNKNOWN


def drop_repeated_hint(text: str, said: set[str]) -> str:
    """The text without its hint if that is among those ``said``; a new one is added to them."""
    hint = next((each for each in HINTS if text.endswith(each)), None)
    if hint in said:
        return text.removesuffix(hint or "").rstrip()
    if hint is not None:
        said.add(hint)
    return text
