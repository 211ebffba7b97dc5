"""PSF banks: record, file, formulas.

A PSF is tabulated on a grid finer than the frames' pixels, so that a bubble can be drawn anywhere
between them. It may be an envelope (real, cut from B-mode as in the paper) or keep its phase
(complex, cut from IQ).
"""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import check_positive
from ulmpaper.io.files import write_atomic

SHIPPED_BANK = Path(__file__).parent / "banks" / "psf_bank.npz"
_FILE_KEYS = {"values", "samples_per_px", "half_px", "px_wavelengths", "source"}
_FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


@explained
@dataclass(frozen=True, eq=False)
class PsfBank:
    """Point spread functions on a fine grid, each centred on the middle sample.

    Parameters
    ----------
    table : ndarray (n, S, S)
        Envelopes (kept as float32) or complex amplitudes (complex64) of peak 1;
        S = 2 `half_px` `oversample` + 1.
    oversample : int
        Samples per pixel of the frames, even.
    half_px : int
        Reach of a PSF from its centre [px].
    px_wavelengths : float
        Pixel pitch of the frames [wavelengths]; sets how the phase of a bubble turns as it moves in
        depth.
    source : str
        Where they come from, in words for a figure's title.

    Raises
    ------
    ValueError
        A table of another shape, NaN in it, odd `oversample`.
    """

    table: NDArray
    oversample: int = 8
    half_px: int = 5
    px_wavelengths: float = 1.0
    source: str = "unknown source"

    def __post_init__(self) -> None:
        side = len(fine_grid(self.half_px, self.oversample))
        check_positive(px_wavelengths=self.px_wavelengths)
        shape = np.shape(self.table)
        if len(shape) != 3 or shape[0] == 0 or shape[1:] != (side, side):
            raise ValueError(
                f"with half_px {self.half_px} and oversample {self.oversample} a bank's table has "
                f"the shape (n, {side}, {side}), not {shape}"
            )
        # A copy that cannot change, so that tables prepared from it and cached stay valid.
        dtype = np.complex64 if np.iscomplexobj(self.table) else np.float32
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            table = np.array(self.table, dtype=dtype)
        if not np.isfinite(table).all():
            raise ValueError("the bank's table holds NaN or infinite values: drop those PSFs")
        table.setflags(write=False)
        object.__setattr__(self, "table", table)

    def __len__(self) -> int:
        return len(self.table)


