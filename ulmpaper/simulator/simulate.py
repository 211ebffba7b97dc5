"""From settings to blocks: `cam`, `phantom`, `invivo`.

``cam`` is the paper's simulator, ``phantom`` the test by other physics, ``invivo`` a stand-in for a
living brain. A block of ``cam`` and ``invivo`` is made in five steps::

    picture   grow_network, photograph, segment_vessels       Fig. 2a, b
    flow      displacement_maps, advect                       Fig. 2c, d
    PSF       psf_bank                                        Fig. 2f
    frame     synthesize, over speckle or tissue_clutter      Fig. 2e
    block     the frames, their true bubbles and their scale

Each picture and each block draws its random numbers from the seed, its kind and its own number, see
`seeded_stream`. So it can be made alone, in any order and in any process, and comes out the same.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.config import Config, Settings, as_config
from ulmpaper.core.doors import optional
from ulmpaper.core.grid import frame_position
from ulmpaper.core.records import Block, check_choice, check_positive, check_whole
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.io.fetch import REGISTRY, fetch, registry_table
from ulmpaper.io.processes import count_processes, worker_errors, worker_options
from ulmpaper.simulator.array import WAVELENGTH_MM
from ulmpaper.simulator.flow import MEAN_AMPLITUDE, advect, cross_plane, displacement_maps
from ulmpaper.simulator.phantom import SEQUENCES, phantom_block
from ulmpaper.simulator.psf import (
    SHIPPED_BANK,
    PsfBank,
    gaussian_bank,
    linear_array_psf,
    read_bank,
    resample,
)
from ulmpaper.simulator.vessels import (
    grow_network,
    lumen_mask,
    photograph,
    segment_vessels,
    vessels_from_density_map,
)

SPLITS = ("train", "validation", "test")
_KINDS = ("cam", "phantom", "invivo", "testcard")
_PICTURES_PER_SPLIT = 1000  # the settings allow at most as many
_BANKS = {"bmode": "psf_bank.npz", "iq": "psf_bank_iq.npz"}
_PSF_KINDS = (*_BANKS, "gaussian")
_N_GAUSSIAN = 200
_CURVATURE_RAD = 1.0
_SHARES = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}  # of the PSFs


def simulate(
    kind: str,
    cfg: Settings = None,
    *,
    split: str = "test",
    number: int = 0,
    n_frames: int | None = None,
) -> Block:
    """Simulate one block of frames with its true bubbles.

    Parameters
    ----------
    kind : {"cam", "phantom", "invivo", "testcard"}
        The paper's simulator; tubes imaged by other physics; a brain under moving tissue; Gaussian
        spots.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`, sections ``cam``, ``phantom``, ``invivo`` or ``example``.
    split : {"test", "train", "validation"}
        Part of ``cam``, ``phantom`` and ``testcard``: blocks of different splits share no picture
        and no random number. The phantom has no ``train``.
    number : int
        Which block, from 0. The same number gives the same block.
    n_frames : int, optional
        Frames of the block, 16 or more for ``invivo``; by default as many as the settings say.

    Returns
    -------
    Block
        Amplitude (T, Z, X) float32, or complex64 IQ of ``phantom`` and ``invivo``; bubbles and
        scale.

    Raises
    ------
    ValueError
        Unknown kind or split, or a number that the split does not have.

    Examples
    --------
    >>> simulate("testcard", "smoke", n_frames=5).frames.shape
    (5, 40, 48)
    """
    cfg = as_config(cfg)
    check_choice(kind, _KINDS, "kind of data")
    check_choice(split, SPLITS, "split")
    if number < 0:
        raise ValueError(f"number must be 0 or more, not {number}")
    if kind == "testcard":
        block = simulate_testcard(
            n_frames=n_frames or cfg.example.n_frames,
            n_bubbles=cfg.example.n_bubbles,
            shape_px=cfg.example.shape_px,
            noise=cfg.example.noise,
            rng=seeded_stream(cfg.seed, f"testcard {split}", number),
        )
        scale = cfg.acquisition
        return dataclasses.replace(block, px_mm=scale.px_mm, frame_rate_hz=scale.frame_rate_hz)
    if kind == "phantom":
        sequences = SEQUENCES[check_choice(split, SEQUENCES, "split of the phantom")]
        if number >= len(sequences):
            raise ValueError(
                f"the phantom's {split} split has sequences 0 to {len(sequences) - 1}, not {number}"
            )
        return phantom_block(
            sequences[number],
            n_frames=n_frames or cfg.phantom.n_frames,
            n_bubbles=cfg.phantom.n_bubbles,
            seed=cfg.seed,
        )
    if kind == "cam":
        if n_frames is not None:
            cam = dataclasses.replace(cfg.cam, sequence_frames=n_frames)
            cfg = dataclasses.replace(cfg, cam=cam)
        return cam_block(cfg, split, number)
    if n_frames is not None:
        invivo = dataclasses.replace(cfg.invivo, n_frames=n_frames)
        cfg = dataclasses.replace(cfg, invivo=invivo)
    return invivo_block(cfg, number, invivo_scene(cfg))


# --- picture and flow --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scene:
    """Vessels and the flow in them, on a grid as fine as that of the frames or finer.

    Parameters
    ----------
    picture : ndarray (Z, X) float32
        The photograph or map that shows them, 0 to 1.
    lumen : ndarray (Z, X) bool or None
        Inside of the vessels; None where the truth is not known.
    mask : ndarray (Z, X) bool
        Inside of the vessels as segmented from the picture: here bubbles flow.
    maps : ndarray (2, Z, X) float32
        Steps along z and x [frame px/frame].
    upsample : int
        Pixels of this grid in one pixel of the frames, along each axis.
    source : str
        Where the vessels come from, in words for a figure's title.
    """

    picture: NDArray[np.float32]
    lumen: NDArray[np.bool_] | None
    mask: NDArray[np.bool_]
    maps: NDArray[np.float32]
    upsample: int
    source: str

    def __post_init__(self) -> None:
        # Scenes are cached and shared, so nobody may change them.
        for array in (self.picture, self.lumen, self.mask, self.maps):
            if array is not None:
                array.setflags(write=False)


def cam_pictures(cfg: Config, split: str) -> range:
    """Give the numbers of the pictures that the sequences of a split take in turn.

    Parameters
    ----------
    cfg : Config
        Settings.
    split : {"train", "validation", "test"}
        They share no picture. The paper does not say whether its test pictures differ from its
        training pictures.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> [cam_pictures(load_config("paper"), split) for split in SPLITS]
    [range(0, 4), range(1000, 1001), range(2000, 2001)]
    """
    first = _PICTURES_PER_SPLIT * SPLITS.index(check_choice(split, SPLITS, "split"))
    n_pictures = cfg.cam.n_pictures if split == "train" else cfg.cam.n_test_pictures
    return range(first, first + n_pictures)


@functools.lru_cache(maxsize=16)
def cam_scene(cfg: Config, number: int) -> Scene:
    """Grow a CAM-like picture, cut a part out of it, segment that and let blood flow (Fig. 2a-d).

    Parameters
    ----------
    cfg : Config
        Settings, section ``cam``.
    number : int
        Number of the picture, see `cam_pictures`.

    Raises
    ------
    ValueError
        Frames larger than the picture.
    """
    rng = seeded_stream(cfg.seed, "cam picture", number)
    side = cfg.cam.picture_px
    if max(cfg.cam.shape_px) > side:
        raise ValueError(
            f"frames of {cfg.cam.shape_px} px do not fit into a picture of {side} x {side} px: "
            "raise cam.picture_px or lower cam.shape_px"
        )
    network = grow_network((side, side), rng=rng)
    n_z, n_x = cfg.cam.shape_px
    top = int(rng.integers(side - n_z + 1))
    left = int(rng.integers(side - n_x + 1))
    part = (slice(top, top + n_z), slice(left, left + n_x))
    picture = photograph(network, rng=rng)[part]
    mask = segment_vessels(picture)
    maps = displacement_maps(
        mask,
        px_mm=cfg.acquisition.px_mm,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        max_speed_mm_s=cfg.cam.max_speed_mm_s,
        rng=rng,
    )
    lumen = lumen_mask(network)[part]
    return Scene(picture, lumen, mask, maps, 1, f"CAM-like picture {number}, grown")


def invivo_scene(cfg: Config, data_dir: str | Path | None = None) -> Scene:
    """Lay out the vessels of a brain, finer than the frames by ``cfg.invivo.upsample``.

    PALA's maps of a rat's brain give course, direction and speed where they have been fetched to
    `data_dir` or lie in the mirror, see `ulmpaper.io.fetch`; nothing is downloaded here. Otherwise
    vessels are grown. The scene's `source` says which.
    """
    if _at_hand("rat-brain-map", data_dir):
        return _brain_map_scene(cfg, fetch("rat-brain-map", data_dir))
    rng = seeded_stream(cfg.seed, "invivo vessels", 0)
    network = grow_network(_fine_shape(cfg), rng=rng)
    picture = photograph(network, rng=rng)
    mask = segment_vessels(picture)
    maps = displacement_maps(
        mask,
        px_mm=cfg.acquisition.px_mm,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        max_speed_mm_s=cfg.invivo.max_speed_mm_s,
        rng=rng,
    )
    return Scene(picture, lumen_mask(network), mask, maps, cfg.invivo.upsample, "grown vessels")


# --- PSF ---------------------------------------------------------------------------------------


def psf_bank(cfg: Config, kind: str | None = None, split: str = "train") -> PsfBank:
    """Give the PSFs of a part of the simulated data, on the pixels of the settings.

    Parameters
    ----------
    cfg : Config
        Settings; the pixel is ``cfg.acquisition.px_mm``.
    kind : {"bmode", "iq", "gaussian"}, optional
        Envelopes cut from B-mode on pixels of a wavelength, as in the paper; PSFs with their phase,
        exact between the pixels; Gaussian ones. By default ``cfg.cam.psf``.
    split : {"train", "validation", "test"}
        No PSF is in two splits. Only those from B-mode are the same in all, as in the paper.
    """
    kind = check_choice(cfg.cam.psf if kind is None else kind, _PSF_KINDS, "kind of PSF")
    pitch = round(cfg.acquisition.px_mm / WAVELENGTH_MM, 9)
    return _bank(kind, "train" if kind == "bmode" else check_choice(split, SPLITS, "split"), pitch)


# --- frames: one block of given vessels and PSFs -----------------------------------------------


def simulate_block(
    mask: ArrayLike,
    maps: ArrayLike,
    bank: PsfBank,
    *,
    n_frames: int,
    n_bubbles: int | tuple[int, int],
    rng: np.random.Generator,
    ratio_db: float | tuple[float, float] | None = 25.0,
    amplitude: str = "uniform",
    mean_life: float = 400.0,
    cross_speed: float = 0.0,
    memory: float = 1.0,
    speckle: NDArray[np.complex64] | None = None,
    px_mm: float = 0.09856,
    frame_rate_hz: float = 1000.0,
    iq: bool = False,
    device: str = "cpu",
    batch_frames: int = 4,
) -> Block:
    """Simulate a sequence with its truth.

    Parameters
    ----------
    mask, maps, n_frames, n_bubbles, rng, amplitude, mean_life
        See `ulmpaper.simulator.advect`.
    bank : PsfBank
        PSFs; each bubble keeps one for life.
    ratio_db : float, (float, float) or None
        Mean amplitude of the bubbles over the root mean square of the background [dB], or the range
        from which the sequence draws it. None: no background.
    cross_speed : float
        Above 0, bubbles cross the image plane at this speed, see `ulmpaper.simulator.cross_plane`.
    memory : float
        Correlation of the background from one frame to the next; 1 is the constant background of
        the paper.
    speckle : ndarray, optional
        Field of speckle, larger than a frame, from which the background is cut at a random place;
        this saves making one for each sequence. By default one is made.
    px_mm, frame_rate_hz : float
        Scale of the frames, noted in the block.
    iq, device, batch_frames
        See `ulmpaper.simulator.synthesize`.

    Returns
    -------
    Block
        Frames (T, Z, X), float32 B-mode or complex64 IQ, and the table of
        `ulmpaper.simulator.advect`.

    Raises
    ------
    ValueError
        See `ulmpaper.simulator.advect`; a scale or `memory` outside its limits; no CUDA device.

    Notes
    -----
    Paper, section II-D. The paper takes its amplitude ratio from in vivo data and does not state
    it; 25 dB is ours.

    Examples
    --------
    >>> from ulmpaper.simulator.psf import gaussian_bank
    >>> rng = np.random.default_rng(0)
    >>> mask, maps = np.ones((24, 32), dtype=bool), np.full((2, 24, 32), 0.05)
    >>> bank = gaussian_bank(5, rng=rng)
    >>> block = simulate_block(mask, maps, bank, n_frames=4, n_bubbles=3, rng=rng)
    >>> block.frames.shape, len(block.bubbles)
    ((4, 24, 32), 12)
    """
    from ulmpaper.simulator.imaging import synthesize  # here, since torch takes seconds to load

    check_positive(px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    bubbles = advect(
        mask,
        maps,
        n_frames=n_frames,
        n_bubbles=n_bubbles,
        rng=rng,
        n_psf=len(bank),
        amplitude=amplitude,
        mean_life=mean_life,
    )
    if cross_speed:
        bubbles = cross_plane(bubbles, speed=cross_speed, rng=rng)
    n_z, n_x = np.shape(mask)
    background = None
    if ratio_db is not None:
        background = _draw_background(
            (n_z, n_x), n_frames, bank, rng=rng, ratio_db=ratio_db, memory=memory, field=speckle
        )
    frames = synthesize(
        bubbles,
        bank,
        (n_z, n_x),
        n_frames=n_frames,
        background=background,
        iq=iq,
        device=device,
        batch_frames=batch_frames,
    )
    source = f"simulated flow, {bank.source}"
    return Block(frames.cpu().numpy(), bubbles, px_mm, frame_rate_hz, source)


# --- blocks of the settings --------------------------------------------------------------------


def cam_block(cfg: Config, split: str, number: int, *, device: str = "cpu") -> Block:
    """Simulate a sequence of ``cfg.cam.sequence_frames`` frames as the paper does (section II-D).

    Parameters
    ----------
    cfg : Config
        Settings, section ``cam``.
    split : {"train", "validation", "test"}
        Sets the pictures and the random numbers.
    number : int
        Number of the sequence, from 0 without end.
    device : str
        Where torch draws the frames: ``cpu`` or ``cuda``.

    Returns
    -------
    Block
        B-mode (T, Z, X) float32 with the table of `ulmpaper.simulator.advect`, whose bubbles are
        numbered for each sequence.
    """
    pictures = cam_pictures(cfg, split)
    scene = cam_scene(cfg, pictures[number % len(pictures)])
    block = simulate_block(
        scene.mask,
        scene.maps,
        psf_bank(cfg, split=split),
        n_frames=cfg.cam.sequence_frames,
        n_bubbles=cfg.cam.n_bubbles,
        rng=seeded_stream(cfg.seed, f"cam {split}", number),
        ratio_db=cfg.cam.ratio_db,
        mean_life=cfg.cam.mean_life,
        cross_speed=cfg.cam.cross_speed,
        memory=cfg.cam.memory,
        px_mm=cfg.acquisition.px_mm,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        device=device,
    )
    return dataclasses.replace(block, source=f"CAM simulation, {split} set")


def cam_blocks(cfg: Config, split: str = "test", *, first: int = 0) -> Iterator[Block]:
    """Yield the sequences of a split from number `first` on, ``cfg.cam.n_frames`` frames in all.

    The last sequence is cut to fit.
    """
    size = cfg.cam.sequence_frames
    total = cfg.cam.n_frames
    for number in range(first, -(-total // size)):
        yield cam_block(cfg, split, number).first(total - number * size)


def phantom_blocks(
    cfg: Config, numbers: Iterable[int] | None = None, **options: Any
) -> Iterator[Block]:
    """Yield sequences of the phantom by their numbers, by default all.

    The `options` are those of `ulmpaper.simulator.phantom_block`.
    """
    for number in range(1, cfg.phantom.n_sequences + 1) if numbers is None else numbers:
        yield phantom_block(
            number,
            n_frames=cfg.phantom.n_frames,
            n_bubbles=cfg.phantom.n_bubbles,
            seed=cfg.seed,
            **options,
        )


def invivo_block(cfg: Config, number: int, scene: Scene) -> Block:
    """Simulate a block of IQ in which tissue hides the bubbles.

    Parameters
    ----------
    cfg : Config
        Settings, section ``invivo``.
    number : int
        Number of the block, from 0 without end.
    scene : Scene
        Vessels made by `invivo_scene`.

    Returns
    -------
    Block
        Bubbles, noise and tissue (T, Z, X) complex64, with the true bubbles.

    Notes
    -----
    The tissue breathes, the vessels in it stand still. `ulmpaper.core.svd_filter` from component 10
    on brings back nearly as many bubbles as there are without any tissue. PALA's band of 50 to
    250 Hz loses some: slow bubbles do not pass it.
    """
    # Here, since torch takes seconds to load.
    from ulmpaper.simulator.imaging import cut_speckle, speckle, synthesize, tissue_clutter

    invivo = cfg.invivo
    shape_px = invivo.shape_px
    n_frames = invivo.n_frames
    bank = psf_bank(cfg, "iq", "test")
    rng = seeded_stream(cfg.seed, "invivo block", number)

    # Bubbles drift on the fine grid of the scene, then are placed on the frames' pixels.
    # Steps over one fine pixel need no warning: `invivo_scene` has checked the frames' pixels.
    with warnings.catch_warnings(action="ignore"):
        bubbles = advect(
            scene.mask,
            scene.upsample * scene.maps,
            n_frames=n_frames,
            n_bubbles=invivo.n_bubbles,
            rng=rng,
            n_psf=len(bank),
        )
    bubbles = bubbles.assign(
        z=frame_position(bubbles["z"], upsample=scene.upsample),
        x=frame_position(bubbles["x"], upsample=scene.upsample),
    )

    # Noise is new in each frame. Its level and the tissue's are relative to a mean bubble.
    bubbles_db = 20 * math.log10(MEAN_AMPLITUDE)
    field = speckle((2 * shape_px[0], 2 * shape_px[1]), rng=rng, bank=_probe(bank))
    noise = cut_speckle(field, shape_px, n_frames, memory=0, rng=rng)
    noise *= 10 ** ((bubbles_db - invivo.noise_db) / 20)
    frames = tissue_clutter(
        shape_px,
        n_frames,
        rng=rng,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        level_db=bubbles_db + invivo.tissue_db,
        motion_px=invivo.motion_px,
        px_wavelengths=bank.px_wavelengths,
    )
    drawn = synthesize(bubbles, bank, shape_px, n_frames=n_frames, background=noise, iq=True)
    frames += drawn.numpy()
    return Block(
        frames,
        bubbles,
        px_mm=cfg.acquisition.px_mm,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        source=f"in vivo simulation, {scene.source}",
    )


def invivo_blocks(cfg: Config, scene: Scene, *, first: int = 0, n_jobs: int = 1) -> Iterator[Block]:
    """Yield blocks of the in vivo simulation from number `first` to ``cfg.invivo.n_blocks - 1``.

    Each of `n_jobs` processes makes a block at a time; the blocks do not depend on it.
    """
    n_jobs = max(1, min(count_processes(n_jobs), cfg.invivo.n_blocks - first))
    # One block for each process at a time, so that no more of them are in memory.
    for start in range(first, cfg.invivo.n_blocks, n_jobs):
        numbers = range(start, min(start + n_jobs, cfg.invivo.n_blocks))
        tasks = (joblib.delayed(invivo_block)(cfg, number, scene) for number in numbers)
        with worker_errors():
            yield from joblib.Parallel(n_jobs=n_jobs, max_nbytes=None, **worker_options())(tasks)


# --- random numbers and helpers ----------------------------------------------------------------


def seeded_stream(seed: int, name: str, number: int) -> np.random.Generator:
    """Make the random numbers that a seed, a name and a number determine.

    Parameters
    ----------
    seed : int
        Seed of the settings, 0 or more.
    name : str
        What the numbers are for: streams of different names are independent.
    number : int
        Which picture, block or step, 0 or more.

    Examples
    --------
    >>> a, b = (seeded_stream(2024, name, 0).integers(100, size=3).tolist() for name in "ab")
    >>> a == seeded_stream(2024, "a", 0).integers(100, size=3).tolist(), a == b
    (True, False)
    """
    seed = check_whole(low=0, seed=seed)
    number = check_whole(low=0, number=number)
    return np.random.default_rng(np.random.SeedSequence([seed, zlib.crc32(name.encode()), number]))


def _draw_background(
    shape_px: tuple[int, int],
    n_frames: int,
    bank: PsfBank,
    *,
    rng: np.random.Generator,
    ratio_db: float | tuple[float, float],
    memory: float,
    field: NDArray[np.complex64] | None,
) -> NDArray[np.complex64]:
    """Speckle (1 or T, Z, X) at its level below the bubbles, constant where `memory` is 1."""
    from ulmpaper.simulator.imaging import cut_speckle, speckle

    n_z, n_x = shape_px
    is_constant = memory == 1
    ratio = rng.uniform(*np.broadcast_to(ratio_db, 2))
    if field is None:
        # A background that changes is cut at new places of a larger field.
        size = (n_z, n_x) if is_constant else (2 * n_z, 2 * n_x)
        field = speckle(size, rng=rng, bank=_probe(bank))
    background = cut_speckle(
        field, shape_px, 1 if is_constant else n_frames, memory=memory, rng=rng
    )
    background *= MEAN_AMPLITUDE * 10 ** (-ratio / 20)
    return background


def _brain_map_scene(cfg: Config, folder: Path) -> Scene:
    """Vessels of PALA's maps of a rat's brain."""
    with optional("simulate"):
        from PIL import Image
        from skimage.transform import resize_local_mean

    density, direction, speed = (
        np.asarray(Image.open(folder / f"PALA_InVivoRatBrain_example_{kind}.tif"))
        for kind in ("MatOut", "MatOut_zdir", "VelMorm")
    )
    shape = _fine_shape(cfg)
    mask, maps = vessels_from_density_map(
        density,
        direction,
        speed,
        shape_px=shape,
        px_mm=cfg.acquisition.px_mm,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        max_speed_mm_s=cfg.invivo.max_speed_mm_s,
    )
    grey = resize_local_mean(density.max(axis=2), shape, preserve_range=True)
    picture = grey.astype(np.float32) / 255
    return Scene(picture, None, mask, maps, cfg.invivo.upsample, "PALA's map of a rat's brain")


def _fine_shape(cfg: Config) -> tuple[int, int]:
    """Size of the vessels' grid of ``invivo``."""
    n_z, n_x = cfg.invivo.shape_px
    return cfg.invivo.upsample * n_z, cfg.invivo.upsample * n_x


@functools.lru_cache(maxsize=16)
def _bank(kind: str, split: str, px_wavelengths: float) -> PsfBank:
    """PSFs of a split, resampled once for each pixel."""
    if kind == "gaussian":
        rng = seeded_stream(0, f"{split} PSFs", 0)
        bank = gaussian_bank(_N_GAUSSIAN, rng=rng, curvature_rad=_CURVATURE_RAD)
    else:
        bank = read_bank(SHIPPED_BANK.with_name(_BANKS[kind]))
    if kind == "iq":
        first, last = (round(share * len(bank)) for share in _SHARES[split])
        bank = dataclasses.replace(bank, table=bank.table[first:last])
    return resample(bank, px_wavelengths=px_wavelengths)


def _probe(bank: PsfBank) -> PsfBank:
    """PSF of the speckle, on the pixels of the bubbles' bank."""
    return resample(linear_array_psf(), px_wavelengths=bank.px_wavelengths)


def _at_hand(name: str, data_dir: str | Path | None) -> bool:
    """Tell whether a data set can be fetched without the network."""
    table = registry_table(data_dir)
    if bool((table["fetched"][table["name"] == name] == "yes").all()):
        return True
    mirror = Path(os.environ.get("ULMPAPER_DATA_MIRROR") or os.devnull)
    return all((mirror / file.name).is_file() for file in REGISTRY[name].files)
