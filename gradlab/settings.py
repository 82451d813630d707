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
from ipaddress import IPv4Network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from dotenv.parser import parse_stream
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from gradlab.errors import SettingsError
from gradlab.gpu_mode import parse_mode

__all__ = ["PREFIX", "ROOT", "SECRETS", "Settings", "allow_examples", "allowed"]

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "GRADLAB_"

# What gradlab.credentials reads: variables too, but no settings, for settings are printed and handed on.
SECRETS = frozenset(
    PREFIX + name
    for name in (
        "CLASS_CODE",
        "INSTRUCTOR_CODE",
        "PORTAL_TOKEN",
        "PROXY_TOKEN",
        "COOKIE_KEY",
        "HUB_COOKIE_KEY",
        "METRICS_TOKEN",
        "POSTGRES_PASSWORD",
    )
)

# The databases of docker-compose.yml's profile postgres, one for the store and one for the hub, for both have a table
# alembic_version. The password is where PostgreSQL's own library looks for it: in the variable PGPASSWORD.
_POSTGRES = "postgresql+psycopg://gradlab@postgres"

# As NVML spells a GPU, a MIG instance, and a MIG instance of a driver before R470.
_GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]+(-[0-9a-f]+)*|MIG-GPU-[0-9a-f]+(-[0-9a-f]+)*/\d+/\d+", re.IGNORECASE)

# Of an address, where they need not be written.
_PORTS = {"http": 80, "https": 443}

# What JupyterHub calls the service `portal` where each has a host name of its own. No person's server is called the
# same: of a name with two hyphens JupyterHub takes a digest.
_PORTAL_HOST = "portal--service"

