"""Reading a request's body without letting it fill the memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

__all__ = ["read_notebook_body"]

_MIB = 1 << 20
_DRAIN_FACTOR = 10
_DRAIN_SECONDS = 10.0


async def read_notebook_body(request: Request, limit: int) -> bytes:
    """The body, at most ``limit`` bytes of it; 413 with the size and the limit if there is more.

    What is too much is thrown away as it comes, up to ten times the limit: many clients write all they have before they
    read, and would see a broken connection instead of the answer.
    """
    announced = _announced(request)
    if announced is not None and announced > limit:
        if announced <= limit * _DRAIN_FACTOR and "expect" not in request.headers:
            await _drain(request.stream(), limit * _DRAIN_FACTOR)
        raise _too_large(f"{announced / _MIB:.1f} MiB", limit)
    body = bytearray()
    chunks = request.stream()
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit:
                body.clear()
                await _drain(chunks, limit * _DRAIN_FACTOR)
                raise _too_large(f"more than {limit / _MIB:g} MiB", limit)
    except ClientDisconnect:
        raise HTTPException(400, "The notebook did not arrive whole: the connection broke off. Check again.") from None
    return bytes(body)


def _announced(request: Request) -> int | None:
    given = request.headers.get("content-length", "")
    return int(given) if given.isascii() and given.isdigit() else None


async def _drain(chunks: AsyncIterator[bytes], most: int) -> None:
    """Receive and forget."""
    seen = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in chunks:
                seen += len(chunk)
                if seen > most:
                    return


def _too_large(size: str, limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"The notebook is {size}; this server takes at most {limit / _MIB:g} MiB. Clear its outputs "
        "(Edit, Clear Outputs of All Cells), save it and check again.",
    )
