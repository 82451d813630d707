"""Every setting of the server, read once from the environment into one frozen object.

The order is: process environment, then ``.env`` in the project's folder, then the default. Names are ``GRADLAB_`` plus
the field's name in capitals. ``.env.example`` lists them all, and a test compares the two.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Literal

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from gradlab.errors import SettingsError

__all__ = ["PREFIX", "ROOT", "Settings"]

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "GRADLAB_"

# As NVML spells a GPU, a MIG instance, and a MIG instance of a driver before R470.
_GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]+(-[0-9a-f]+)*|MIG-GPU-[0-9a-f]+(-[0-9a-f]+)*/\d+/\d+", re.IGNORECASE)

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Settings(BaseModel):
    """One typed, immutable object; pass it on, never read the environment elsewhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: Port = Field(8000, description="Port of the public address; three more on 127.0.0.1 are chosen freely.")
    state_dir: Path = Field(ROOT / "var", description="Database, homes, passwords and logs. Back this folder up.")
    database_url: str = Field("", description="SQLAlchemy URL; empty means SQLite in the state folder.")
    labs_dir: Path = Field(ROOT / "labs", description="Learners' notebooks and questions.toml.")
    checks_dir: Path = Field(ROOT / "checker" / "labs", description="Hidden checkers, solutions and mistakes.")
    config_dir: Path = Field(ROOT / "config.d", description="Extra JupyterHub configuration: *.py, run in name order.")
    sandbox: Literal["auto", "bubblewrap", "unshare", "plain"] = Field(
        "auto", description="How learner code is confined; auto takes the first that works on this machine."
    )
    learner_memory_mb: Count = Field(4096, description="Memory limit of each process of a learner's server, in MiB.")
    learner_processes: Count = Field(512, description="Processes and threads a learner's server may have.")
    check_sandbox: Literal["auto", "bubblewrap", "unshare", "plain", "docker", "as learners"] = Field(
        "as learners", description="How learner code is confined in a check: as GRADLAB_SANDBOX says, or otherwise."
    )
    check_image: str = Field("gradlab-lab", description="The image of a check's container, with the sandbox docker.")
    check_gpus: str = Field("", description="UUIDs of GPUs that checks may use, separated by commas (sandbox docker).")
    notebook_mb: Count = Field(10, description="Largest notebook the judge accepts, in MiB.")
    check_workers: Count = Field(
        default_factory=lambda given: 1 if given.get("check_gpus") else 2,
        description="Checks that run at the same time; empty: 2, or 1 where checks have GPUs.",
    )
    check_pool: Annotated[int, Field(ge=0)] | None = Field(
        None, description="Warm judges that wait, torch already imported; empty: by cores and free memory."
    )
    check_memory_mb: Count = Field(2048, description="Memory limit of learner code in a check, in MiB.")
    check_processes: Count = Field(64, description="Processes and threads learner code may have in a check.")
    check_scratch_mb: Count = Field(64, description="Size of the only writable folder in a check, in MiB.")
    check_output_kb: Count = Field(256, description="Output after which a check is ended, in KiB.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much the logs say.")

    @field_validator("check_gpus")
    @classmethod
    def _are_uuids(cls, value: str) -> str:
        """Docker would take a number or ``all`` as well, and nobody could say which GPUs those are."""
        names = [name for word in value.split(",") if (name := word.strip())]
        for name in names:
            if not _GPU_UUID.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no UUID of a GPU (GPU-…) or MIG instance (MIG-…); `nvidia-smi -L` prints them, on "
                    "the machine where Docker is"
                )
        return ",".join(names)

    @field_validator("check_workers")
    @classmethod
    def _one_at_a_time_with_gpus(cls, value: int, info: ValidationInfo) -> int:
        """Every check gets all GPUs, and a GPU shared by two learners' checks isolates neither memory nor faults."""
        if value > 1 and info.data.get("check_gpus"):
            raise ValueError(
                "with GRADLAB_CHECK_GPUS it must be 1 (or left empty), because every check gets all of those GPUs and "
                "two learners' checks would share them"
            )
        return value

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, env_file: Path | None = ROOT / ".env") -> Settings:
        """Read the settings; SettingsError names the variable, its value and what would be right."""
        environ = os.environ if environ is None else environ
        found = _read_env_file(env_file) if env_file is not None and env_file.is_file() else {}
        found |= {key: value for key, value in environ.items() if key.startswith(PREFIX)}
        values = {}
        for key, value in found.items():
            name = key.removeprefix(PREFIX).lower()
            if name not in cls.model_fields:
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"Did you mean {PREFIX}{close[0].upper()}?" if close else "See .env.example for all settings."
                raise SettingsError(f"There is no setting {key} (its value is {value!r}). {hint}")
            if value != "":  # an empty value means the default, as in `NAME=` of .env.example
                values[name] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = PREFIX + str(first["loc"][0]).upper()
            raise SettingsError(
                f"{key}={first['input']!r} is not usable: {first['msg'].removeprefix('Value error, ')}. "
                "Change it in the environment or in .env."
            ) from None

    @property
    def store_url(self) -> str:
        """The database as SQLAlchemy wants it."""
        return self.database_url or f"sqlite:///{self.state_dir / 'gradlab.sqlite'}"

    @property
    def confined_checks(self) -> str:
        """What is to confine learner code in a check: ``docker``, or what ``detect`` takes."""
        return self.sandbox if self.check_sandbox == "as learners" else self.check_sandbox

    @property
    def homes_dir(self) -> Path:
        """Learners' home folders, one a name."""
        return self.state_dir / "homes"

    @property
    def credentials_file(self) -> Path:
        """Passwords and keys, readable by the owner alone."""
        return self.state_dir / "credentials.json"


def _read_env_file(path: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Save it as UTF-8, readable by this user.") from None
    for binding in parse_stream(StringIO(text)):
        line = binding.original.string.strip()
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingsError(
                f"{path}, line {binding.original.line}: {line!r} is not NAME=value. Finish the line or delete it."
            )
        if binding.key is not None and binding.key.startswith(PREFIX):
            values[binding.key] = binding.value or ""
    return values
