"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from ulmpaper.cli import main
from ulmpaper.core.records import Block
from ulmpaper.core.testcard import simulate_testcard

hypothesis.settings.register_profile(
    "any machine", deadline=None
)  # a busy one is no fault of the code
hypothesis.settings.load_profile("any machine")
ROOT = Path(__file__).parents[1]
READS_BOOK = {"test_browser", "test_claims", "test_results", "test_run_it"}


def folder_from_environment(variable: str, default: str) -> Path:
    """Folder named by an environment variable; relative paths count from the repository's root."""
    return ROOT / os.environ.get(variable, default)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the book first, which one of two processes builds, and what reads it last."""
    items.sort(
        key=lambda item: (
            0 if item.path.stem == "test_book" else 2 if item.path.stem in READS_BOOK else 1
        )
    )


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
    return simulate_testcard(
        n_frames=80, n_bubbles=12, shape_px=(48, 60), rng=np.random.default_rng(7)
    )


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: exit code, standard output, standard error.

    Pictures are small: they would take most of the time of a short run.
    """

    def call(*arguments: object) -> tuple[int, str, str]:
        small = ["--dpi", "30"] if arguments[0] == "ulm" and "--dpi" not in arguments else []
        monkeypatch.setattr(sys, "argv", ["ulmpaper", *map(str, arguments), *small])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads only get in each other's way where the work is small."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
