"""The tables of the page on the paper's claims: claim, what the notebooks measured, verdict.

Numbers come from the notebooks' results.json, and the verdicts follow from them by the rules below;
those of chapters 9 and 10 are computed there. A claim whose numbers are missing, because a notebook
or its data do not have them, is *not testable here*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

REPRODUCED, PARTLY, NOT, UNTESTED = "reproduced", "partly", "not reproduced", "not testable here"
FIG3, FIG4, FIG5 = "07_figure3_table1_insilico", "08_figure4_table2_cam", "09_figure5_ratbrain"
COSTS, TRAINING = "10_costs_and_limits", "05_train_ml3d"
_SSIM, _RMSE = "SSIM, range max(truth) [%]", "RMSE [tracks per map pixel]"


class MissingNumber(Exception):
    """A number that no notebook has."""


class Numbers:
    """Results of all notebooks, by dotted keys; of a value with its half interval the value."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self._results = results

    def __call__(self, key: str) -> Any:
        """Value of `key`, which begins with the name of the notebook without its number."""
        value: Any = self._results
        for part in key.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise MissingNumber(key)
            value = value[part]
        pair = isinstance(value, list) and len(value) == 2 and not isinstance(value[0], Mapping)
        value = value[0] if pair else value
        if value is None or value in ("not tested", ""):
            raise MissingNumber(key)
        return value

    def rank(self, notebook: str, recipe: str) -> dict[str, Any]:
        """How 3DML-ResNet stands against the paper's baselines in a recipe."""
        rows = self(f"{notebook}.ranks")
        found = [
            row
            for row in rows
            if row["score"] == recipe and row["against"] == "the paper's baselines"
        ]
        if not found or found[0]["ahead"] is None:
            raise MissingNumber(f"{notebook}.ranks")
        return found[0]


@dataclass(frozen=True)
class Claim:
    """What the paper says, in our words, and what to make of the numbers.

    `verdict` gives one of the four words, or whether the claim is reproduced.
    """

    where: str
    claim: str
    notebook: str
    measured: Callable[[Numbers], str]
    verdict: Callable[[Numbers], bool | str]


def _three(*tests: bool) -> str:
    """All, some or none."""
    return REPRODUCED if all(tests) else PARTLY if any(tests) else NOT


def _map(
    notebook: str, score: str, methods: Iterable[str], *, percent: bool = True
) -> Callable[[Numbers], str]:
    """Sentence with a score of several methods."""
    names = {
        "rs": "RS",
        "rs_pala": "RS, 40 bubbles",
        "mspcn": "mSPCN",
        "ml3d": "3DML-ResNet",
        "black": "black map",
    }
    names |= {
        "weighted": "weighted average",
        "classical": "best other classical",
        "ml3d_true_count": "true count",
    }
    names["mspcn_paper"] = "mSPCN, paper's training"

    def say(r: Numbers) -> str:
        values = {method: r(f"{notebook}.{score.replace('*', method)}") for method in methods}
        words = {
            method: f"{100 * v:.{int(0 < v < 0.095)}f} %" if percent else f"{v:.3g}"
            for method, v in values.items()
        }
        return ", ".join(f"{names[method]} {value}" for method, value in words.items())

    return say


def _ahead(r: Numbers, notebook: str) -> str:
    ssim, rmse = r.rank(notebook, _SSIM), r.rank(notebook, _RMSE)
    return (
        f"SSIM {ssim['ours']:.1f} % against {ssim['rival']:.1f} % of {ssim['which']}, "
        f"RMSE {rmse['ours']:.3g} against {rmse['rival']:.3g} of {rmse['which']}"
    )


def _margin(r: Numbers, notebook: str) -> str:
    ssim, rmse = r.rank(notebook, _SSIM), r.rank(notebook, _RMSE)
    return (
        f"SSIM ahead by {ssim['ahead']:.1f} points (paper {ssim['paper_ahead']:.1f}), "
        f"RMSE times {rmse['ratio']:.2f} (paper {rmse['paper_ratio']:.2f})"
    )


def _better(r: Numbers, notebook: str) -> str:
    return _three(r.rank(notebook, _SSIM)["ahead"] > 0, r.rank(notebook, _RMSE)["ahead"] > 0)


def _as_far(r: Numbers, notebook: str) -> str:
    ssim, rmse = r.rank(notebook, _SSIM), r.rank(notebook, _RMSE)
    return _three(ssim["ahead"] >= ssim["paper_ahead"], rmse["ratio"] <= rmse["paper_ratio"])


def _least(r: Numbers, key: str, method: str, others: Iterable[str]) -> bool:
    return r(key.replace("*", method)) <= min(r(key.replace("*", other)) for other in others)


def _costs_verdict(key: str) -> Callable[[Numbers], str]:
    return lambda r: r(f"costs_and_limits.verdict.{key}")