def fine_grid(half_px: int, oversample: int) -> NDArray[np.float64]:
    """Give the positions of a PSF's samples along either axis, from its centre [px].

    Examples
    --------
    >>> fine_grid(1, 2).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    check_positive(half_px=half_px, oversample=oversample)
    if oversample % 2 or int(half_px) != half_px:
        raise ValueError(
            f"half_px must be whole and oversample even, not {half_px} and {oversample}"
        )
    return np.arange(-half_px * oversample, half_px * oversample + 1) / oversample


def gaussian_bank(
    n_psf: int,
    *,
    rng: np.random.Generator,
    fwhm_z_px: tuple[float, float] = (1.1, 1.7),
    fwhm_x_px: tuple[float, float] = (1.9, 2.7),
    skew: float = 0.3,
    tilt: float = 0.2,
    curvature_rad: float = 0.0,
    half_px: int = 5,
    oversample: int = 8,
    px_wavelengths: float = 1.0,
) -> PsfBank:
    """Draw Gaussian PSFs of varied shape.

    Parameters
    ----------
    n_psf : int
        Number of PSFs.
    rng : numpy.random.Generator
        Source of the shapes.
    fwhm_z_px, fwhm_x_px : (float, float)
        Range of the full widths at half maximum [px].
    skew : float
        The two sides differ in width by up to this share, below 1.
    tilt : float
        Largest slope, in pixels of depth per lateral pixel.
    curvature_rad : float
        Largest phase one full width beside the axis, as of a curved wave front [rad]; above 0 the
        bank is complex.
    half_px, oversample, px_wavelengths
        See `PsfBank`.

    Examples
    --------
    >>> bank = gaussian_bank(2, rng=np.random.default_rng(0), fwhm_z_px=(1, 1), skew=0, tilt=0)
    >>> bank.table[:, 36, 40].tolist()  # half a width above the centre
    [0.5, 0.5]
    """
    check_positive(n_psf=n_psf, fwhm_z_px=min(fwhm_z_px), fwhm_x_px=min(fwhm_x_px))
    if not 0 <= skew < 1:
        raise ValueError(f"skew must be 0 or more and below 1, not {skew}")

    def draw(low: float, high: float) -> NDArray:
        """One number for each PSF."""
        return rng.uniform(low, high, n_psf)[:, None, None]

    grid = fine_grid(half_px, oversample)
    width_z = draw(*fwhm_z_px)
    width_x = draw(*fwhm_x_px)
    # Distances from the centre in standard deviations, along the tilted axis and across.
    u = _FWHM * (grid[:, None] - draw(-tilt, tilt) * grid) / width_z
    v = _FWHM * grid / width_x
    u = u / (1 + draw(-skew, skew) / 2 * np.tanh(u))
    v = v / (1 + draw(-skew, skew) / 2 * np.tanh(v))
    table = np.exp(-(u**2 + v**2) / 2)
    if curvature_rad:
        table = table * np.exp(1j * draw(-curvature_rad, curvature_rad) * (grid / width_x) ** 2)
    return PsfBank(table, oversample, half_px, px_wavelengths, "Gaussian PSFs")


def linear_array_psf(
    *,
    sigma_z_wavelengths: float = 0.5,
    sigma_x_wavelengths: float = 0.95,
    half_px: int = 5,
    oversample: int = 8,
    px_wavelengths: float = 1.0,
) -> PsfBank:
    """Make a bank of one Gaussian PSF, by default a simulated L22-14v at an F-number of 1.9.

    Examples
    --------
    >>> linear_array_psf().table.shape
    (1, 81, 81)
    """
    check_positive(sigma_z_wavelengths=sigma_z_wavelengths, sigma_x_wavelengths=sigma_x_wavelengths)
    along = fine_grid(half_px, oversample) * px_wavelengths
    by_z = np.exp(-((along / sigma_z_wavelengths) ** 2) / 2)
    by_x = np.exp(-((along / sigma_x_wavelengths) ** 2) / 2)
    table = (by_z[:, None] * by_x)[None]
    return PsfBank(table, oversample, half_px, px_wavelengths, "Gaussian model of a linear array")


def resample(bank: PsfBank, *, px_wavelengths: float | None = None, oversample: int = 8) -> PsfBank:
    """Tabulate the same PSFs for frames of another pixel, or more finely.

    Complex PSFs are band-limited, so their samples give all values between them: they are
    interpolated exactly, as sums of sines. Envelopes are not, and take cubic splines.

    Parameters
    ----------
    bank : PsfBank
        PSFs, which keep their size in wavelengths.
    px_wavelengths : float, optional
        Pixel pitch of the frames [wavelengths], by default the bank's.
    oversample : int
        Samples per pixel, even.

    Examples
    --------
    >>> half = resample(linear_array_psf(), px_wavelengths=0.5)
    >>> half.half_px, half.table[0, 80, 88] == linear_array_psf().table[0, 40, 44]
    (10, np.True_)
    """
    pitch = bank.px_wavelengths if px_wavelengths is None else px_wavelengths
    check_positive(px_wavelengths=pitch)
    if (pitch, oversample) == (bank.px_wavelengths, bank.oversample):
        return bank
    ratio = pitch / bank.px_wavelengths
    half_px = int(np.ceil(bank.half_px / ratio))
    known = fine_grid(bank.half_px, bank.oversample)
    wanted = ratio * fine_grid(half_px, oversample)
    # Both are linear in their samples: one matrix for both axes of all PSFs.
    if np.iscomplexobj(bank.table):
        matrix = _sines(wanted, known)
    else:
        matrix = CubicSpline(known, np.eye(len(known)))(wanted)
    matrix[np.abs(wanted) > bank.half_px] = 0  # a PSF ends where its table does
    table = matrix @ bank.table @ matrix.T
    if not np.iscomplexobj(table):
        table = np.maximum(table, 0)  # splines overshoot where an envelope fades out
    return PsfBank(table, oversample, half_px, pitch, bank.source)


def _sines(wanted: NDArray, known: NDArray) -> NDArray[np.float64]:
    """Matrix of trigonometric interpolation from an odd number of even steps to any positions."""
    n = len(known)
    turns = (wanted[:, None] - known) / (known[1] - known[0])
    return np.sinc(turns) / np.sinc(turns / n)


def read_bank(path: str | os.PathLike = SHIPPED_BANK, *, oversample: int = 8) -> PsfBank:
    """Read a bank written by `write_bank`; by default the one that comes with the package.

    Parameters
    ----------
    path : path-like
        The ``.npz`` file.
    oversample : int
        Samples per pixel of the result, even.

    Raises
    ------
    FileNotFoundError, ValueError
        No such file; not a bank.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            content = dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a bank of PSFs: write one with write_bank") from error
    if missing := _FILE_KEYS - content.keys():
        raise ValueError(f"{path} is not a bank of PSFs, it lacks {', '.join(sorted(missing))}")
    values = content["values"].astype(np.float32)
    if values.ndim == 4:
        values = values[..., 0] + 1j * values[..., 1]
    bank = PsfBank(
        values,
        oversample=int(content["samples_per_px"]),
        half_px=int(content["half_px"]),
        px_wavelengths=float(content["px_wavelengths"]),
        source=str(content["source"]),
    )
    return resample(bank, oversample=oversample)


def write_bank(bank: PsfBank, path: str | os.PathLike, *, samples_per_px: int = 2) -> Path:
    """Write a bank to a small ``.npz`` file, in half precision.

    Parameters
    ----------
    bank : PsfBank
        The PSFs.
    path : path-like
        The file; missing folders are made.
    samples_per_px : int
        Samples kept per pixel, a divisor of the bank's `oversample`; `read_bank` fills in the rest,
        see `resample`. With 2, 200 envelopes take 0.15 MB, and those 1.5 px wide come back to 2 %
        of their peak (1.1 px: 4 %).

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        `samples_per_px` is odd or does not divide the bank's `oversample`.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    check_positive(samples_per_px=samples_per_px)
    step, rest = divmod(bank.oversample, samples_per_px)
    if rest or samples_per_px % 2:
        raise ValueError(
            f"samples_per_px must be even and divide the oversample {bank.oversample}, "
            f"not {samples_per_px}"
        )
    values = bank.table[:, ::step, ::step]
    if np.iscomplexobj(values):
        values = np.stack([values.real, values.imag], axis=-1)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = BytesIO()
    np.savez_compressed(
        content,
        values=values.astype(np.float16),
        samples_per_px=samples_per_px,
        half_px=bank.half_px,
        px_wavelengths=bank.px_wavelengths,
        source=bank.source,
    )
    write_atomic(path, content.getvalue())
    return path
