"""How labs get into a learner's home without ever costing a learner's work; run by the learner's own server.

What happens to a lab's notebook when the server starts:

* never delivered, or deleted by the learner: it is written (the portal's "Open" leads to that name);
* delivered in this version: nothing, whatever the learner did to it;
* a newer version exists and the learner's file is still byte for byte the one delivered: it is replaced;
* a newer version exists and the learner changed the file: the new one is put beside it, ``04_tensors-v2.ipynb``.

Renamed or copied notebooks are the learner's own and are never touched. Files appear whole or not at all: a crash or a
full disk leaves no half notebook.

A folder of templates holds the notebooks and ``labs.json``, a list of ``{"slug", "filename", "version"}``.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Delivery", "deliver"]


@dataclass(frozen=True)
class Delivery:
    """What was done for a lab: ``written``, ``replaced`` or ``beside``; and under which name it lies there now."""

    lab: str
    version: str
    filename: str
    action: str


def deliver(templates: Path, home: Path, history: Mapping[str, tuple[str, str]]) -> list[Delivery]:
    """Put the labs into ``home`` as the module says; ``history`` has, by lab, version and name of what was delivered
    last. Returns what changed; OSError if the home cannot be written to.
    """
    labs = json.loads((templates / "labs.json").read_text(encoding="utf-8"))
    found = [_deliver(templates / lab["filename"], home, lab, history.get(lab["slug"])) for lab in labs]
    return [delivery for delivery in found if delivery is not None]


def _deliver(template: Path, home: Path, lab: Mapping[str, str], last: tuple[str, str] | None) -> Delivery | None:
    slug, version = lab["slug"], lab["version"]
    delivered, filename = last or (None, lab["filename"])
    found = _version(home / filename)
    if found is None:
        return Delivery(slug, version, _create(template, home, filename), "written")
    if version == delivered:
        return None
    if found == version:  # it is there and nobody recorded it: the record is younger than the home
        return Delivery(slug, version, filename, "written")
    if delivered is not None and found == delivered:
        with _draft(template, home) as draft:
            draft.replace(home / filename)
        return Delivery(slug, version, filename, "replaced")
    return Delivery(slug, version, _create(template, home, lab["filename"]), "beside")


def _version(path: Path) -> str | None:
    """The version of a file, as the course counts them; ``""`` for no ordinary file, None for nothing at all."""
    if not path.is_symlink() and not path.exists():
        return None
    if path.is_symlink() or not path.is_file():
        return ""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def _create(template: Path, home: Path, filename: str) -> str:
    """Put it under the first free name of NAME, NAME-v2, NAME-v3, …; never over anything."""
    path = Path(filename)
    number = 1
    with _draft(template, home) as draft:
        while True:
            name = filename if number == 1 else f"{path.stem}-v{number}{path.suffix}"
            try:
                os.link(draft, home / name)
                return name
            except FileExistsError:
                number += 1


@contextmanager
def _draft(template: Path, home: Path) -> Iterator[Path]:
    """A complete copy under a name that nothing else has; gone afterwards, unless it was moved."""
    draft = home / f".gradlab-{secrets.token_hex(8)}"
    try:
        draft.write_bytes(template.read_bytes())
        yield draft
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
