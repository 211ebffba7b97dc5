"""What chapters 7 and 8 share: the settings they try, the methods of both tables, and panels.

Both chapters run one test on two kinds of frames::

    settings_to_try  --compare on validation data-->  best_settings  -->  table_methods
    table_methods    --compare on test data-->  map_panels, plot_scores, scores_beside_paper
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.config import METHODS
from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_positive
from ulmpaper.paper.experiment import Comparison, Method, number_grid, threshold_grid
from ulmpaper.paper.scores import BLACK, TRUTH, Scores
from ulmpaper.paper.tables import MAP_SCORES, ML3D, MSPCN, PAPER, RS, paper_sized

with optional("plot"):
    from matplotlib.figure import Figure

_PALA_N_BUBBLES = 40  # peaks that PALA's scripts take of each frame
RS_PALA = f"{RS}, {_PALA_N_BUBBLES} bubbles"
_WEIGHTED = "weighted average"
_MSPCN_PIXELS = f"{MSPCN}, fine pixels"
_ML3D_TRUE = f"{ML3D}, true count"
_LABELS = {"parabola": "log-parabola", "gaussian": "Gaussian fit"}
_OURS = "#d55e00"
_OTHERS = "#0072b2"


def settings_to_try(
    *, n_bubbles: Iterable[int] = (20, 30, 40, 50, 60, 80), shares: Iterable[float]
) -> dict[str, Method]:
    """List the settings of all methods to choose from on validation data.

    Parameters
    ----------
    n_bubbles : iterable of int
        Numbers of peaks for the classical methods.
    shares : iterable of float
        Thresholds for the classical methods, as share of the highest value of all frames.

    Returns
    -------
    dict of str to Method
        Both rules for each classical method; mSPCN at 16 thresholds, 3DML-ResNet at nine.

    Examples
    --------
    >>> grid = settings_to_try(n_bubbles=[20, 40], shares=[0.1])
    >>> len(grid), list(grid)[-1]
    (49, 'ml3d, > 0.8')
    """
    classical = number_grid(METHODS, n_bubbles=list(n_bubbles), shares=list(shares))
    heights = threshold_grid(np.geomspace(0.3, 40, 16))
    probabilities = threshold_grid((0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), method="ml3d")
    return {**classical, **heights, **probabilities}


def classical_label(best: Mapping[str, str]) -> str:
    """Name the best classical method beside radial symmetry and the weighted average.

    Parameters
    ----------
    best : mapping of str to str
        Best setting of each method, as from `ulmpaper.paper.best_settings`.

    Examples
    --------
    >>> classical_label({"ml3d": "ml3d, > 0.2", "radial": "radial, > 0.1", "parabola": "parabola"})
    'log-parabola'
    """
    other = _other_classical(best)
    return _LABELS.get(other, other)


def table_methods(grid: Mapping[str, Method], best: Mapping[str, str]) -> dict[str, Method]:
    """List the methods that Tables I and II share, each with its best setting.

    Parameters
    ----------
    grid : mapping of str to Method
        All settings by name, as from `settings_to_try`.
    best : mapping of str to str
        Name of the best setting of each method, as from `ulmpaper.paper.best_settings`.

    Returns
    -------
    dict of str to Method
        RS, RS with PALA's number of bubbles, the weighted average, the best other classical
        method, mSPCN, 3DML-ResNet with the predicted count, mSPCN read out at the centres of fine
        pixels, and 3DML-ResNet with the true count and no threshold.
    """
    return {
        RS: grid[best["radial"]],
        RS_PALA: Method("radial", _PALA_N_BUBBLES),
        _WEIGHTED: grid[best["weighted"]],
        classical_label(best): grid[best[_other_classical(best)]],
        MSPCN: grid[best["mspcn"]],
        ML3D: grid[best["ml3d"]],
        _MSPCN_PIXELS: replace(grid[best["mspcn"]], centre_side=1),
        _ML3D_TRUE: Method("ml3d", "true", threshold=0.0),
    }


def table_rivals(classical: str, *more_baselines: str) -> dict[str, list[str]]:
    """Group the methods that 3DML-ResNet is ranked against, see `ulmpaper.paper.ranking`.

    Parameters
    ----------
    classical : str
        As from `classical_label`.
    *more_baselines : str
        Further methods that count as the paper's baselines.

    Examples
    --------
    >>> list(table_rivals("log-parabola"))
    ["the paper's baselines", 'the other classical methods', 'black map']
    """
    return {
        "the paper's baselines": [RS, RS_PALA, MSPCN, _MSPCN_PIXELS, *more_baselines],
        "the other classical methods": [_WEIGHTED, classical],
        BLACK: [BLACK],
    }


def map_panels(comparison: Comparison, classical: str) -> dict[str, NDArray[np.float64]]:
    """Density maps of Figs. 3 and 4 by title: the truth and five methods.

    Parameters
    ----------
    comparison : Comparison
        As from `ulmpaper.paper.compare`, with the methods of `table_methods`.
    classical : str
        As from `classical_label`.
    """
    titles = {
        TRUTH: "Truth",
        RS: "RS",
        _WEIGHTED: "Weighted average",
        classical: classical.capitalize(),
        MSPCN: "mSPCN",
        ML3D: "3DML-ResNet",
    }
    return {title: comparison.density(method) for method, title in titles.items()}


def plot_scores(
    scores: Scores, titles: Mapping[str, str], *, unit_interval: bool = False
) -> Figure:
    """Draw scores as dots with 95 % intervals: a panel for each score, a row for each method.

    Parameters
    ----------
    scores : Scores
        As from `Comparison.bubble_scores` or `Comparison.map_scores`.
    titles : mapping of str to str
        Title of the panel of each score.
    unit_interval : bool
        All axes go from 0 to 1.

    Returns
    -------
    Figure
        3DML-ResNet is orange, all others are blue; the black map and the truth are left out.
    """
    methods = [name for name in scores.values.index if name not in (BLACK, TRUTH)]
    colours = [_OURS if ML3D in name else _OTHERS for name in methods]
    half_widths = scores.half_widths()
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.subplots(1, len(titles), sharey=True)
    for ax, (score, title) in zip(axes, titles.items(), strict=True):
        values = scores.values.loc[methods, score]
        half = half_widths.loc[methods, score]
        ax.errorbar(values, methods, xerr=half, fmt="none", ecolor="0.5")
        ax.scatter(values, methods, c=colours, s=14, zorder=3)
        ax.set_title(title)
        if unit_interval:
            ax.set(xlim=(-0.03, 1.03), xticks=(0, 0.5, 1))
    axes[0].invert_yaxis()
    return figure


def plot_centrelines(
    lines: Mapping[str, pd.DataFrame],
    colours: Mapping[str, str],
    *,
    size_in: tuple[float, float] = (10, 5),
    marker: float = 4,
) -> Figure:
    """Draw the points of centrelines in the colours of their state, such as found or missed.

    Parameters
    ----------
    lines : mapping of str to DataFrame
        Points of each panel by its title, with the columns ``z, x`` [px] and ``state``.
    colours : mapping of str to str
        Colour of each state; also the order of drawing and of the legend.
    size_in : (float, float)
        Width and height [inch].
    marker : float
        Area of a point [pt²].

    Examples
    --------
    >>> points = pd.DataFrame({"z": [0, 1], "x": [0, 1], "state": ["found", "missed"]})
    >>> figure = plot_centrelines({"RS": points}, {"found": "blue", "missed": "red"})
    >>> figure.axes[0].get_title()
    'RS'
    """
    check_positive(width=size_in[0], height=size_in[1], marker=marker)
    if not lines:
        raise ValueError("lines hold no panel: at least one table of points is needed")
    for title, points in lines.items():
        if missing := {"z", "x", "state"} - set(points):
            raise ValueError(f"the table {title!r} lacks {', '.join(sorted(missing))}")
    figure = Figure(figsize=size_in, layout="constrained")
    axes = figure.subplots(1, len(lines), squeeze=False)[0]
    for ax, (title, points) in zip(axes, lines.items(), strict=True):
        for state, colour in colours.items():
            part = points[points["state"] == state]
            ax.scatter(part["x"], part["z"], s=marker, c=colour, label=state)
        ax.set(title=title, xticks=[], yticks=[], aspect="equal")
        ax.invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(colours), markerscale=3)
    return figure


def scores_beside_paper(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Set all recipes side by side, a row for each method, with the paper's numbers at the end.

    Parameters
    ----------
    table : DataFrame
        As from `ulmpaper.paper.table1` or `ulmpaper.paper.table2`.
    name : {"Table I", "Table II"}
        The paper's table.

    Returns
    -------
    DataFrame of str
        Empty where the paper has no number.
    """
    ours = table["ours"].unstack(0)[[title for title, _ in MAP_SCORES.values()]]
    ours = ours.loc[table.index.unique(1)]
    printed = pd.DataFrame(PAPER[name], index=["paper: SSIM [%]", "paper: RMSE"]).T
    return ours.join(printed).map("{:.4g}".format).replace("nan", "")


