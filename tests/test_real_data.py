"""Notebook 09 on miniature files in the layouts of PALA's rat brain, from end to end."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import _pala_files as pala
import numpy as np
import papermill
import pytest
from _book import ROOT
from papermill.exceptions import PapermillExecutionError

from ulmpaper import scenes
from ulmpaper.config import load_config

NAME = "09_figure5_ratbrain"
SMALL = {"invivo.n_blocks": 2, "invivo.n_frames": 40, "invivo.shape_px": (64, 64), "invivo.n_bubbles": 25}


def run(tmp_path: Path, source: str = "pala") -> dict:
    """Execute the notebook there and return its results."""
    parameters = {"profile": "smoke", "source": source, "overrides": {"invivo.n_blocks": 2, "track.min_length": 5}}
    papermill.execute_notebook(
        ROOT / "notebooks" / f"{NAME}.ipynb",
        tmp_path / "out.ipynb",
        parameters={**parameters, "data_dir": str(tmp_path / "data"), "out_dir": str(tmp_path / "outputs")},
        cwd=tmp_path,
        progress_bar=False,
    )
    return json.loads(next((tmp_path / "outputs").rglob("results.json")).read_text())


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror and no network: the kidney is not to be had."""
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


def blocks() -> list[np.ndarray]:
    cfg = load_config("smoke", SMALL)
    scene = scenes.invivo_scene(cfg)
    return [scenes.invivo_block(cfg, number, scene).frames.transpose(1, 2, 0) for number in range(2)]


@pytest.mark.notebook
@pytest.mark.parametrize("layout", ["mat", "archive"])
def test_blocks_of_the_rat_brain_go_through(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "data" / "pala-ratbrain"
    folder.mkdir(parents=True)
    for number, iq in enumerate(blocks(), start=1):
        if layout == "mat":
            pala.write_ratbrain(folder, number, iq)
        else:
            pala.write_record(tmp_path / "loose", number, iq)
    if layout == "archive":
        inner = tmp_path / "loose" / "IQ_001_to_025"
        with zipfile.ZipFile(folder / "IQ_001_to_025.zip", "w") as archive:
            for path in inner.rglob("*.hdf5"):
                archive.write(path, path.relative_to(inner))
        (tmp_path / "loose" / "param.mat").rename(folder / "param.mat")
    results = run(tmp_path)
    assert (results["n_blocks"], results["n_frames"]) == (2, 80)
    assert results["source"].startswith("PALA rat brain")
    assert results["rs"]["points_in_tracks"] > 0
    assert results["verdict"]["less_precise"] == "not tested", "there is no truth"
    assert results["verdict"]["rs_least_gridding"] in ("reproduced", "not reproduced")


@pytest.mark.notebook
def test_missing_data_are_named_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(PapermillExecutionError, match=r"run `ulmpaper fetch pala-ratbrain`"):
        run(tmp_path)
