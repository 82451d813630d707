"""What processes print: learners' servers into files that cannot grow without bound, and the end of such a file."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import IO

__all__ = ["OutputLog", "tail"]

_LARGEST = 1 << 20
_CHUNK = 1 << 16


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


class OutputLog:
    """Copies a process's output into a file; at 1 MiB the file becomes NAME.1 and a new one begins.

    Learner code decides how much is printed, so a file opened for the process itself could fill the server's disk.
    """

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self._source = source
        self._path = path
        self._file = self._open()

    @classmethod
    def follow(cls, source: IO[bytes], path: Path) -> None:
        """Copy until the end of the output, driven by the running event loop."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.set_blocking(source.fileno(), False)
        asyncio.get_running_loop().add_reader(source.fileno(), cls(source, path)._copy)

    def _open(self) -> IO[bytes]:
        return self._path.open("ab", buffering=0)

    def _copy(self) -> None:
        try:
            data = os.read(self._source.fileno(), _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._source.fileno())
            self._source.close()
            self._file.close()
            return
        if self._file.tell() > _LARGEST:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._open()
        self._file.write(data)
