"""What the portal's process says when it cannot take up what an earlier one left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gradlab import service


def test_what_cannot_be_taken_up_again_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    """It happens in a thread of its own, where nobody else would hear of it."""

    def resume() -> int:
        raise OSError("the disk is gone")

    parts: Any = SimpleNamespace(checks=SimpleNamespace(resume=resume))
    service._begin(parts)
    [record] = caplog.records
    assert (record.name, record.levelname) == ("gradlab.service", "ERROR")
    assert record.getMessage() == "What an earlier run left could not be taken up again."
    assert "OSError: the disk is gone" in caplog.text
