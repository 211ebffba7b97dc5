"""Every notebook on miniature files in PALA's layouts, from end to end."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import _pala_files as pala
import nbformat
import papermill
import pytest
from _book import ROOT
from _book import run_notebooks as runner
from papermill.exceptions import PapermillExecutionError

pytestmark = pytest.mark.notebook
NAMES = list(runner.read_profiles(ROOT)["notebooks"])
BRAIN = "09_figure5_ratbrain"
# What a notebook says of PALA's data; the others say that they use none.
SAYS = {
    "03_data": "PALA in silico flow (PALA_InSilicoFlow_IQ001)",
    "05_train_ml3d": "PALA in silico flow (PALA_InSilicoFlow_IQ001)",
    "06_train_count_and_mspcn": "PALA in silico",
    "07_figure3_table1_insilico": "PALA in silico flow (PALA_InSilicoFlow_IQ001) and following",
    "08_figure4_table2_cam": "The paper's CAM frames were not published",
    BRAIN: "PALA rat brain (PALA_InVivoRatBrain_001)",
}
NONE = "Nothing on this page is made from PALA's sequences"


def run(
    name: str, data_dir: Path, out_dir: Path, overrides: dict | None = None
) -> tuple[dict, str]:
    """Execute a notebook on PALA's files; return its results and the text of its outputs."""
    parameters = {"profile": "smoke", "source": "pala", "overrides": overrides or {}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's sockets
        executed = papermill.execute_notebook(
            ROOT / "notebooks" / f"{name}.ipynb",
            out_dir / "executed.ipynb",
            parameters={**parameters, "data_dir": str(data_dir), "out_dir": str(out_dir)},
            cwd=out_dir,
            kernel_name="python3",
            progress_bar=False,
        )
    (path,) = out_dir.glob(f"smoke-*/{name}/results.json")
    return json.loads(path.read_text(encoding="utf-8")), shown(executed)


def shown(executed: nbformat.NotebookNode) -> str:
    outputs = [
        output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    return "\n".join(
        output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs
    )


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror and no network: what else can be fetched is not to be had."""
    monkeypatch.delenv("ULMPAPER_DATA_MIRROR", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pala.write_flow(folder)
    for number, iq in enumerate(pala.brain_blocks(), start=1):
        pala.write_ratbrain(folder / "pala-ratbrain", number, iq)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_notebook_runs_on_palas_files(name: str, data_dir: Path, tmp_path: Path) -> None:
    results, text = run(name, data_dir, tmp_path)
    assert results
    assert SAYS.get(name, NONE) in text
    assert "phantom, PyMUST" not in text
    assert not (data_dir / "cache").exists(), "no frame of the phantom is made"
    if name == "07_figure3_table1_insilico":
        assert results["n_frames"] == 32
        assert "length" not in results["maps"]["rs"], "the course of PALA's tubes is not published"
        assert results["bubbles"]["classical"]["recall_far"][0] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["mat", "archive"])
def test_blocks_of_the_rat_brain_go_through(tmp_path: Path, layout: str) -> None:
    folder = tmp_path / "data" / "pala-ratbrain"
    folder.mkdir(parents=True)
    for number, iq in enumerate(pala.brain_blocks(), start=1):
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
    results, _ = run(
        BRAIN, tmp_path / "data", tmp_path, {"invivo.n_blocks": 2, "track.min_length": 5}
    )
    assert (results["n_blocks"], results["n_frames"]) == (2, 80)
    assert results["source"].startswith("PALA rat brain")
    assert results["rs"]["points_in_tracks"] > 0
    assert results["verdict"]["less_precise"] == "not tested", "there is no truth"
    assert results["verdict"]["rs_least_gridding"] in ("reproduced", "not reproduced")


@pytest.mark.parametrize(
    ("name", "command"),
    [(BRAIN, "pala-ratbrain"), ("07_figure3_table1_insilico", "pala-insilico")],
)
def test_missing_data_are_named_with_the_command_that_fetches_them(
    tmp_path: Path, name: str, command: str
) -> None:
    with pytest.raises(PapermillExecutionError, match=f"run `ulmpaper fetch {command} --data-dir "):
        run(name, tmp_path / "sets", tmp_path)
