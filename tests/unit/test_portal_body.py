"""A request's body, as it comes: piece by piece, too much of it, or not to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from fastapi import HTTPException, Request

from gradlab.portal.body import read_notebook_body

LIMIT = 1 << 20
END: dict[str, Any] = {"type": "http.request", "body": b"", "more_body": False}


def piece(size: int) -> dict[str, Any]:
    return {"type": "http.request", "body": b"x" * size, "more_body": True}


def read(*messages: dict[str, Any], length: int | None = None) -> bytes:
    """What becomes of a request of which the server gets these messages; ``length`` is what it announced."""
    headers: Sequence[tuple[bytes, bytes]] = [] if length is None else [(b"content-length", b"%d" % length)]
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    return asyncio.run(read_notebook_body(Request({"type": "http", "headers": headers}, receive), LIMIT))


@pytest.mark.parametrize("length", [None, LIMIT])
def test_a_body_of_just_the_limit_is_taken_whole(length: int | None) -> None:
    assert len(read(piece(LIMIT - 1), piece(1), END, length=length)) == LIMIT
    assert read(END) == b""


@pytest.mark.parametrize(
    ("messages", "length", "size"),
    [
        ([piece(LIMIT), piece(1), END], None, "more than 1 MiB"),
        ([piece(LIMIT), piece(1), END], 5, "more than 1 MiB"),  # it announced less
        ([piece(3 << 19), END], 3 << 19, "1.5 MiB"),
    ],
)
def test_too_much_is_refused_with_size_and_limit(messages: list[dict[str, Any]], length: int | None, size: str) -> None:
    with pytest.raises(HTTPException) as caught:
        read(*messages, length=length)
    assert (caught.value.status_code, caught.value.detail) == (
        413,
        f"The notebook is {size}; this server takes at most 1 MiB. Clear its outputs (Edit, Clear Outputs of All "
        "Cells), save it and check again.",
    )


def test_a_body_that_breaks_off_is_no_shorter_notebook() -> None:
    with pytest.raises(HTTPException) as caught:
        read(piece(100), {"type": "http.disconnect"}, length=200)
    assert (caught.value.status_code, caught.value.detail) == (
        400,
        "The notebook did not arrive whole: the connection broke off. Check again.",
    )
