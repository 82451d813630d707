"""The portal's pages as a test reads them, and text that must never become part of one."""

from __future__ import annotations

import html
import re

from tests.portals import Running

__all__ = ["HOSTILE", "source", "words"]

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> ' \" & {{ 7 * 7 }} `<b>code</b>`"


def source(portal: Running, learner: str, path: str = "") -> str:
    with portal.client(learner) as client:
        answer = client.get(path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return answer.text


def words(text: str) -> str:
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))
