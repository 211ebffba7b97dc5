"""Blocks of PALA's rat brain, miniature, as one recording: processes, Dask, command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _pala_files import brain_blocks, write_ratbrain, write_record

from ulmpaper.config import load_config
from ulmpaper.io.readers import read_ratbrain
from ulmpaper.io.results import read_table
from ulmpaper.pipeline.recording import UlmResult, ulm

SETTINGS = {
    "filter.svd_low": 5,
    "filter.band_hz": "50,249",
    "locate.n_bubbles": 25,
    "locate.method": "radial",
    "track.min_length": 5,
}
CFG = load_config("smoke", SETTINGS)
SETS = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
N_BLOCKS = 3


@pytest.fixture(scope="module", params=["mat", "record"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Blocks as one of the two Zenodo records has them."""
    folder = tmp_path_factory.mktemp(request.param)
    write = write_ratbrain if request.param == "mat" else write_record
    return [write(folder, number, iq) for number, iq in enumerate(brain_blocks(N_BLOCKS), start=1)]


def alone(files: list[Path]) -> list[UlmResult]:
    return [ulm(read_ratbrain(path), CFG) for path in files]


def check(result: UlmResult, files: list[Path]) -> None:
    """Tables one behind the other, densities added up."""
    parts = alone(files)
    tracks = [part.tracks.assign(frame=part.tracks.frame + 40 * k) for k, part in enumerate(parts)]
    columns = ["frame", "z", "x", "score", "vz", "vx"]
    pd.testing.assert_frame_equal(
        result.tracks[columns], pd.concat(tracks, ignore_index=True)[columns]
    )
    assert result.tracks.track.nunique() == sum(part.tracks.track.nunique() for part in parts) > 10
    np.testing.assert_allclose(result.maps["density"], sum(part.maps["density"] for part in parts))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_files_are_one_recording(files: list[Path], n_jobs: int) -> None:
    check(ulm(map(read_ratbrain, files), CFG, n_jobs=n_jobs), files)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of two workers' scheduler."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0"
    ) as local:
        yield local.scheduler_address


def test_a_local_dask_cluster_gives_the_same(files: list[Path], cluster: str) -> None:
    check(ulm(map(read_ratbrain, files), CFG, n_jobs=2, scheduler=cluster), files)


def test_the_command_line_takes_them_all(
    run: Callable[..., tuple[int, str, str]], files: list[Path], cluster: str, tmp_path: Path
) -> None:
    expected = ulm(map(read_ratbrain, files), CFG)
    for name, how in (("here", []), ("cluster", ["--scheduler", cluster])):
        code, _, err = run("ulm", *files, "-o", tmp_path / name, "--profile", "smoke", *SETS, *how)
        assert code == 0
        assert "120 frames" in err
        assert "assumed" not in err, "the files state their scale"
        tracks = read_table(tmp_path / name / "tables.h5", "tracks")
        pd.testing.assert_frame_equal(tracks, expected.tracks, check_dtype=False)
        with np.load(tmp_path / name / "maps.npz") as maps:
            np.testing.assert_allclose(maps["density"], expected.maps["density"], rtol=1e-6)
        assert json.loads((tmp_path / name / "run.json").read_text())["input"] == [
            path.name for path in files
        ]


def test_files_of_different_scale_are_not_mixed(
    run: Callable[..., tuple[int, str, str]], files: list[Path], tmp_path: Path
) -> None:
    np.save(tmp_path / "bare.npy", np.ones((20, 64, 64), np.float32))
    code, _, err = run("ulm", files[0], tmp_path / "bare.npy", "-o", tmp_path / "out")
    assert code == 2
    assert "differ in their pixel pitch" in err
    assert not (tmp_path / "out").exists()
