"""The configuration of a hosted server's hub, without a hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from gradlab.credentials import VARIABLES
from gradlab.hub.config import configure
from gradlab.settings import Settings

__all__ = ["INSTALLATION", "SECRETS", "hosted", "set_secrets"]

INSTALLATION = "gradlab-test"
# By the name of the credential; no two are the same.
SECRETS = {name: f"{number:064x}" for number, name in enumerate(VARIABLES, start=1)}


def set_secrets(patch: pytest.MonkeyPatch) -> None:
    """Put every credential of a hosted server into the environment."""
    for name, variable in VARIABLES.items():
        patch.setenv(variable, SECRETS[name])


def hosted(patch: pytest.MonkeyPatch, folder: Path, **settings: Any) -> Any:
    """JupyterHub's configuration of a hosted server whose state is in ``folder``."""
    set_secrets(patch)
    c = Config()
    configure(c, Settings(**{"spawner": "docker", "installation": INSTALLATION, "state_dir": folder} | settings))
    return c