# What GRADLAB_LOGIN_ALLOW may say with which login.
_ALLOWED = {
    "github": {"users": "users:ada,grace", "org": "org:NAME or org:NAME/TEAM"},
    "google": {"users": "users:ada@example.org", "domain": "domain:example.org"},
    "oidc": {"users": "users:ada,grace", "domain": "domain:example.org", "group": "group:NAME"},
}

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Minutes = Annotated[int, Field(ge=0)]


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
    spawner: Literal["process", "docker"] = Field(
        "process", description="How learners' servers run: as confined processes, or each in a container of its own."
    )
    learner_memory_mb: Count = Field(4096, description="Memory limit of each process of a learner's server, in MiB.")
    learner_processes: Count = Field(512, description="Processes and threads a learner's server may have.")
    learner_cpus: Annotated[float, Field(gt=0)] = Field(2.0, description="Processor cores of a learner's container.")
    learner_shm_mb: Count = Field(1024, description="Size of /dev/shm in a learner's container, in MiB.")
    learner_image: str = Field("gradlab-lab", description="The image of learners' containers.")
    learner_networks: IPv4Network = Field(
        IPv4Network("10.213.0.0/16"), description="Where learners' networks, 16 addresses each, are taken from."
    )
    learner_internet: bool = Field(False, description="Whether learners' containers may reach the Internet.")
    gpus: str = Field("none", description="How learners get GPUs: none, exclusive, shared:N or mig.")
    cull_minutes: Minutes = Field(60, description="Minutes without use after which a server is stopped; 0: never.")
    gpu_idle_minutes: Minutes = Field(
        20, description="Minutes in which a server neither computes nor uses its GPU, and gives it back; 0: never."
    )
    gpu_warn_minutes: Minutes = Field(
        5, description="Minutes between the warning and the stop of a server whose GPU is idle; 0: no warning."
    )
    gpu_over_share: Literal["ignore", "tell", "stop"] = Field(
        "tell", description="What becomes of who has more than the share of a GPU's memory that nothing enforces."
    )
    installation: str = Field("", description="A hosted server's name; its containers and volumes begin with it.")
    public_address: str = Field("", description="The address people type, such as https://lab.example.org.")
    subdomains: bool = Field(False, description="Whether every learner's server has a host name of its own.")
    tls_dir: Path | None = Field(None, description="Folder with cert.pem and key.pem; with them the proxy speaks TLS.")
    hub_database_url: str = Field("", description="SQLAlchemy URL of the hub; empty means SQLite in the state folder.")
    profiles: str = Field("", description="docker-compose.yml's profiles that are on, separated by commas.")
    run_dir: Path = Field(Path("/run/gradlab"), description="Where the services of a hosted server meet: Unix sockets.")
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
    login: Literal["passwords", "signup", "approval", "github", "google", "oidc", "lti"] = Field(
        default_factory=lambda given: "signup" if given.get("spawner") == "docker" else "passwords",
        description="How people log in; empty: passwords, or signup where servers are containers.",
    )
    instructors: str = Field("", description="Names of instructors, separated by commas.")
    login_allow: str = Field("", description="Who may log in with github, google or oidc.")
    instructor_group: str = Field(
        "", description="Whose members are instructors: ORG or ORG/TEAM of GitHub, a value of the claim groups of OIDC."
    )
    oauth_client_id: str = Field("", description="What the provider calls this server.")
    oauth_client_secret: str = Field("", repr=False, description="The secret that the provider gave this server.")
    oauth_authorize_url: str = Field("", description="OIDC: authorization_endpoint.")
    oauth_token_url: str = Field("", description="OIDC: token_endpoint.")
    oauth_userdata_url: str = Field("", description="OIDC: userinfo_endpoint.")
    oauth_username_claim: str = Field("preferred_username", description="OIDC: the claim that names are made from.")
    lti_issuer: str = Field("", description="LTI: the platform's issuer.")
    lti_authorize_url: str = Field("", description="LTI: the platform's authentication request URL.")
    lti_jwks_url: str = Field("", description="LTI: the platform's public keyset URL.")
    lti_client_id: str = Field("", description="LTI: the client id; several with commas.")
    banner: str = Field(
        "", description="A line at the top of every page, such as a note that all of this is a demonstration."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="How much the logs say.")

    @field_validator("public_address")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        """As a browser writes it, because cookies and logins compare it with what the browser sends."""
        parts = urlsplit(value)
        more = (parts.path.strip("/"), parts.query, parts.fragment, parts.username, parts.port == 0)
        if value and (parts.scheme not in _PORTS or not parts.hostname or any(more)):
            raise ValueError("it must be the whole address and nothing behind it, such as https://lab.example.org")
        host = parts.netloc.lower()
        return f"{parts.scheme}://{host.removesuffix(f':{_PORTS[parts.scheme]}')}" if value else ""

    @field_validator("subdomains")
    @classmethod
    def _are_below_an_address(cls, value: bool, info: ValidationInfo) -> bool:
        """Of a name with a dot: browsers take no cookie for all hosts below another. And on https, for only there
        can a cookie be kept from being set by another host."""
        address = urlsplit(info.data.get("public_address", ""))
        if value and (address.scheme != "https" or not re.search(r"\.[a-z][a-z0-9-]*$", address.hostname or "")):
            raise ValueError(
                "host names lie below GRADLAB_PUBLIC_ADDRESS, so that must be https:// and a name such as "
                f"lab.example.org; it is {info.data.get('public_address') or 'empty'}"
            )
        return value

    @field_validator("gpus")
    @classmethod
    def _is_a_mode(cls, value: str) -> str:
        return str(parse_mode(value))

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

    @field_validator("login_allow", "instructor_group")
    @classmethod
    def _is_looked_at(cls, value: str, info: ValidationInfo) -> str:
        """Nothing that says who may do what is left unread."""
        login, name = info.data.get("login"), info.field_name
        readers = ("github", "google", "oidc") if name == "login_allow" else ("github", "oidc")
        if value and login is not None and login not in readers:
            raise ValueError(
                f"GRADLAB_LOGIN={login} does not look at it, only {', '.join(readers[:-1])} and {readers[-1]} do; "
                "leave it empty"
            )
        return value

    @field_validator("login_allow")
    @classmethod
    def _says_who_may_log_in(cls, value: str, info: ValidationInfo) -> str:
        known = _ALLOWED.get(str(info.data.get("login")), {})
        for kind, names in allowed(value) if known else ():
            if (kind, names) != ("everybody", "") and (kind not in known or not names):
                term = f"{kind}:{names}" if names else kind
                raise ValueError(f"{term!r} does not say who may log in; write {allow_examples(info.data['login'])}")
        return value

    @field_validator(
        "oauth_authorize_url", "oauth_token_url", "oauth_userdata_url", "lti_authorize_url", "lti_jwks_url"
    )
    @classmethod
    def _is_safe_to_ask(cls, value: str) -> str:
        """Secrets and identities go there: over TLS, or not beyond this machine."""
        address = urlsplit(value)
        if value and address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ValueError("it must be an address that begins with https://")
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
            if key in SECRETS:
                continue
            if name not in cls.model_fields:
                close = difflib.get_close_matches(name, cls.model_fields, n=1)
                hint = f"Did you mean {PREFIX}{close[0].upper()}?" if close else "See .env.example for all settings."
                shown = "" if "SECRET" in key else f" (its value is {value!r})"
                raise SettingsError(f"There is no setting {key}{shown}. {hint}")
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
        return self.database_url or self._database("gradlab")

    @property
    def hub_store_url(self) -> str:
        """The hub's database, which is another one."""
        return self.hub_database_url or self._database("jupyterhub")

    def _database(self, name: str) -> str:
        if "postgres" in self.profiles.split(","):
            return f"{_POSTGRES}/{name}"
        return f"sqlite:///{self.state_dir.resolve() / name}.sqlite"

    @property
    def own_hosts(self) -> bool:
        """Whether the portal and each learner's server have host names of their own; a trial has one for all."""
        return self.subdomains and self.spawner == "docker"

    @property
    def portal_address(self) -> str:
        """Where browsers find the portal if it has a host name of its own; else nothing, as it is where the hub is."""
        return self.public_address.replace("://", f"://{_PORTAL_HOST}.", 1) if self.own_hosts else ""

    @property
    def secure(self) -> bool:
        """Whether browsers come by https, whoever speaks it. Of a trial beside a hosted server nothing is known."""
        return self.spawner == "docker" and self.public_address.startswith("https:")

    @property
    def confined_checks(self) -> str:
        """What is to confine learner code in a check: ``docker``, or what ``detect`` takes."""
        return self.sandbox if self.check_sandbox == "as learners" else self.check_sandbox

    @property
    def gpu_socket(self) -> Path:
        """Where a hosted server's GPU monitor is asked."""
        return self.run_dir / "gpus.sock"

    @property
    def roster_file(self) -> Path:
        """Where the hub writes which servers there are, for the GPU monitor (gradlab.roster)."""
        return (self.run_dir if self.spawner == "docker" else self.state_dir) / "servers.json"

    @property
    def homes_dir(self) -> Path:
        """Learners' home folders, one a name."""
        return self.state_dir / "homes"

    @property
    def credentials_file(self) -> Path:
        """Passwords and keys, readable by the owner alone."""
        return self.state_dir / "credentials.json"


def allowed(text: str) -> list[tuple[str, str]]:
    """What GRADLAB_LOGIN_ALLOW says, as pairs such as (users, "ada,grace"); ``everybody`` has nothing behind it."""
    terms = [term.partition(":") for word in text.split(";") if (term := word.strip())]
    return [(kind.strip(), names.strip()) for kind, _, names in terms]


def allow_examples(login: str) -> str:
    """What GRADLAB_LOGIN_ALLOW may say with this login."""
    return f"{', '.join(_ALLOWED[login].values())}, several with ; between them, or everybody (all who have an account)"


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
