"""The page of the paper's claims: numbers, verdicts that follow from them, what is missing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from _book import BUILD, ROOT, built_book, claims, stage_book
from _book import run_notebooks as runner

BASELINES = "the paper's baselines"


def scores(**values: float) -> dict[str, list[float]]:
    return {name: [value, 0.01] for name, value in values.items()}


def figure(better: float) -> dict[str, Any]:
    """Results of notebook 07 or 08 in which 3DML-ResNet is ahead by `better`."""
    bubbles = {
        way: scores(
            jaccard_near=j,
            recall_far=j,
            rms_px=0.2,
            false_tracks=0.02,
            count_bias=0.1,
            count_error=0.2,
        )
        for way, j in (
            ("rs", 0.5),
            ("weighted", 0.45),
            ("classical", 0.55),
            ("mspcn", 0.5),
            ("mspcn_paper", 0.5),
            ("ml3d", 0.5 + better),
        )
    }
    bubbles["ml3d_true_count"] = scores(jaccard_near=0.5 + better)
    maps = {way: scores(false=0.2, length=0.97) for way in ("rs", "mspcn", "ml3d")}
    ranks = [
        {
            "score": recipe,
            "against": BASELINES,
            "ours": 1.0,
            "rival": 0.9,
            "which": "RS",
            "ahead": 100 * better,
        }
        | {"ratio": 1 - better, "paper_ahead": 7.0, "paper_ratio": 0.94}
        for recipe in ("SSIM, range max(truth) [%]", "RMSE [tracks per map pixel]")
    ]
    return {"bubbles": bubbles, "maps": maps, "ranks": ranks}


RESULTS: dict[str, Any] = {
    "figure3_table1_insilico": figure(0.1),
    "figure4_table2_cam": figure(-0.1),
}


def verdicts(results: dict[str, Any]) -> dict[str, str]:
    return {
        row[1] + row[0]: row[3].strip("*")
        for part in claims.claim_rows(results).values()
        for row in part
    }


def test_verdicts_follow_from_the_numbers() -> None:
    said = verdicts(RESULTS)
    assert said["Better SSIM and RMSE than RS and mSPCN.III-A, Table I"] == "reproduced"
    assert said["By the margins of Table I.III-A, Table I"] == "reproduced"
    assert said["Better SSIM and RMSE than RS and mSPCN.III-A, Table II"] == "not reproduced"
    assert said["At least as good as the state of the art.IV"] == "partly"
    assert said["mSPCN fails to show the whole structure.III-A, Fig. 3"] == "not reproduced"
    assert said["It alone is free of straight false tracks.III-A, Fig. 3"] == "partly"
    assert (
        said["The weighted average is always slightly worse than radial symmetry.III"]
        == "reproduced"
    )


def test_verdict_turns_with_its_number() -> None:
    changed = copy.deepcopy(RESULTS)
    changed["figure3_table1_insilico"]["ranks"][1]["ahead"] = -0.1
    assert verdicts(changed)["Better SSIM and RMSE than RS and mSPCN.III-A, Table I"] == "partly"


def test_numbers_stand_in_the_sentences() -> None:
    rows = {row[1]: row for row in claims.claim_rows(RESULTS)["In silico"]}
    assert rows["By the margins of Table I."][2] == (
        "SSIM ahead by 10.0 points (paper 7.0), RMSE times 0.90 (paper 0.94)"
    )
    assert (
        rows["RS shows the whole structure, with some noise."][2]
        == "length shown: RS 97 %, 3DML-ResNet 97 %"
    )


@pytest.mark.parametrize("hole", [None, [None, None]])
def test_what_is_missing_is_not_testable(hole: object) -> None:
    assert set(verdicts({}).values()) == {"not testable here"}
    changed = copy.deepcopy(RESULTS)
    changed["figure3_table1_insilico"]["maps"]["rs"]["length"] = hole
    assert (
        verdicts(changed)["mSPCN fails to show the whole structure.III-A, Fig. 3"]
        == "not testable here"
    )


def test_page_counts_its_verdicts_and_links_only_what_is_there() -> None:
    text = claims.claims_text(RESULTS, stage_book.markdown_table)
    assert f"Of {len(verdicts(RESULTS))} claims in this edition: " in text
    assert "[07](notebooks/07_figure3_table1_insilico.ipynb)" in text
    assert "notebooks/10_costs" not in text


@pytest.mark.notebook
def test_notebooks_have_the_numbers_of_all_claims() -> None:
    """In the profile smoke, generated data; notebooks that are not in the plan are passed over."""
    built_book()
    here = {notebook.name for notebook in runner.read_plan(ROOT, "smoke", build=BUILD)}
    page = Path(ROOT / BUILD / "book" / "claims.md").read_text(encoding="utf-8")
    rows = [
        line for line in page.splitlines() if line.startswith("|") and "no such numbers" in line
    ]
    assert [
        row
        for row in rows
        if any(f"| {name[:2]} " in row or f"[{name[:2]}]" in row for name in here)
    ] == []
