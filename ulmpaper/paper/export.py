"""Figures and tables of the book as files for a lecture or a paper: PDF and PNG, CSV and LaTeX.

A notebook puts them into the folder `export` beside its results.json; ``make figures`` gathers
those of all notebooks.
"""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ulmpaper.io.files import write_atomic
from ulmpaper.plots import save_figure

FOLDER = "export"
# Letters that LaTeX's usual fonts lack.
_LETTERS = str.maketrans({"±": r"$\pm$", "λ": r"$\lambda$", "µ": r"$\mu$"})


def export_figure(figure: Figure, out: str | os.PathLike, name: str) -> list[Path]:
    """Write a figure as PDF and as PNG.

    Parameters
    ----------
    figure : Figure
        What to write.
    out : path-like
        Folder of the notebook's results; the files go to ``export`` in it.
    name : str
        Name of the files without suffix, such as ``figure3``. It must be the only one of its name
        in the book.

    Returns
    -------
    list of Path
        The two files.
    """
    folder = _export_folder(out)
    return [
        save_figure(figure, folder / f"{name}.{suffix}", bbox_inches="tight")
        for suffix in ("pdf", "png")
    ]


def export_table(
    table: pd.DataFrame, out: str | os.PathLike, name: str, *, digits: int = 3
) -> list[Path]:
    """Write a table as CSV, in full precision, and as a LaTeX ``tabular`` (``booktabs``).

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
    if not 0 <= digits <= 16:
        raise ValueError(f"digits must be a whole number from 0 to 16, not {digits}")
    folder = _export_folder(out)
    paths = [folder / f"{name}.{suffix}" for suffix in ("csv", "tex")]
    write_atomic(paths[0], table.to_csv().encode())
    write_atomic(paths[1], _latex(table, digits=digits).encode())
    return paths


def _latex(table: pd.DataFrame, *, digits: int = 3) -> str:
    r"""Set a table as LaTeX, for the package ``booktabs``; what is missing stays empty.

    Examples
    --------
    >>> print(_latex(pd.DataFrame({"SSIM [%]": [91.4, None]}, index=["a_b", "c"]), digits=1))
    \begin{tabular}{lr}
    \toprule
     & SSIM [\%] \\
    \midrule
    a\_b & 91.4 \\
    c &  \\
    \bottomrule
    \end{tabular}
    """
    styled = table.style.format(precision=digits, na_rep="", escape="latex")
    for axis in (0, 1):
        styled = styled.format_index(escape="latex", axis=axis)
    text = styled.to_latex(
        column_format="l" * table.index.nlevels + "r" * len(table.columns),
        hrules=True,
        multirow_align="naive",  # labels that repeat stay empty
        multicol_align="naive-l",
    )
    return text.translate(_LETTERS).rstrip("\n")


def _export_folder(out: str | os.PathLike) -> Path:
    folder = Path(out) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder
