"""What a request tells of where it comes from: an address for counting, and whether this browser is known."""

from __future__ import annotations

import secrets
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

__all__ = ["address_of", "key_of", "remember"]

_COOKIE = "gradlab-known-browser"


def address_of(handler: Any) -> str:
    """Where a request comes from, as the proxy saw it; of IPv6 the network, since one machine has a whole one.

    Not ``request.remote_ip``: that believes the header ``X-Real-Ip``, which anybody can send.
    """
    trusted = handler.app.trusted_downstream_ips
    hops = [hop.strip() for hop in handler.request.headers.get("X-Forwarded-For", "").split(",")]
    text = next((hop for hop in reversed(hops) if hop not in trusted), "")
    try:
        address = ip_address(text)
    except ValueError:
        return "unknown"
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or ip_network(f"{address}/64", strict=False))
    return str(address)


def remember(handler: Any, name: str) -> None:
    """Somebody logged in here under this name: wrong passwords from elsewhere do not slow this browser down."""
    value = f"{name}:{secrets.token_hex(8)}"
    handler._set_cookie(_COOKIE, value, path=f"{handler.hub.base_url}login", expires_days=365)


def key_of(handler: Any, name: str) -> str:
    """This browser's own key, if somebody once logged in here under this name; else nothing."""
    value = (handler.get_secure_cookie(_COOKIE, max_age_days=365) or b"").decode()
    return value if value.startswith(f"{name}:") else ""
