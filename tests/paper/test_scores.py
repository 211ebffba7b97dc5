"""Scores with intervals: draws done slowly by hand, known maps, tables and rankings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from ulmpaper.config import load_config
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.metrics.coverage import score_lines
from ulmpaper.metrics.maps import score_image
from ulmpaper.paper.experiment import Comparison, Method, compare
from ulmpaper.paper.scores import BLACK, TRUTH, Scores, _draw_groups
from ulmpaper.paper.tables import MAP_SCORES, ranking, sentences, table2
from ulmpaper.simulator.phantom import phantom_centreline

CFG = load_config("smoke")
METHODS = {"RS": Method("radial", 8), "again": Method("radial", 8), "few": Method("radial", 3)}


@pytest.fixture(scope="module")
def made() -> Comparison:
    block = simulate_testcard(
        n_frames=80, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(3)
    )
    return compare([block], METHODS, CFG, span=20)


@pytest.fixture(scope="module")
def maps(made: Comparison) -> Scores:
    return made.map_scores(rng=np.random.default_rng(1), n_draws=4, centreline=phantom_centreline())


def test_draws_are_those_done_by_hand(made: Comparison) -> None:
    scores = made.bubble_scores(rng=np.random.default_rng(5), n_draws=7)
    picks = np.random.default_rng(5).integers(4, size=(7, 4))
    for i, way in enumerate(made.methods):
        table = made.sums[way]
        for k, pick in enumerate(picks):
            s = table.iloc[pick].sum()
            expected = {
                "precision_near": s.hits_near / s.n_found,
                "recall_far": s.hits_far / s.n_true,
                "jaccard_near": s.hits_near / (s.n_found + s.n_true - s.hits_near),
                "rms_px": np.sqrt(s.squared_error / s.hits_far),
                "count_error": s.count_error / s.n_true,
            }
            for name, value in expected.items():
                assert scores.drawn[k, i, list(scores.values).index(name)] == pytest.approx(value)
    half = 1.959964 * scores.drawn.std(axis=0, ddof=1)
    np.testing.assert_allclose(scores.half_widths().to_numpy(), half, equal_nan=True)


def test_fewer_peaks_find_less(made: Comparison) -> None:
    values = made.bubble_scores(rng=np.random.default_rng(0), n_draws=0).values
    assert values.recall_far["few"] < values.recall_far["RS"]
    assert values.count_bias["few"] == pytest.approx(-5 / 8, abs=0.05)


def test_map_draws_are_those_done_by_hand(made: Comparison, maps: Scores) -> None:
    weights = _draw_groups(4, 4, rng=np.random.default_rng(1))
    for k, w in enumerate(weights):
        truth, estimate = (made.density(way, weights=w) for way in (TRUTH, "few"))
        expected = {**score_image(estimate, truth), **score_lines(estimate, truth)}
        for name, value in expected.items():
            assert maps.drawn[k, 2, list(maps.values).index(name)] == pytest.approx(
                value, nan_ok=True
            )


def test_truth_and_nothing_frame_the_others(made: Comparison, maps: Scores) -> None:
    truth, black = maps.values.loc[TRUTH], maps.values.loc[BLACK]
    assert (truth.ssim_max, truth.rmse, truth.covered, truth.false, truth.length) == (1, 0, 1, 0, 1)
    assert black.rmse == pytest.approx(np.sqrt(np.mean(made.density(TRUTH) ** 2)))
    assert (black.covered, black.length) == (0, 0)
    assert np.isnan(black.false)
    assert list(maps.values.index) == ["RS", "again", "few", BLACK, TRUTH]


def test_equal_ways_do_not_differ(maps: Scores) -> None:
    same = maps.difference("RS", "again")
    np.testing.assert_array_equal(same.drop("gain").to_numpy(), 0)
    other = maps.difference("few", "RS").loc["covered"]
    assert other.low < other.value < other.high
    assert other.value == pytest.approx(maps.values.covered["few"] - maps.values.covered["RS"])


def test_scores_go_through_json_and_text(maps: Scores) -> None:
    back = json.loads(json.dumps(maps.as_dict(), allow_nan=False))
    assert back[BLACK]["false"] == [None, None]
    assert back["RS"]["rmse"][0] == pytest.approx(maps.values.rmse["RS"], abs=1e-4)
    text = maps.text(2)
    assert text.loc[BLACK, "false"] == ""
    assert " ± " in text.loc["RS", "rmse"]


def test_single_group_has_no_interval(made: Comparison) -> None:
    block = simulate_testcard(
        n_frames=20, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(3)
    )
    one = compare([block], METHODS, CFG).bubble_scores(rng=np.random.default_rng(0))
    assert one.half_widths().isna().all(axis=None)
    assert "±" not in one.text().loc["RS", "recall_far"]
    assert one.difference("RS", "few")["low"].isna().all()


# --- tables
# ---  ------------------------------------------------------------------------------------------


def scores(n_draws: int = 0) -> Scores:
    """Three ways, of which 3DML-ResNet leads in SSIM and loses in RMSE."""
    rows = {"RS": (0.90, 5.0), "mSPCN": (0.88, 4.5), "3DML-ResNet": (0.95, 5.5), BLACK: (0.5, 6.0)}
    values = pd.DataFrame({"ssim_max": [a for a, _ in rows.values()]}, index=list(rows))
    values = values.assign(
        ssim_1=values.ssim_max - 0.1, ssim_rfulm=values.ssim_max, rmse=[b for _, b in rows.values()]
    )
    noise = np.random.default_rng(0).normal(0, 0.001, (n_draws, *values.shape))
    return Scores(values, values.to_numpy() + noise)


def test_tables_stand_beside_the_paper() -> None:
    table = table2(scores().values)
    ssim = table.loc["SSIM, range max(truth) [%]"]
    assert ssim.loc["3DML-ResNet"].round(2).tolist() == [95.0, 54.43, 40.57]
    assert table.loc[("RMSE [tracks per map pixel]", "mSPCN")].round(3).tolist() == [
        4.5,
        2.892,
        1.608,
    ]
    assert ssim.index.tolist()[-1] == BLACK
    assert np.isnan(ssim.paper[BLACK])
    assert table.index.unique("score").tolist() == [name for name, _ in MAP_SCORES.values()]


def test_ranking_takes_the_best_rival_of_each_recipe() -> None:
    rivals = {"the baselines": ["RS", "mSPCN"], BLACK: [BLACK]}
    ranks = ranking(scores(50), "Table I", rivals)
    ssim = ranks.loc[("SSIM, range max(truth) [%]", "the baselines")]
    assert (ssim.which, round(ssim.ahead, 6), round(ssim.paper_ahead, 2)) == ("RS", 5.0, 7.03)
    assert ssim.low < 5 < ssim.high
    rmse = ranks.loc[("RMSE [tracks per map pixel]", "the baselines")]
    assert (rmse.which, rmse.ahead, round(rmse.paper_ahead, 3)) == ("mSPCN", -1.0, 0.427)
    assert rmse.low < rmse.ahead < rmse.high
    assert rmse.ratio == pytest.approx(5.5 / 4.5)
    assert rmse.paper_ratio == pytest.approx(6.616 / 7.043)
    said = sentences(ranks)
    assert "is ahead of the best of the baselines, RS (90), by 5 (" in said[0]
    assert said[0].endswith("; in the paper by 7.03.")
    assert "is ahead of the black map (50), by 45 (" in said[1]
    assert "in the paper" not in said[1]
    assert "is behind the best of the baselines, mSPCN (4.5), by 1 (" in said[6]


def test_doubt_is_said() -> None:
    row = {
        "ours": 5.0,
        "rival": 4.0,
        "which": "RS",
        "ahead": 1.0,
        "low": -1.0,
        "high": 3.0,
        "paper_ahead": 2.0,
    }
    index = pd.MultiIndex.from_tuples([("SSIM", "all")])
    assert "by 1 (-1 to 3, so it may be chance)" in sentences(pd.DataFrame([row], index=index))[0]
    behind = {**row, "ours": 3.0, "ahead": -1.0, "low": -3.0, "high": 1.0}
    said = sentences(pd.DataFrame([behind], index=index))[0]
    assert "behind the best of all, RS (4), by 1 (-1 to 3, so it may be chance)" in said
    bare = {**row, "low": np.nan, "high": np.nan, "paper_ahead": np.nan}
    assert sentences(pd.DataFrame([bare], index=index))[0].endswith("by 1.")


def test_draws_hold_as_many_groups_as_there_are() -> None:
    weights = _draw_groups(6, 40, rng=np.random.default_rng(0))
    assert (weights.sum(axis=1) == 6).all()
    assert weights.min() == 0
    assert _draw_groups(1, 40, rng=np.random.default_rng(0)).shape == (0, 1)
