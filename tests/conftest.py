"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ulmpaper.example import example_block
from ulmpaper.records import Block

ROOT = Path(__file__).parents[1]


def folder_from_environment(variable: str, default: str) -> Path:
    """Folder named by an environment variable; relative paths count from the repository's root."""
    return ROOT / os.environ.get(variable, default)


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """PALA's own outputs on known input; skips where they are missing."""
    folder = folder_from_environment("ULMPAPER_ORACLE_DIR", "../shared/oracle")
    if not folder.is_dir():
        pytest.skip(f"PALA's outputs are not here: {folder} (set ULMPAPER_ORACLE_DIR)")
    return folder


@pytest.fixture(scope="session")
def data_mirror() -> Path:
    """Local copies of the real files; skips where they are missing."""
    folder = folder_from_environment("ULMPAPER_DATA_MIRROR", "../shared/real")
    if not folder.is_dir():
        pytest.skip(f"the real files are not here: {folder} (set ULMPAPER_DATA_MIRROR)")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240)


@pytest.fixture(scope="session")
def flow() -> Block:
    """A small generated flow with truth."""
    return example_block(n_frames=80, n_bubbles=12, shape_px=(48, 60), rng=np.random.default_rng(7))
