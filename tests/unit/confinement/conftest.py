"""The places that work on this machine."""

from __future__ import annotations

import pytest

from tests.conftest import Require
from tests.places import Place, places, why_not


@pytest.fixture(params=places("bubblewrap", "unshare", "plain"))
def place(request: pytest.FixtureRequest, require: Require) -> Place:
    """Every method and user."""
    require(request.param.method, why_not(request.param))
    place: Place = request.param
    return place


@pytest.fixture(params=places("bubblewrap", "unshare"))
def isolating(request: pytest.FixtureRequest, require: Require) -> Place:
    """Those that promise more than limits."""
    require(request.param.method, why_not(request.param))
    place: Place = request.param
    return place
