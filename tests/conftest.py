import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference outputs and real data, which are not part of the project."""
    place = os.environ.get("IBVIZ_SHARED")
    if not place:
        pytest.skip("IBVIZ_SHARED names no folder with reference data")
    return Path(place)
