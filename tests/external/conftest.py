"""Tests in this folder need data that does not ship with irverify; without it they are skipped, and say so."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with MNIST, public networks and the VNN-COMP benchmarks."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the external data in {SHARED_DATA}")
    return SHARED_DATA
