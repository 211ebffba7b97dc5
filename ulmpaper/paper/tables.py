"""Tables I and II: scores of density maps beside the paper's, and who leads by how much.

The paper does not say how SSIM and RMSE were computed: each way of computing them has rows of its
own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ulmpaper.core.records import check_choice
from ulmpaper.paper.scores import BLACK, Scores

_PAPER_SIZED = Path(__file__).parent / "results"
RS = "RS"
MSPCN = "mSPCN"
ML3D = "3DML-ResNet"
# SSIM [%] and RMSE as printed in the paper.
PAPER = {
    "Table I": {RS: (84.37, 7.043), MSPCN: (84.14, 9.440), ML3D: (91.40, 6.616)},
    "Table II": {RS: (40.34, 2.009), MSPCN: (42.02, 2.892), ML3D: (54.43, 1.764)},
}
# Score of `maps.score_image`: its name in the tables, and the factor to the paper's unit.
MAP_SCORES = {
    "ssim_max": ("SSIM, range max(truth) [%]", 100.0),
    "ssim_1": ("SSIM, range 1 [%]", 100.0),
    "ssim_rfulm": ("SSIM, as RF-ULM [%]", 100.0),
    "rmse": ("RMSE [tracks per map pixel]", 1.0),
}


def table1(scores: pd.DataFrame) -> pd.DataFrame:
    """Set scores of in silico maps beside Table I.

    Parameters
    ----------
    scores : DataFrame
        A row for each method, with the columns of `maps.score_image`. Rows called ``RS``, ``mSPCN``
        and ``3DML-ResNet`` meet the paper's; all others have none.

    Returns
    -------
    DataFrame
        Rows by score and method, the black map last; columns ``ours``, ``paper`` and their
        ``difference``.

    Examples
    --------
    >>> row = {"ssim_max": 0.9, "ssim_1": 0.8, "ssim_rfulm": 0.7, "rmse": 6.0}
    >>> scores = pd.DataFrame(row, index=["RS"])
    >>> table1(scores).round(2).iloc[[0, 3]].values.tolist()
    [[90.0, 84.37, 5.63], [6.0, 7.04, -1.04]]
    """
    return _beside(scores, "Table I")


def table2(scores: pd.DataFrame) -> pd.DataFrame:
    """Set scores of CAM maps beside Table II; see `table1`."""
    return _beside(scores, "Table II")


def ranking(
    scores: Scores,
    table: str,
    rivals: Mapping[str, Sequence[str]],
    *,
    ours: str = ML3D,
    names: Sequence[str] = (),
) -> pd.DataFrame:
    """Measure how far one method is ahead of the best of others, in each score.

    Parameters
    ----------
    scores : Scores
        As from `Comparison.map_scores`.
    table : {"Table I", "Table II"}
        The paper's table to set beside.
    rivals : mapping of str to sequence of str
        Groups of methods by the group's name; of each the best counts, score by score.
    ours : str
        The method that is compared.
    names : sequence of str
        Some of `MAP_SCORES`; by default all.

    Returns
    -------
    DataFrame
        Rows by score and group: ``ours, rival``, the scores, and ``which`` rival; ``ahead``, by
        how much ours is better, with its 95 % interval ``low, high``; ``ratio``, ours over the
        rival's; ``paper_ahead, paper_ratio``, of the paper's network to the better of its two
        baselines, where these are among the group.
    """
    printed = PAPER[table]
    rows = []
    index = []
    for kind in names or MAP_SCORES:
        name, factor = MAP_SCORES[kind]
        sign = -1 if kind == "rmse" else 1
        column = int(kind == "rmse")
        their = max((printed[RS][column], printed[MSPCN][column]), key=lambda value: sign * value)
        for group, methods in rivals.items():
            values = scores.values.loc[list(methods), kind]
            if values.isna().all():
                continue
            which = str((sign * values).idxmax())
            known = {RS, MSPCN} <= set(methods)
            gap = sign * factor * scores.difference(ours, which).loc[kind]
            mine = factor * float(scores.values[kind][ours])
            best = factor * float(values[which])
            rows.append(
                {
                    "ours": mine,
                    "rival": best,
                    "which": which,
                    "ahead": gap["value"],
                    "low": np.minimum(gap["low"], gap["high"]),
                    "high": np.maximum(gap["low"], gap["high"]),
                    "ratio": mine / best if best else np.nan,
                    "paper_ahead": sign * (printed[ML3D][column] - their) if known else np.nan,
                    "paper_ratio": printed[ML3D][column] / their if known else np.nan,
                }
            )
            index.append((name, group))
    return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(index, names=["score", "against"]))


def sentences(ranks: pd.DataFrame, *, ours: str = ML3D) -> list[str]:
    """Put each row of a `ranking` into words.

    Examples
    --------
    >>> row = {"ours": 91.0, "rival": 88.0, "which": "RS", "ahead": 3.0, "low": 1.0}
    >>> row |= {"high": 5.0, "paper_ahead": 7.03}
    >>> print(sentences(pd.DataFrame([row], index=[("SSIM [%]", "the baselines")]))[0])
    SSIM [%]: 3DML-ResNet (91) is ahead of the best of the baselines, RS (88), by 3 (1 to 5); ...
    """
    texts = []
    for (kind, group), (_, row) in zip(ranks.index, ranks.iterrows(), strict=True):
        place = "ahead of" if row["ahead"] > 0 else "behind"
        alone = f"the {group}" if group == BLACK else group
        rival = alone if row["which"] == group else f"the best of {group}, {row['which']}"
        # Both bounds of the lead, or of the lag, as positive numbers where they are certain.
        low, high = sorted(np.sign(row["ahead"] or 1) * row[["low", "high"]].to_numpy(float))
        text = f"{kind}: {ours} ({row['ours']:.4g}) is {place} {rival} ({row['rival']:.4g})"
        text += f", by {abs(row['ahead']):.3g}"
        if np.isfinite(low):
            text += f" ({low:.3g} to {high:.3g}{', so it may be chance' if low <= 0 else ''})"
        paper = row["paper_ahead"]
        texts.append(text + ("." if np.isnan(paper) else f"; in the paper by {paper:.3g}."))
    return texts


def paper_sized(name: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what was measured once of the network of the paper's size; see ``data/score_paper.py``.

    Parameters
    ----------
    name : {"table1", "table2", "crowds", "benchmark"}
        Scores on the frames of chapters 7 and 8 in the profile quick, on the paper's simulator by
        number of bubbles, or speeds.

    Returns
    -------
    table : DataFrame
        Rows by the first column of the file.
    about : dict
        ``date``, ``revision`` of this package and ``hardware``; for scores the ``stride`` and the
        digest of the training of the ``weights``.

    Examples
    --------
    >>> paper_sized("crowds")[0].index.tolist()
    ['20', '60', '120', '200', 'together']
    """
    about = json.loads((_PAPER_SIZED / "about.json").read_text(encoding="utf-8"))
    check_choice(name, about, "table")
    return pd.read_csv(
        _PAPER_SIZED / f"{name}.csv", index_col=0, keep_default_na=name != "benchmark"
    ), about[name]


def _beside(scores: pd.DataFrame, table: str) -> pd.DataFrame:
    order = [method for method in scores.index if method not in (BLACK, "truth")] + [BLACK] * (
        BLACK in scores.index
    )
    parts = {}
    for column, (kind, (name, factor)) in zip((0, 0, 0, 1), MAP_SCORES.items(), strict=True):
        part = pd.DataFrame({"ours": factor * scores.loc[order, kind]})
        printed = {method: numbers[column] for method, numbers in PAPER[table].items()}
        part["paper"] = [printed.get(method, np.nan) for method in order]
        part["difference"] = part["ours"] - part["paper"]
        parts[name] = part
    return pd.concat(parts, names=["score", "method"])