def paper_sized_rows(name: str, beside: pd.DataFrame | None = None) -> tuple[pd.DataFrame, str]:
    """Read the scores of the network of the paper's size, under rows of other methods.

    Parameters
    ----------
    name : {"table1", "table2"}
        See `ulmpaper.paper.paper_sized`.
    beside : DataFrame, optional
        Scores of other methods on the same frames.

    Returns
    -------
    rows : DataFrame
        Scores of bubbles and maps; rows of the paper's size begin with ``paper's size``.
    made_by : str
        Hardware, date and revision of the run.

    Examples
    --------
    >>> paper_sized_rows("table1")[0].index[0]
    "paper's size, predicted count"
    """
    larger, about = paper_sized(name)
    larger.index = [f"paper's size, {count}" for count in larger.index]
    columns = ["precision_near", "recall_near", "jaccard_near", "rms_px"]
    columns += ["false_tracks", "ssim_max", "rmse"]
    rows = larger if beside is None else pd.concat([beside, larger])
    made_by = f"{about['hardware']}, {about['date']}, revision {about['revision']}"
    return rows[columns], f"paper's size: {made_by}, stride {about['stride']}"


def table_results(
    bubbles: Scores, maps: Scores, ranks: pd.DataFrame, slugs: Mapping[str, str]
) -> dict[str, Any]:
    """Gather scores and ranks for results.json, methods by slug.

    Parameters
    ----------
    bubbles, maps : Scores
        As from `Comparison.bubble_scores` and `Comparison.map_scores`.
    ranks : DataFrame
        As from `ulmpaper.paper.ranking`.
    slugs : mapping of str to str
        Slug of each method, as from `table_slugs`.
    """
    results: dict[str, Any] = {}
    for kind, scores in (("bubbles", bubbles), ("maps", maps)):
        results[kind] = {slugs[name]: row for name, row in scores.as_dict().items()}
    results["names"] = {slugs[name]: name for name in maps.values.index}
    results["ranks"] = json.loads(ranks.reset_index().round(4).to_json(orient="records"))
    return results


def table_slugs(classical: str) -> dict[str, str]:
    """Give each method of `table_methods`, the black map and the truth a slug for results.json.

    Examples
    --------
    >>> table_slugs("log-parabola")["log-parabola"]
    'classical'
    """
    return {
        RS: "rs",
        RS_PALA: "rs_pala",
        _WEIGHTED: "weighted",
        classical: "classical",
        MSPCN: "mspcn",
        ML3D: "ml3d",
        _MSPCN_PIXELS: "mspcn_pixels",
        _ML3D_TRUE: "ml3d_true_count",
        BLACK: "black",
        TRUTH: "truth",
    }


def _other_classical(best: Mapping[str, str]) -> str:
    """The first of the best methods that is neither radial, weighted nor a network."""
    others = [m for m in best if m in METHODS and m not in ("radial", "weighted")]
    if not others:
        raise ValueError(f"no classical method but radial and weighted is among {list(best)}")
    return others[0]
