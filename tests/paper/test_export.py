"""Figures and tables as files, and their collection from the notebooks' folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from _book import ROOT, collect_figures
from _book import run_notebooks as runner
from PIL import Image

from ulmpaper.paper.export import _latex, export_figure, export_table
from ulmpaper.plots import plot_map

TABLE = pd.DataFrame(
    {("ours", "SSIM [%]"): [91.25, np.nan], ("paper", "RMSE"): [6.616, 7.0]},
    index=pd.MultiIndex.from_tuples(
        [("Table I", "RS"), ("Table I", "R&S")], names=["table", "method"]
    ),
)


def test_figure_is_written_twice_and_always_alike(tmp_path: Path) -> None:
    figure = plot_map(np.eye(40), "density", px_mm=0.1)
    paths = export_figure(figure, tmp_path, "figure9")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "export/figure9.pdf",
        "export/figure9.png",
    ]
    assert paths[0].read_bytes().startswith(b"%PDF")
    with Image.open(paths[1]) as picture:
        assert min(picture.size) > 300
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in export_figure(figure, tmp_path, "figure9")] == before


def test_table_comes_back_from_its_csv(tmp_path: Path) -> None:
    csv, tex = export_table(TABLE, tmp_path, "table9")
    back = pd.read_csv(csv, index_col=[0, 1], header=[0, 1])
    pd.testing.assert_frame_equal(back, TABLE, check_names=False)
    assert tex.read_text() == _latex(TABLE)


def test_latex_escapes_leaves_out_and_aligns() -> None:
    lines = _latex(TABLE, digits=2).splitlines()
    assert lines[0] == r"\begin{tabular}{llrr}"
    assert lines[2:5] == [
        r" &  & ours & paper \\",
        r" &  & SSIM [\%] & RMSE \\",
        r"table & method &  &  \\",
    ]
    assert lines[6:8] == [r"Table I & RS & 91.25 & 6.62 \\", r" & R\&S &  & 7.00 \\"]


def project(root: Path, *exported: str) -> Path:
    """Results of the first notebooks of the plan, each with one exported file."""
    plan = runner.read_plan(ROOT, "smoke", build=str(root))
    for notebook, name in zip(plan, exported, strict=False):
        folder = root / notebook.results.relative_to(root) / "export"
        folder.mkdir(parents=True)
        (folder / name).write_text(notebook.name)
    return root


def test_nothing_exported_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert collect_figures.main(["smoke", "--build", str(tmp_path / "build")]) == 1
    assert "run `make notebooks` first" in capsys.readouterr().out
