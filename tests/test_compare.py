"""Methods side by side: the same numbers as one by one, scores where truth is known, one figure."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.io.readers import open_frames
from ulmpaper.io.store import BlockStore
from ulmpaper.metrics.bubbles import score_bubbles
from ulmpaper.metrics.maps import score_maps
from ulmpaper.paper import Method, compare
from ulmpaper.pipeline import SideBySide, compare_methods, ulm

Run = Callable[..., tuple[int, str, str]]
NO_TRUTH = "Without truth none of these numbers says which method is right"

CFG = load_config("smoke", {"locate.n_bubbles": 12})
COLUMNS = ["frame", "z", "x", "score"]


@pytest.fixture(scope="module")
def made(flow: Block) -> SideBySide:
    return compare_methods(flow, "radial,parabola:9", CFG)


def test_numbers_are_those_of_each_method_alone(flow: Block, made: SideBySide) -> None:
    alone = ulm(flow, CFG, "parabola")
    few = ulm(flow, load_config("smoke", {"locate.n_bubbles": 9}), "parabola")
    row = made.table.loc["parabola:9"]
    assert row["bubbles"] == len(few.bubbles) < len(alone.bubbles)
    assert row["tracks"] == few.tracks["track"].nunique()
    assert row["in_tracks"] == pytest.approx(len(few.tracks) / len(few.bubbles))
    assert row["points"] == few.tracks.groupby("track").size().median()
    np.testing.assert_array_equal(made.densities["parabola:9"], few.maps["density"])
    scores = score_bubbles(few.bubbles, flow.truth)
    for name in ("jaccard_near", "jaccard_far", "precision_near", "recall_far"):
        assert row[name] == pytest.approx(scores[name])
    assert row["rms_px"] == pytest.approx(scores["rms"])
    maps = score_maps(few.maps["density"], made.densities["truth"])
    for name, score in {"ssim": "ssim_max", "rmse": "rmse", "covered": "covered"}.items():
        assert row[name] == pytest.approx(maps[score])


def test_the_true_map_is_that_of_the_papers_comparison(flow: Block, made: SideBySide) -> None:
    paper = compare([flow], {"RS": Method("radial", 12)}, CFG)
    np.testing.assert_allclose(made.densities["truth"], paper.density("truth"))
    np.testing.assert_allclose(made.densities["radial"], paper.density("RS"))


def test_settings_that_were_used_stand_in_the_table(made: SideBySide) -> None:
    assert made.table["n_bubbles"].tolist() == ["12", "9"]
    assert made.table["threshold"].tolist() == ["amplitude > 0"] * 2
    net = compare_methods(short(), ["mspcn", "ml3d:phantom"], "quick").table
    assert net["weights"].tolist() == ["shipped", "phantom"]
    assert net["n_bubbles"].tolist() == ["all", "predicted x 1.2"]
    assert net["threshold"].tolist() == ["height > 6.66", "probability > 0.55"]


def short() -> Block:
    return simulate_testcard(
        n_frames=20, n_bubbles=4, shape_px=(40, 48), rng=np.random.default_rng(3)
    )


def test_without_truth_it_says_that_no_number_tells_which_is_right(flow: Block) -> None:
    blind = compare_methods(Block(flow.frames, None, 0.1, 500.0), ["radial", "none"], CFG)
    assert not blind.has_truth
    assert list(blind.densities) == ["radial", "none"]
    assert "jaccard_near" not in blind.table
    assert NO_TRUTH in blind.text()
    assert blind.config.acquisition.px_mm == 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an array states no scale
        array = compare_methods(flow.frames, "radial,none", CFG)
    assert array.table["bubbles"].tolist() == blind.table["bubbles"].tolist()
    with pytest.raises(ValueError, match="no recording to compare on"):
        compare_methods([], "radial", CFG)


def test_truth_of_some_blocks_only_is_no_truth(flow: Block) -> None:
    blind = Block(flow.frames, None, flow.px_mm, flow.frame_rate_hz)
    assert not compare_methods([flow, blind], "none", CFG).has_truth
    both = compare_methods([flow, flow], "none", CFG)
    once = compare_methods(flow, "none", CFG)
    assert both.table.at["none", "bubbles"] == 2 * once.table.at["none", "bubbles"]
    assert both.table.at["none", "recall_far"] == once.table.at["none", "recall_far"]
    np.testing.assert_allclose(both.densities["truth"], 2 * once.densities["truth"])


@pytest.mark.parametrize("how", ["table", "store", "two files"])
def test_truth_comes_from_a_table_or_with_the_file(
    flow: Block, made: SideBySide, tmp_path: Path, how: str
) -> None:
    """In blocks and files of other lengths the bubbles, and so their scores, are the same."""
    table = flow.truth[COLUMNS]
    if how == "store":
        with BlockStore(tmp_path / "flow.h5", "w") as store:
            store.append(Block(flow.frames, table, flow.px_mm, flow.frame_rate_hz))
        got = compare_methods(tmp_path / "flow.h5", "radial", CFG)
    elif how == "table":
        np.save(tmp_path / "flow.npy", flow.frames)
        table.to_csv(tmp_path / "truth.csv", index=False)
        file = open_frames(tmp_path / "flow.npy", px_mm=0.1, frame_rate_hz=500)
        got = compare_methods(file, "radial", CFG, truth=tmp_path / "truth.csv")
    else:
        files = []
        for name, part in (("a", flow.frames[:50]), ("b", flow.frames[50:])):
            np.save(tmp_path / f"{name}.npy", part)
            files.append(open_frames(tmp_path / f"{name}.npy", px_mm=0.1, frame_rate_hz=500))
        got = compare_methods(files, "radial", CFG, truth=table)
    same = ["bubbles", "jaccard_near", "jaccard_far", "rms_px"]
    pd.testing.assert_series_equal(
        got.table.loc["radial", same], made.table.loc["radial", same], check_exact=False, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ("radial,parabloa", "unknown method 'parabloa': did you mean 'parabola'"),
        ("radial,radial", "method 'radial' is named twice"),
        ("RS,radial", "method 'radial' is named twice"),
        ("radial,,none", "methods are names parted by commas"),
        ("", "methods are names parted by commas"),
        ([], "name at least one method"),
        ("radial:many", "the number of bubbles a frame, such as parabola:60"),
        ("radial:0", "n_bubbles must be 1 or more, not 0"),
        ("ml3d:papr", "did you mean 'paper'"),
    ],
)
def test_methods_that_are_none(flow: Block, methods: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(message)):
        compare_methods(flow, methods, CFG)


def test_a_warning_names_the_methods_that_it_is_of(tmp_path: Path) -> None:
    wide = np.zeros((20, 64, 64), np.float32)
    z, x = np.mgrid[:64, :64]
    for number, (a, b) in enumerate(np.random.default_rng(0).uniform(16, 48, (20, 2))):
        wide[number] = np.exp(-((z - a) ** 2 + (x - b) ** 2) / 30)
    block = Block(wide, None, 0.1, 500.0)
    with pytest.warns(UserWarning, match=r"^mspcn: the frames are unlike those of the training"):
        compare_methods(block, "none,mspcn", "quick")


# --- command line ---------------------------------------------------------------------------------


@pytest.fixture
def files(flow: Block, tmp_path: Path) -> tuple[Path, Path]:
    np.save(tmp_path / "flow.npy", flow.frames)
    flow.truth[COLUMNS[:3]].to_csv(tmp_path / "truth.csv", index=False)
    return tmp_path / "flow.npy", tmp_path / "truth.csv"


SCALE = ("--set", "acquisition.px_mm=0.1", "--set", "acquisition.frame_rate_hz=500")
SMOKE = ("--profile", "smoke", "--set", "locate.n_bubbles=12", *SCALE)


def test_command_prints_a_table_and_writes_three_files(
    run: Run, files: tuple[Path, Path], tmp_path: Path, made: SideBySide
) -> None:
    frames, truth = files
    out = tmp_path / "out"
    words = ("compare", frames, "--methods", "radial, parabola:9", "-o", out, *SMOKE)
    code, printed, err = run(*words, "--truth", truth)
    assert code == 0, err
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.csv",
        "compare.json",
        "compare.png",
    ]
    table = pd.read_csv(out / "compare.csv", index_col="method")
    assert table.index.tolist() == ["radial", "parabola:9"]
    near = made.table["jaccard_near"]
    np.testing.assert_allclose(table["jaccard_near"], near, rtol=1e-5)
    assert f"{near['radial']:.3f}" in printed
    note = json.loads((out / "compare.json").read_text())
    assert note["methods"] == ["radial", "parabola:9"]
    assert (note["input"], note["truth"]) == (["flow.npy"], ["truth.csv"])
    assert note["config"]["acquisition"]["px_mm"] == 0.1
    before = (out / "compare.csv").read_bytes()
    assert run(*words, "--truth", truth)[0] == 0, "the same again"
    assert (out / "compare.csv").read_bytes() == before
    code, _, err = run(*words)  # without truth
    assert code == 2
    assert "of something else: choose another folder, or overwrite" in err
    assert (out / "compare.csv").read_bytes() == before
    code, printed, _ = run(*words, "--overwrite")
    assert code == 0
    assert NO_TRUTH in printed


def test_what_is_read_and_what_is_not_a_comparison_stays(
    run: Run, files: tuple[Path, Path], tmp_path: Path
) -> None:
    frames, truth = files
    out = tmp_path / "out"
    out.mkdir()
    truth.rename(out / "compare.csv")
    words = ("compare", frames, "--methods", "none", *SMOKE)
    code, _, err = run(*words, "-o", out, "--truth", out / "compare.csv", "--overwrite")
    assert code == 2
    assert "is read and would be replaced" in err
    code, _, err = run(*words, "-o", out)
    assert code == 2
    assert "holds compare.csv of something else" in err
    code, _, err = run(*words, "-o", frames)
    assert code == 2
    assert "is no folder" in err
    code, _, err = run(*words, "-o", tmp_path / "new", "--truth", tmp_path / "none.csv")
    assert code == 2
    assert not (tmp_path / "new").exists()


def test_figure_shows_maps_in_one_range_and_a_line_for_each_score(made: SideBySide) -> None:
    from ulmpaper.plots import plot_side_by_side

    scores = made.table[["jaccard_near", "recall_far"]]
    figure = plot_side_by_side(made.densities, scores, px_mm=0.1)
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in maps] == ["truth", "radial", "parabola:9"]
    assert len({(image.norm.vmin, image.norm.vmax) for ax in maps for image in ax.images}) == 1
    (dots,) = (ax for ax in figure.axes if ax.get_legend())
    assert [line.get_label() for line in dots.lines] == ["radial", "parabola:9"]
    np.testing.assert_allclose(dots.lines[0].get_xdata(), scores.loc["radial"])
