"""The proxy of a hosted server: configurable-http-proxy, started as JupyterHub would start it, in its own container.

Its API is a Unix socket in the folder that it shares with the hub. On a port it would be open to learners' containers,
which share a network with the proxy, and only its token would keep them from changing everybody's routes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from gradlab.credentials import Credentials
from gradlab.errors import SettingsError
from gradlab.hub.config import PROXY_SCRIPT, node
from gradlab.hub.environment import Addresses
from gradlab.settings import Settings

__all__ = ["PROXY_SOCKET", "arguments", "become_proxy"]

PROXY_SOCKET = "proxy.sock"


def become_proxy(settings: Settings) -> None:
    """Replace this process by the proxy."""
    token = Credentials.from_env("proxy_token").proxy_token
    (settings.run_dir / PROXY_SOCKET).unlink(missing_ok=True)  # of a proxy that was killed
    os.umask(0o117)  # the socket is for the hub's user alone
    argv = [str(node()), str(PROXY_SCRIPT), *arguments(settings)]
    os.execve(argv[0], argv, _environment(token, os.environ))


def arguments(settings: Settings) -> list[str]:
    """The proxy's command line."""
    found = ["--ip", "0.0.0.0", "--port", str(settings.port)]
    found += ["--api-socket", str(settings.run_dir / PROXY_SOCKET)]
    found += ["--error-target", f"{Addresses.of(settings).hub}/hub/error"]
    found += ["--log-level", settings.log_level.lower().replace("warning", "warn")]
    if settings.own_hosts:
        found.append("--host-routing")
    if settings.tls_dir is not None and _has_certificate(settings.tls_dir):
        found += ["--ssl-cert", _readable(settings.tls_dir / "cert.pem")]
        found += ["--ssl-key", _readable(settings.tls_dir / "key.pem")]
    return found


def _has_certificate(folder: Path) -> bool:
    """Whether there is one, be it that it cannot be read: a link that leads nowhere is meant to be one, too."""
    try:
        (folder / "cert.pem").lstat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def _readable(path: Path) -> str:
    """The path, once it is certain that the proxy can read it."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read ({error.strerror}). For TLS the proxy needs the certificate with its chain in "
            f"cert.pem and its key in key.pem, both readable by its user (uid {os.getuid()}). To go without TLS, take "
            "cert.pem out of this folder."
        ) from None
    return str(path)


def _environment(token: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": environ.get("PATH", "/usr/bin:/bin"), "CONFIGPROXY_AUTH_TOKEN": token}
