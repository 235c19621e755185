"""Find the address of the Web API in an address that a user typed."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from dataverse_sync.config import is_loopback
from dataverse_sync.errors import ConfigError

API_PATH = "/api/data/v9.2/"
_PORTALS = ("make.powerapps.com", "make.preview.powerapps.com", "admin.powerplatform.microsoft.com")


def parse_address(text: str) -> str:
    """Find the address of the Web API in any address of the environment.

    ``org.crm.dynamics.com``, ``https://org.crm.dynamics.com/main.aspx?appid=...`` and the
    Web API's own address give ``https://org.crm.dynamics.com/api/data/v9.2/``.
    An address that a secret may not be used for is a ConfigError.
    """
    typed = text.strip()
    hint = "Give the environment's address, such as https://ORG.crm.dynamics.com."
    try:
        parts = urlsplit(typed if "://" in typed else f"https://{typed}")
        port = parts.port
    except ValueError:
        raise ConfigError("that is not an address", hint) from None
    host = (parts.hostname or "").lower()
    if parts.username or parts.password:
        raise ConfigError("the address holds a user name or password: take it out", hint)
    if host in _PORTALS:
        raise ConfigError(
            f"{host} is the portal, not an environment",
            "The environment's own address is there under Settings, Session details, Instance url.",
        )
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9.\-]+|[0-9a-f:]+", host):
        raise ConfigError(f"{typed[:100]!r} is not an https:// address", hint)
    if parts.scheme == "http" and not is_loopback(typed):
        raise ConfigError("the address must begin with https:// (http only for this machine)", hint)
    place = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{place}{f':{port}' if port else ''}{API_PATH}"