def _brain_verdict(key: str) -> Callable[[Numbers], str]:
    return lambda r: r(f"figure5_ratbrain.verdict.{key}")


_3, _4, _5, _10 = (name.partition("_")[2] for name in (FIG3, FIG4, FIG5, COSTS))
_6 = "train_count_and_mspcn.count"
_RIVALS = ("rs", "classical", "mspcn")
_BASE, _ALL = ("rs", "mspcn"), ("rs", "classical", "mspcn", "ml3d")

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "Speed and size": (
        Claim(
            "abstract, I",
            "Networks that put out fine images take longer than classical ULM.",
            COSTS,
            lambda r: (
                f"mSPCN x10 takes {r(f'{_10}.time.mspcn_over_rs'):,} times as long as RS "
                "on one core"
            ),
            _costs_verdict("networks_slower_than_classical"),
        ),
        Claim(
            "I",
            "Their time grows exponentially with the resolution factor.",
            COSTS,
            lambda r: (
                "time of mSPCN grows as the factor to the power "
                f"{r(f'{_10}.time.mspcn_exponent'):.2f}, its multiplications by "
                f"{r(f'{_10}.multiplications.mspcn_10_over_4'):.2f} from x4 to x10; "
                "only its output grows as the square"
            ),
            _costs_verdict("exponential"),
        ),
        Claim(
            "abstract, I",
            "The new network is scalable: its work does not depend on the resolution factor.",
            COSTS,
            lambda r: "three values for each pixel at any factor",
            _costs_verdict("scales"),
        ),
        Claim(
            "abstract, I",
            "It is faster than networks that put out fine images.",
            COSTS,
            lambda r: (
                "in the paper's size, with a window for each frame, it takes "
                f"{r(f'{_10}.time.paper_over_mspcn'):.1f} times as long as mSPCN x10 and "
                f"{r(f'{_10}.multiplications.over_mspcn')} times the multiplications; "
                "our small one with windows side by side "
                f"{r(f'{_10}.time.ours_over_mspcn_whole_windows'):.2f} times"
            ),
            _costs_verdict("faster"),
        ),
        Claim(
            "I",
            "It lowers the amount of data that is processed.",
            COSTS,
            lambda r: (
                f"{r(f'{_10}.outputs_over'):.0f} times fewer values come out than of a network "
                "with a x10 output, but its largest layer holds "
                f"{r(f'{_10}.largest_over'):.1f} times "
                "as many as that of mSPCN x10"
            ),
            lambda r: _three(r(f"{_10}.outputs_over") > 1, r(f"{_10}.largest_over") <= 1),
        ),
    ),
    "Method": (
        Claim(
            "I",
            "On a fine grid more bubbles are detected than there are.",
            FIG3,
            lambda r: (
                "with the best threshold, mSPCN finds "
                f"{100 * r(f'{_3}.bubbles.mspcn.count_bias'):+.0f} %"
            ),
            lambda r: r(f"{_3}.bubbles.mspcn.count_bias") > 0,
        ),
        Claim(
            "I",
            "Looking for local maxima limits how many overlapping bubbles can be found; "
            "the network is freer.",
            COSTS,
            lambda r: (
                "of the densities tried, 3DML-ResNet is ahead of all others in "
                f"{r(f'{_10}.ahead.density')}"
            ),
            _costs_verdict("high_density"),
        ),
        Claim(
            "II-A",
            "Windows that move by one frame, so that each frame is seen ten times, "
            "place bubbles better.",
            TRAINING,
            lambda r: (
                f"rms distance {r('train_ml3d.stride.10.rms'):.3f} px with each frame seen once, "
                f"{r('train_ml3d.stride.1.rms'):.3f} px with ten looks; "
                f"Jaccard index {r('train_ml3d.stride.10.jaccard_near'):.3f} and "
                f"{r('train_ml3d.stride.1.jaccard_near'):.3f}"
            ),
            lambda r: r("train_ml3d.stride.1.rms") < r("train_ml3d.stride.10.rms"),
        ),
        Claim(
            "II-B",
            "The counting network does away with too many or too few bubbles on test data.",
            FIG3,
            lambda r: (
                "its numbers are off by "
                f"{100 * r(f'{_6}.in_silico.error_share'):.0f} % on the phantom and by "
                f"{100 * r(f'{_6}.cam_error_share'):.0f} % on CAM; Jaccard index on the phantom "
                f"{r(f'{_3}.bubbles.ml3d.jaccard_near'):.2f}, "
                f"with the true numbers {r(f'{_3}.bubbles.ml3d_true_count.jaccard_near'):.2f}"
            ),
            lambda r: (
                REPRODUCED
                if r(f"{_6}.in_silico.error_share") < 0.05
                else PARTLY
                if r(f"{_3}.bubbles.ml3d.jaccard_near")
                > 0.9 * r(f"{_3}.bubbles.ml3d_true_count.jaccard_near")
                else NOT
            ),
        ),
        Claim(
            "II-C",
            "The loss serves detection first, at the cost of precision below the pixel.",
            FIG3,
            lambda r: (
                "recall at half a pixel: "
                f"{_map(_3, 'bubbles.*.recall_far', ('classical', 'ml3d'))(r)}; rms distance [px]: "
                f"{_map(_3, 'bubbles.*.rms_px', ('classical', 'ml3d'), percent=False)(r)}"
            ),
            lambda r: _three(
                r(f"{_3}.bubbles.ml3d.recall_far") > r(f"{_3}.bubbles.classical.recall_far"),
                r(f"{_3}.bubbles.ml3d.rms_px") > r(f"{_3}.bubbles.classical.rms_px"),
            ),
        ),
        Claim(
            "III",
            "The weighted average is always slightly worse than radial symmetry.",
            FIG3,
            _map(_3, "bubbles.*.jaccard_near", ("rs", "weighted")),
            lambda r: _three(
                *(
                    r(f"{n}.bubbles.weighted.jaccard_near") < r(f"{n}.bubbles.rs.jaccard_near")
                    for n in (_3, _4)
                )
            ),
        ),
    ),
    "In silico": (
        Claim(
            "III-A, Table I",
            "Better SSIM and RMSE than RS and mSPCN.",
            FIG3,
            lambda r: _ahead(r, _3),
            lambda r: _better(r, _3),
        ),
        Claim(
            "III-A, Table I",
            "By the margins of Table I.",
            FIG3,
            lambda r: _margin(r, _3),
            lambda r: _as_far(r, _3),
        ),
        Claim(
            "III-A, Fig. 3",
            "Its map has the least noise.",
            FIG3,
            lambda r: (
                "false share of the drawn pixels: "
                f"{_map(_3, 'maps.*.false', ('rs', 'mspcn', 'ml3d'))(r)}"
            ),
            lambda r: _least(r, f"{_3}.maps.*.false", "ml3d", _BASE),
        ),
        Claim(
            "III-A, Fig. 3",
            "It alone is free of straight false tracks.",
            FIG3,
            lambda r: (
                f"false tracks: {_map(_3, 'bubbles.*.false_tracks', ('rs', 'mspcn', 'ml3d'))(r)}"
            ),
            lambda r: _three(
                r(f"{_3}.bubbles.ml3d.false_tracks") < 0.01,
                min(r(f"{_3}.bubbles.{way}.false_tracks") for way in _BASE) >= 0.01,
            ),
        ),
        Claim(
            "III-A, Fig. 3",
            "RS shows the whole structure, with some noise.",
            FIG3,
            lambda r: f"length shown: {_map(_3, 'maps.*.length', ('rs', 'ml3d'))(r)}",
            lambda r: _three(
                r(f"{_3}.maps.rs.length") > 0.95,
                r(f"{_3}.maps.rs.false") > r(f"{_3}.maps.ml3d.false"),
            ),
        ),
        Claim(
            "III-A, Fig. 3",
            "mSPCN fails to show the whole structure.",
            FIG3,
            lambda r: f"length shown: {_map(_3, 'maps.*.length', ('rs', 'mspcn', 'ml3d'))(r)}",
            lambda r: r(f"{_3}.maps.mspcn.length") < 0.9 * r(f"{_3}.maps.rs.length"),
        ),
    ),
    "CAM": (
        Claim(
            "III-A, Table II",
            "Better SSIM and RMSE than RS and mSPCN.",
            FIG4,
            lambda r: _ahead(r, _4),
            lambda r: _better(r, _4),
        ),
        Claim(
            "III-A, Table II",
            "By the margins of Table II.",
            FIG4,
            lambda r: _margin(r, _4),
            lambda r: _as_far(r, _4),
        ),
        Claim(
            "III-A, Fig. 4",
            "It misses vessels that RS shows.",
            FIG4,
            lambda r: f"length shown: {_map(_4, 'maps.*.length', ('rs', 'mspcn', 'ml3d'))(r)}",
            lambda r: r(f"{_4}.maps.ml3d.length") < r(f"{_4}.maps.rs.length"),
        ),
        Claim(
            "III-A, Fig. 4",
            "The map of RS is noisy.",
            FIG4,
            lambda r: (
                "false share of the drawn pixels: "
                f"{_map(_4, 'maps.*.false', ('rs', 'mspcn', 'ml3d'))(r)}"
            ),
            lambda r: r(f"{_4}.maps.rs.false") > r(f"{_4}.maps.ml3d.false"),
        ),
        Claim(
            "III-A, Fig. 4",
            "mSPCN has great trouble to show the structure.",
            FIG4,
            lambda r: f"length shown: {_map(_4, 'maps.*.length', ('rs', 'mspcn'))(r)}",
            lambda r: r(f"{_4}.maps.mspcn.length") < 0.8 * r(f"{_4}.maps.rs.length"),
        ),
    ),
    "In vivo": (
        Claim(
            "III-B, Fig. 5",
            "Only RS and 3DML-ResNet show the whole network of vessels.",
            FIG5,
            lambda r: f"length shown: {_map(_5, 'vessels.all.*', ('rs', 'mspcn', 'ml3d'))(r)}",
            lambda r: _three(
                _brain_verdict("mspcn_less")(r) == REPRODUCED,
                min(r(f"{_5}.vessels.all.{way}") for way in ("rs", "ml3d")) > 0.95,
            ),
        ),
        Claim(
            "III-B, Fig. 5",
            "RS has the least gridding.",
            FIG5,
            lambda r: (
                "gridding index [dB]: "
                f"{_map(_5, 'gridding_db.*', ('rs', 'mspcn', 'ml3d'), percent=False)(r)}"
            ),
            _brain_verdict("rs_least_gridding"),
        ),
        Claim(
            "III-B, Fig. 5",
            "3DML-ResNet has more gridding than RS.",
            FIG5,
            lambda r: (
                f"bubbles in a wrong place of the pixel: {_map(_5, 'uneven.*', ('rs', 'ml3d'))(r)}"
            ),
            _brain_verdict("ml3d_more_gridding"),
        ),
        Claim(
            "III-B, Fig. 5",
            "3DML-ResNet shows more of the small vessels than RS.",
            FIG5,
            lambda r: f"length of the narrowest shown: {_map(_5, 'smallest.*', ('rs', 'ml3d'))(r)}",
            _brain_verdict("more_small_vessels"),
        ),
        Claim(
            "III-B",
            "In vivo its localization is less precise.",
            FIG5,
            lambda r: (
                f"rms distance [px]: {_map(_5, 'rms_px.*', ('rs', 'ml3d'), percent=False)(r)}"
            ),
            _brain_verdict("less_precise"),
        ),
    ),
    "Conclusion": (
        Claim(
            "IV",
            "At least as good as the state of the art.",
            FIG3,
            lambda r: (
                f"Jaccard index in silico: {_map(_3, 'bubbles.*.jaccard_near', _ALL)(r)}; "
                f"CAM: {_map(_4, 'bubbles.*.jaccard_near', (*_ALL, 'mspcn_paper'))(r)}"
            ),
            lambda r: _three(
                *(
                    r(f"{n}.bubbles.ml3d.jaccard_near")
                    >= max(r(f"{n}.bubbles.{way}.jaccard_near") for way in ways)
                    for n, ways in ((_3, _RIVALS), (_4, (*_RIVALS, "mspcn_paper")))
                )
            ),
        ),
    ),
}


