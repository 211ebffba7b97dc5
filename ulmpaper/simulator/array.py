"""Plane waves on a linear array, through PyMUST: bubble table in, beamformed IQ frames out.

The field of each element and the delay-and-sum matrix come from PyMUST (Garcia, *SIMUS*, Comput.
Methods Programs Biomed. 2022), so the physics behind the test phantom is published and not our own.
Added are frames in parallel processes, a record of constant length and the imperfections of tissue.

Positions are in wavelengths (wl) of 98.56 um: z is 0 at the probe, x is 0 at its middle.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import joblib
import numpy as np
import pandas as pd
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from tqdm import tqdm

from ulmpaper.core.arguments import explained
from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_bubbles, check_positive, check_whole
from ulmpaper.io.processes import count_processes, worker_errors, worker_options

# Verasonics L22-14v as PALA drives it.
N_ELEMENTS = 128
PITCH_M = 100e-6
CENTRE_HZ = 15.625e6
SPEED_M_S = 1540.0  # assumed by the beamformer
WAVELENGTH_MM = 1e3 * SPEED_M_S / CENTRE_HZ
_WIDTH_M = 80e-6  # of an element
_BANDWIDTH_PERCENT = 51.0  # 14-22 MHz
_WL_M = SPEED_M_S / CENTRE_HZ
_PROBE_WL = N_ELEMENTS * PITCH_M / _WL_M
_PULSE_WL = 4
_SAMPLES_PER_CYCLE = 4
_LEAST_DB = -40.0  # weaker frequencies of the probe are left out: 4e-5 of the echoes
_MOST_FRAMES = 100_000  # all lie in memory in the end
_CHUNK_FRAMES = 10


@explained
@dataclass(frozen=True)
class Acquisition:
    """Plane waves, image grid and medium.

    Parameters
    ----------
    angles_deg : tuple of float
        Tilts of the plane waves, compounded coherently [degrees].
    f_number : float
        Depth over receive aperture.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    origin_wl : (float, float)
        Centre of pixel (0, 0) (z, x) [wavelengths].
    step_wl : float
        Pixel pitch [wavelengths].
    speed_m_s : float
        True speed of sound [m/s]; the beamformer assumes 1540.
    attenuation_db : float
        Attenuation of the medium [dB/cm/MHz].

    Notes
    -----
    The defaults are the grid of PALA's in silico data (Heiles et al. 2022). Its tilts are not
    published; 5 degrees are our choice.

    Examples
    --------
    >>> Acquisition().to_wl([0, 83], [0, 142])
    (array([16., 99.]), array([-72.,  70.]))
    """

    angles_deg: tuple[float, ...] = (-5.0, 0.0, 5.0)
    f_number: float = 1.9
    shape_px: tuple[int, int] = (84, 143)
    origin_wl: tuple[float, float] = (16.0, -72.0)
    step_wl: float = 1.0
    speed_m_s: float = SPEED_M_S
    attenuation_db: float = 0.0

    def __post_init__(self) -> None:
        check_positive(
            f_number=self.f_number, z=self.shape_px[0], x=self.shape_px[1], step_wl=self.step_wl
        )
        check_positive(speed_m_s=self.speed_m_s, origin_wl_z=self.origin_wl[0])
        if not self.angles_deg or not all(abs(angle) <= 45 for angle in self.angles_deg):
            raise ValueError(
                f"angles_deg must be one or more tilts of -45 to 45 degrees, not {self.angles_deg}"
            )
        if not 0 <= self.attenuation_db < math.inf:
            raise ValueError(f"attenuation_db must be 0 or more, not {self.attenuation_db}")

    @property
    def px_mm(self) -> float:
        """Pixel pitch [mm]."""
        return self.step_wl * WAVELENGTH_MM

    def to_wl(self, z_px: ArrayLike, x_px: ArrayLike) -> tuple[NDArray, NDArray]:
        """Convert pixels to wavelengths."""
        z0, x0 = self.origin_wl
        z_wl = z0 + self.step_wl * np.asarray(z_px, dtype=float)
        x_wl = x0 + self.step_wl * np.asarray(x_px, dtype=float)
        return z_wl, x_wl

    def to_px(self, z_wl: ArrayLike, x_wl: ArrayLike) -> tuple[NDArray, NDArray]:
        """Convert wavelengths to pixels."""
        z0, x0 = self.origin_wl
        z_px = (np.asarray(z_wl, dtype=float) - z0) / self.step_wl
        x_px = (np.asarray(x_wl, dtype=float) - x0) / self.step_wl
        return z_px, x_px


PALA_ACQUISITION = Acquisition()


def acquire(
    bubbles: pd.DataFrame,
    n_frames: int,
    acquisition: Acquisition = PALA_ACQUISITION,
    *,
    screens_ns: ArrayLike | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> NDArray[np.complex64]:
    """Image bubbles with the array.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table in pixels of the grid; `score` is the reflectivity.
    n_frames : int
        Number of frames.
    acquisition : Acquisition
        Plane waves, grid and medium.
    screens_ns : array_like (T, 128), optional
        Delay by the tissue before each element, once on the way out and once on the way back [ns].
    n_jobs : int
        Processes; the frames do not depend on it.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    ndarray (T, Z, X) complex64
        Beamformed IQ. A bubble of reflectivity 1 in the middle of the image has the amplitude 1;
        one at depth z has the phase -4 pi z / wavelength, up to a constant.

    Raises
    ------
    ValueError
        Bubbles outside the picture or the frames, screens of the wrong shape.

    Notes
    -----
    The field is two-dimensional and linear, with the directivity of the elements. ``simus`` of
    PyMUST computes it at twice as many frequencies and discards half of the record, and its gain
    depends on the tilt. Here its core, ``pfield``, is called for the frequencies that the record
    needs, the same for all frames and tilts.

    A pixel is the mean over the elements of its aperture, not their sum: their number jumps from
    pixel to pixel, which would move the peaks of bubbles near the probe by up to 0.3 px. Where part
    of the aperture lies beside the probe, the mean is weighted with the share on the probe, so that
    the picture fades as a sum would.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> small = Acquisition(angles_deg=(0.0,), shape_px=(16, 16), origin_wl=(30.0, -8.0))
    >>> iq = acquire(bubble_table([0], [7.0], [8.0], [1.0]), 1, small)
    >>> [int(k) for k in np.unravel_index(abs(iq[0]).argmax(), (16, 16))]
    [7, 8]
    """
    n_frames = check_whole(n_frames=n_frames)
    if n_frames > _MOST_FRAMES:
        raise ValueError(f"n_frames must be {_MOST_FRAMES} or less, not {n_frames}: make parts")
    bubbles = check_bubbles(bubbles)
    if len(bubbles) and bubbles["frame"].max() >= n_frames:
        raise ValueError(
            f"bubbles in frame {bubbles['frame'].max()}, "
            f"but there are frames 0 to {n_frames - 1} only"
        )
    starts = range(0, n_frames, _CHUNK_FRAMES)
    spans = [(start, min(start + _CHUNK_FRAMES, n_frames)) for start in starts]
    parts = acquire_spans(
        bubbles, spans, acquisition, screens_ns=screens_ns, n_jobs=n_jobs, progress=progress
    )
    return np.concatenate([frames for _, frames in parts])


def acquire_spans(
    bubbles: pd.DataFrame,
    spans: Sequence[tuple[int, int]],
    acquisition: Acquisition = PALA_ACQUISITION,
    *,
    screens_ns: ArrayLike | None = None,
    n_jobs: int = 1,
    progress: bool = False,
) -> Iterator[tuple[tuple[int, int], NDArray[np.complex64]]]:
    """Image bubbles in some spans of frames (start, stop), and yield each when it is ready.

    Parameters
    ----------
    bubbles, acquisition, screens_ns, n_jobs, progress
        As in `acquire`.
    spans : sequence of (int, int)
        First frame of each span, and the frame after its last.

    Yields
    ------
    span : (int, int)
        As in `spans`, and in their order.
    frames : ndarray (stop - start, Z, X) complex64
        Beamformed IQ.

    Raises
    ------
    ValueError
        Bubbles outside the picture, screens of the wrong shape.
    """
    n_frames = max((stop for _, stop in spans), default=0)
    rows, first = _by_frame(bubbles, n_frames, acquisition)
    if screens_ns is None:
        screens_ns = np.zeros((n_frames, N_ELEMENTS))
    screens = np.asarray(screens_ns, dtype=float)
    if screens.shape != (n_frames, N_ELEMENTS):
        raise ValueError(
            f"screens_ns must have the shape (T, elements) {n_frames, N_ELEMENTS}, "
            f"not {screens.shape}"
        )

    def task(start: int, stop: int) -> Any:
        """Work for one process."""
        scenes = [rows[first[t] : first[t + 1]] for t in range(start, stop)]
        return joblib.delayed(_image)(scenes, 1e-9 * screens[start:stop], acquisition)

    total = sum(stop - start for start, stop in spans)
    with tqdm(total=total, unit="frame", delay=2, disable=not progress) as bar:
        n_jobs = max(1, min(count_processes(n_jobs), len(spans)))
        parallel = joblib.Parallel(
            n_jobs=n_jobs, return_as="generator", max_nbytes=None, **worker_options()
        )
        with worker_errors():
            results = parallel(task(*span) for span in spans)
            for span, frames in zip(spans, results, strict=True):
                bar.update(len(frames))
                yield span, frames


# --- from bubbles to echoes to pixels ----------------------------------------------------------


def _by_frame(
    bubbles: pd.DataFrame, n_frames: int, acquisition: Acquisition
) -> tuple[NDArray, NDArray]:
    """Rows (z, x, reflectivity) in wavelengths, ordered by frame, and where each frame starts."""
    bubbles = check_bubbles(bubbles)
    frame, z, x, score = bubbles[["frame", "z", "x", "score"]].to_numpy(dtype=float).T
    n_z, n_x = acquisition.shape_px
    outside = (z < -0.5) | (z > n_z - 0.5) | (x < -0.5) | (x > n_x - 0.5) | (frame < 0)
    if outside.any():
        k = int(outside.argmax())
        raise ValueError(
            f"{outside.sum()} bubbles lie outside the picture of {n_z} x {n_x} px, "
            f"the first at z {z[k]:g}, x {x[k]:g} in frame {frame[k]:g}: "
            "drop them, or take a larger grid"
        )
    order = np.argsort(frame, kind="stable")
    rows = np.stack([*acquisition.to_wl(z, x), score], axis=1)[order]
    return rows, np.searchsorted(frame[order], np.arange(n_frames + 1))


def _image(
    scenes: list[NDArray], screens_s: NDArray, acquisition: Acquisition
) -> NDArray[np.complex64]:
    """Frames (t, Z, X) of scatterers (z, x, reflectivity) behind phase screens."""
    with optional("simulate"):
        from threadpoolctl import threadpool_limits

    n_z, n_x = acquisition.shape_px
    images = np.empty((len(scenes), n_z, n_x), dtype=np.complex64)
    # Threads would only get in each other's way, and change the last digits.
    with threadpool_limits(1):
        beamformer = _beamformer(acquisition)
        for image, scatterers, screen_s in zip(images, scenes, screens_s, strict=True):
            echoes = _channels(scatterers, screen_s, acquisition).ravel()
            image[:] = (beamformer @ echoes).reshape(n_x, n_z).T
    return images


def _channels(
    scatterers: NDArray, screen_s: NDArray, acquisition: Acquisition
) -> NDArray[np.complex64]:
    """Baseband signals (tilt, element, sample) of the echoes."""
    n_samples = _n_samples(acquisition)
    n_cycles = n_samples // _SAMPLES_PER_CYCLE
    spectra = np.zeros((len(acquisition.angles_deg), N_ELEMENTS, n_samples), dtype=np.complex64)
    if not len(scatterers):
        return spectra
    z, x, reflectivity = scatterers.T[:, None]
    for spectrum, delays in zip(spectra, _plane_waves(acquisition), strict=True):
        # PyMUST refuses negative delays on transmit: they are shifted here, and back on receive.
        start = (delays + screen_s).min()
        medium = _parameters(
            acquisition.speed_m_s, attenuation=acquisition.attenuation_db, RXdelay=screen_s + start
        )
        # This step divides twice the centre frequency into 2 n_cycles parts; half a part less, so
        # that rounding adds none.
        options = _pymust().utils.Options(
            CallFun="simus",
            RC=reflectivity,
            dBThresh=_LEAST_DB,
            FrequencyStep=CENTRE_HZ / (n_cycles - 0.5),
        )
        _, echoes, band = _pymust().pfield(
            x * _WL_M, None, z * _WL_M, delays + screen_s - start, medium, options
        )
        spectrum[:, np.flatnonzero(band) - n_cycles] = echoes.conj().T
    return scipy.fft.ifft(spectra, axis=-1, overwrite_x=True)


@functools.lru_cache(maxsize=2)
def _beamformer(acquisition: Acquisition) -> sparse.csr_array:
    """Delay and sum as a matrix (pixels by columns, samples of all channels and tilts)."""
    n_z, n_x = acquisition.shape_px
    z, x = np.meshgrid(*acquisition.to_wl(np.arange(n_z), np.arange(n_x)), indexing="ij")
    setup = _parameters(SPEED_M_S, fnumber=acquisition.f_number)
    size = np.array([_n_samples(acquisition), N_ELEMENTS], dtype=complex)
    das = [
        _pymust().dasmtx(size, x * _WL_M, z * _WL_M, delays, setup)
        for delays in _plane_waves(acquisition)
    ]
    matrix = sparse.csr_array(sparse.hstack(das, format="csr", dtype=np.complex64))
    # The mean over the aperture, weighted with the share of it that lies on the probe.
    half = z / (2 * acquisition.f_number)
    on_probe = np.minimum(x + half, _PROBE_WL / 2) - np.maximum(x - half, -_PROBE_WL / 2)
    weight = (on_probe.clip(0) / half).ravel(order="F") / np.maximum(abs(matrix).sum(axis=1), 1)
    matrix = sparse.diags_array(weight.astype(np.complex64)) @ matrix
    # A bubble of reflectivity 1 in the middle has the amplitude 1.
    middle = np.array([[z[n_z // 2, 0], x[0, n_x // 2], 1.0]])
    echoes = _channels(middle, np.zeros(N_ELEMENTS), acquisition).ravel()
    return sparse.csr_array(matrix / abs(matrix @ echoes)[n_x // 2 * n_z + n_z // 2])


def _n_samples(acquisition: Acquisition) -> int:
    """Samples of the record, which is periodic and so must hold the last echo."""
    n_z, n_x = acquisition.shape_px
    z, x = acquisition.to_wl([-0.5, n_z - 0.5], [-0.5, n_x - 0.5])
    farthest = math.hypot(z.max(), np.abs(x).max() + _PROBE_WL / 2)
    tilt = _PROBE_WL * max(abs(math.sin(math.radians(angle))) for angle in acquisition.angles_deg)
    there_and_back = 2 * farthest * SPEED_M_S / acquisition.speed_m_s
    return _SAMPLES_PER_CYCLE * math.ceil(there_and_back + tilt + _PULSE_WL)


def _plane_waves(acquisition: Acquisition) -> list[NDArray]:
    """Delays (1, element) [s] that the machine sets for each tilt."""
    return [
        _pymust().txdelay(_parameters(SPEED_M_S), math.radians(angle))
        for angle in acquisition.angles_deg
    ]


def _parameters(speed_m_s: float, **more: object) -> Any:
    """Probe and medium for PyMUST."""
    return _pymust().utils.Param(
        fc=CENTRE_HZ,
        bandwidth=_BANDWIDTH_PERCENT,
        TXnow=1,
        fs=_SAMPLES_PER_CYCLE * CENTRE_HZ,
        Nelements=N_ELEMENTS,
        pitch=PITCH_M,
        width=_WIDTH_M,
        radius=math.inf,
        c=speed_m_s,
        **more,
    )


@functools.cache
def _pymust() -> ModuleType:
    """PyMUST, loaded on first use."""
    with optional("simulate"), warnings.catch_warnings():
        # Python warns of its docstrings when it compiles them for the first time.
        warnings.filterwarnings("ignore", "invalid escape sequence")
        import pymust  # type: ignore[import-untyped]
    return pymust
