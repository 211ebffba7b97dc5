"""Figures and tables of the book as files for a lecture or a paper: PDF and PNG, CSV and LaTeX.

A notebook puts them into the folder `export` beside its results.json; ``make figures`` gathers those of all notebooks.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ulmpaper.io.files import write_atomic
from ulmpaper.plots import save_figure

FOLDER = "export"
_LATEX = {
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "#": r"\#",
    "±": r"$\pm$",
    "λ": r"$\lambda$",
    "µ": r"$\mu$",
}


def export_figure(figure: Figure, out: str | os.PathLike, name: str) -> list[Path]:
    """Write a figure as PDF and as PNG.

    Parameters
    ----------
    figure : Figure
        What to write.
    out : path-like
        Folder of the notebook's results; the files go to ``export`` in it.
    name : str
        Name of the files without suffix, such as ``figure3``. It must be the only one of its name in the book.

    Returns
    -------
    list of Path
        The two files.
    """
    folder = _folder(out)
    return [
        save_figure(figure, folder / f"{name}.{suffix}", bbox_inches="tight")
        for suffix in ("pdf", "png")
    ]


def export_table(
    table: pd.DataFrame, out: str | os.PathLike, name: str, *, digits: int = 3
) -> list[Path]:
    """Write a table as CSV, in full precision, and as a LaTeX ``tabular`` for the package ``booktabs``.

    Parameters
    ----------
    table : DataFrame
        Numbers and text; of index and columns either may have several levels.
    out, name : path-like, str
        As in `export_figure`.
    digits : int
        Digits behind the point in LaTeX.

    Returns
    -------
    list of Path
        The two files.
    """
    folder = _folder(out)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "tex")]
    write_atomic(paths[0], table.to_csv().encode())
    write_atomic(paths[1], latex(table, digits=digits).encode())
    return paths


def latex(table: pd.DataFrame, *, digits: int = 3) -> str:
    r"""Set a table as LaTeX, for the package ``booktabs``; what is missing stays empty.

    Examples
    --------
    >>> print(latex(pd.DataFrame({"SSIM [%]": [91.4, None]}, index=["a_b", "c"]), digits=1))
    \begin{tabular}{lr}
    \toprule
     & SSIM [\%] \\
    \midrule
    a\_b & 91.4 \\
    c &  \\
    \bottomrule
    \end{tabular}
    """
    n_levels, columns = table.index.nlevels, table.columns
    lines = [rf"\begin{{tabular}}{{{'l' * n_levels}{'r' * len(columns)}}}", r"\toprule"]
    names = ["" if name is None else str(name) for name in table.index.names]
    for level in range(columns.nlevels):
        last = level == columns.nlevels - 1
        lines.append(
            _row(
                [*(names if last else [""] * n_levels), *map(str, columns.get_level_values(level))]
            )
        )
    lines.append(r"\midrule")
    before: tuple[str, ...] = ("",) * n_levels
    for key, values in zip(table.index, table.itertuples(index=False), strict=True):
        labels = tuple(map(str, key if isinstance(key, tuple) else (key,)))
        new = [label != old for label, old in zip(labels, before, strict=True)]
        # A label that repeats the one above is left out, unless one before it has changed.
        shown = [label if any(new[: k + 1]) else "" for k, label in enumerate(labels)]
        lines.append(_row([*shown, *(_cell(value, digits) for value in values)]))
        before = labels
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _folder(out: str | os.PathLike) -> Path:
    folder = Path(out) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _row(cells: list[str]) -> str:
    return (
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells)
        + r" \\"
    )


def _cell(value: object, digits: int) -> str:
    if pd.isna(value):  # type: ignore[call-overload]
        return ""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