def judge(claim: Claim, numbers: Numbers) -> tuple[str, str]:
    """What was measured and the verdict, as text."""
    try:
        verdict = claim.verdict(numbers)
        measured = claim.measured(numbers)
    except MissingNumber:
        return "no such numbers on these data, or in this edition", UNTESTED
    if isinstance(verdict, str):
        return measured, verdict
    return measured, REPRODUCED if verdict else NOT


def claim_rows(results: Mapping[str, Any]) -> dict[str, list[tuple[str, str, str, str, str]]]:
    """Rows of the tables by the heading of each: place, claim, measured, verdict, link."""
    numbers, rows = Numbers(results), {}
    for heading, claims in CLAIMS.items():
        rows[heading] = []
        for claim in claims:
            measured, verdict = judge(claim, numbers)
            here = claim.notebook.partition("_")[2] in results
            link = (
                f"[{claim.notebook[:2]}](notebooks/{claim.notebook}.ipynb)"
                if here
                else claim.notebook[:2]
            )
            rows[heading].append((claim.where, claim.claim, measured, f"**{verdict}**", link))
    return rows


def claims_text(results: Mapping[str, Any], table: Callable[..., str]) -> str:
    """The generated part of the page; `table` makes Markdown of a header and rows."""
    rows = claim_rows(results)
    verdicts = [row[3].strip("*") for part in rows.values() for row in part]
    counts = {word: verdicts.count(word) for word in (REPRODUCED, PARTLY, NOT, UNTESTED)}
    summary = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    header = ["Paper", "Claim", "Measured here", "Verdict", "Where"]
    parts = [
        f"## {heading}\n\n{table(header, part, style='ulm-claims')}"
        for heading, part in rows.items()
    ]
    return f"Of {len(verdicts)} claims in this edition: {summary}.\n\n" + "\n\n".join(parts)
