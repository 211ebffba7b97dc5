"""From settings to blocks: `cam`, `phantom`, `invivo`.

Everything random comes from the generator `rng`, so a seed gives the same bubbles on every machine.

From settings to data: vessels, blocks of frames and whole data sets of three kinds.

``cam`` is the paper's simulator, ``phantom`` the test by other physics, ``invivo`` a stand-in for a living brain. Each
picture and each block draws its random numbers from the seed, its kind and its own number: it can be made alone, in
any order and in any process, and comes out the same.
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
from PIL import Image
from skimage.transform import resize_local_mean

from ulmpaper.config import Config, Settings, as_config
from ulmpaper.core.records import Block, check_choice, check_positive
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.io.fetch import REGISTRY, fetch, registry_table
from ulmpaper.simulator import imaging
from ulmpaper.simulator.array import WAVELENGTH_MM
from ulmpaper.simulator.flow import MEAN_AMPLITUDE, advect, cross_plane, displacement_maps
from ulmpaper.simulator.imaging import cut_speckle, speckle, synthesize, tissue_clutter
from ulmpaper.simulator.phantom import SPLITS as PHANTOM_SPLITS
from ulmpaper.simulator.phantom import phantom_block
from ulmpaper.simulator.psf import SHIPPED_BANK, PsfBank, linear_array_psf, read_bank, resample
from ulmpaper.simulator.vessels import (
    grow_network,
    lumen_mask,
    photograph,
    segment_vessels,
    vessels_from_density_map,
)


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
        The paper's simulator; tubes imaged by other physics; a brain under moving tissue; Gaussian spots.
    cfg : Config, mapping or str, optional
        Settings, as in `ulmpaper.ulm`, sections ``cam``, ``phantom``, ``invivo`` or ``example``.
    split : {"test", "train", "validation"}
        Of ``cam`` and ``phantom``: blocks of different splits share no picture and no random number. The phantom has no
        ``train``.
    number : int
        Which block, from 0. The same number gives the same block.
    n_frames : int, optional
        Frames of the block; by default as the settings say.

    Returns
    -------
    Block
        Amplitude (T, Z, X) float32, or complex64 IQ of ``phantom``; bubbles and scale.

    Raises
    ------
    ValueError
        Unknown kind or split, or a number that the split has not.

    Examples
    --------
    >>> simulate("testcard", "smoke", n_frames=5).frames.shape
    (5, 40, 48)
    """
    cfg = as_config(cfg)
    check_choice(kind, ("cam", "phantom", "invivo", "testcard"), "kind of data")
    check_choice(split, SPLITS, "split")
    if number < 0:
        raise ValueError(f"number must be 0 or more, not {number}")
    if kind == "testcard":
        e = cfg.example
        return simulate_testcard(
            n_frames=n_frames or e.n_frames,
            n_bubbles=e.n_bubbles,
            shape_px=e.shape_px,
            noise=e.noise,
            rng=_rng(cfg, f"testcard {split}", number),
        )
    if kind == "cam":
        if n_frames is not None:
            cfg = dataclasses.replace(
                cfg, cam=dataclasses.replace(cfg.cam, sequence_frames=n_frames)
            )
        return cam_block(cfg, split, number)
    if kind == "phantom":
        sequences = PHANTOM_SPLITS[check_choice(split, PHANTOM_SPLITS, "split of the phantom")]
        if number >= len(sequences):
            raise ValueError(
                f"the phantom's {split} split has sequences 0 to {len(sequences) - 1}, not {number}"
            )
        p = cfg.phantom
        return phantom_block(
            sequences[number], n_frames=n_frames or p.n_frames, n_bubbles=p.n_bubbles, seed=cfg.seed
        )
    if n_frames is not None:
        cfg = dataclasses.replace(cfg, invivo=dataclasses.replace(cfg.invivo, n_frames=n_frames))
    return invivo_block(cfg, number, invivo_scene(cfg))


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
        See `advect`.
    bank : PsfBank
        PSFs; each bubble keeps one for life.
    ratio_db : float, (float, float) or None
        Mean amplitude of the bubbles over the root mean square of the background [dB], or the range from which the
        sequence draws it. None is no background.
    cross_speed : float
        Above 0, bubbles cross the image plane at this speed, see `fade`.
    memory : float
        Correlation of the background from one frame to the next; 1 is the constant background of the paper.
    speckle : ndarray, optional
        Field to cut the background from at a random place, larger than the frame; spares its making for each
        sequence. By default one is made.
    px_mm, frame_rate_hz : float
        Scale of the frames, noted in the block.
    iq, device, batch_frames
        See `synthesize`.

    Returns
    -------
    Block
        Frames (T, Z, X), float32 B-mode or complex64 IQ, and the table of `advect`.

    Raises
    ------
    ValueError
        See `advect`; a scale or `memory` outside its limits; CUDA asked for and absent.

    Notes
    -----
    Paper, section II-D. The paper's amplitude ratio comes from in vivo data and is not stated; 25 dB is ours.

    Examples
    --------
    >>> from ulmpaper.simulator.psf import gaussian_bank
    >>> rng = np.random.default_rng(0)
    >>> mask, maps = np.ones((24, 32), dtype=bool), np.full((2, 24, 32), 0.05)
    >>> block = simulate_block(mask, maps, gaussian_bank(5, rng=rng), n_frames=4, n_bubbles=3, rng=rng)
    >>> block.frames.shape, len(block.bubbles)
    ((4, 24, 32), 12)
    """
    check_positive(px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    life: dict[str, Any] = {"amplitude": amplitude, "mean_life": mean_life, "n_psf": len(bank)}
    bubbles = advect(mask, maps, n_frames=n_frames, n_bubbles=n_bubbles, rng=rng, **life)
    if cross_speed:
        bubbles = cross_plane(bubbles, speed=cross_speed, rng=rng)
    n_z, n_x = np.shape(mask)
    behind = None
    if ratio_db is not None:
        ratio = rng.uniform(*np.broadcast_to(ratio_db, 2))
        if speckle is None:
            probe = resample(linear_array_psf(), px_wavelengths=bank.px_wavelengths)
            speckle = imaging.speckle(
                (n_z, n_x) if memory == 1 else (2 * n_z, 2 * n_x), rng=rng, bank=probe
            )
        behind = cut_speckle(
            speckle, (n_z, n_x), 1 if memory == 1 else n_frames, memory=memory, rng=rng
        )
        behind *= MEAN_AMPLITUDE * 10 ** (-ratio / 20)
    frames = synthesize(
        bubbles,
        bank,
        (n_z, n_x),
        n_frames=n_frames,
        background=behind,
        iq=iq,
        device=device,
        batch_frames=batch_frames,
    )
    return Block(
        frames.cpu().numpy(), bubbles, px_mm, frame_rate_hz, f"simulated flow, {bank.source}"
    )


# Number of the first picture of each split; the settings allow at most a thousand pictures in each.
SPLITS = {"train": 0, "validation": 1000, "test": 2000}
_BANKS = {"bmode": "psf_bank.npz", "iq": "psf_bank_iq.npz"}


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
        Pixels of this grid for one of the frames, along each axis.
    source : str
        What it is, in words fit for a figure's title.
    """

    picture: NDArray[np.float32]
    lumen: NDArray[np.bool_] | None
    mask: NDArray[np.bool_]
    maps: NDArray[np.float32]
    upsample: int
    source: str

    def __post_init__(self) -> None:
        for array in (self.picture, self.lumen, self.mask, self.maps):
            if array is not None:
                array.setflags(write=False)  # for scenes are kept and shared


def psf_bank(cfg: Config, kind: str | None = None) -> PsfBank:
    """Read the PSFs that come with the package, on the pixels of the settings.

    Parameters
    ----------
    cfg : Config
        Settings; the pixel is ``cfg.acquisition.px_mm``.
    kind : {"bmode", "iq"}, optional
        Envelopes cut from B-mode, or PSFs with their phase cut from IQ; by default ``cfg.cam.psf``.
    """
    name = _BANKS[check_choice(cfg.cam.psf if kind is None else kind, _BANKS, "kind of PSF")]
    return _bank(name, round(cfg.acquisition.px_mm / WAVELENGTH_MM, 9))


def cam_pictures(cfg: Config, split: str) -> range:
    """Numbers of the pictures that the sequences of a split take in turn.

    Parameters
    ----------
    cfg : Config
        Settings.
    split : {"train", "validation", "test"}
        They share no picture. The paper does not say whether its test pictures are others than the training ones.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> [cam_pictures(load_config("paper"), split) for split in SPLITS]
    [range(0, 4), range(1000, 1001), range(2000, 2001)]
    """
    first = SPLITS[check_choice(split, SPLITS, "split")]
    return range(
        first, first + (cfg.cam.n_pictures if split == "train" else cfg.cam.n_test_pictures)
    )


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
    rng, side = _rng(cfg, "cam picture", number), cfg.cam.picture_px
    if max(cfg.cam.shape_px) > side:
        raise ValueError(
            f"frames of {cfg.cam.shape_px} px do not fit into a picture of {side} x {side} px: "
            "raise cam.picture_px or lower cam.shape_px"
        )
    network = grow_network((side, side), rng=rng)
    part = tuple(
        slice(start, start + n)
        for n in cfg.cam.shape_px
        for start in [int(rng.integers(side - n + 1))]
    )
    picture, lumen = photograph(network, rng=rng)[part], lumen_mask(network)[part]
    mask = segment_vessels(picture)
    maps = displacement_maps(mask, **_scale(cfg), max_speed_mm_s=cfg.cam.max_speed_mm_s, rng=rng)
    return Scene(picture, lumen, mask, maps, 1, f"CAM-like picture {number}, grown")


def cam_block(cfg: Config, split: str, number: int, *, device: str = "cpu") -> Block:
    """Simulate a sequence of ``cfg.cam.sequence_frames`` frames as the paper does (section II-D).

    Parameters
    ----------
    cfg : Config
        Settings, section ``cam``.
    split : {"train", "validation", "test"}
        Whose pictures and random numbers.
    number : int
        Number of the sequence, from 0 without end.
    device : str
        Where torch draws the frames: ``cpu`` or ``cuda``.

    Returns
    -------
    Block
        B-mode (T, Z, X) float32 with the table of `flow.advect`, whose bubbles are numbered for each sequence.
    """
    pictures, cam = cam_pictures(cfg, split), cfg.cam
    scene = cam_scene(cfg, pictures[number % len(pictures)])
    names = ("n_bubbles", "ratio_db", "mean_life", "cross_speed", "memory")
    block = simulate_block(
        scene.mask,
        scene.maps,
        psf_bank(cfg),
        n_frames=cam.sequence_frames,
        rng=_rng(cfg, f"cam {split}", number),
        device=device,
        **{name: getattr(cam, name) for name in names},
        **_scale(cfg),
    )
    return dataclasses.replace(block, source=f"CAM simulation, {split} set")


def cam_blocks(cfg: Config, split: str = "test", *, first: int = 0) -> Iterator[Block]:
    """Yield the sequences of a split from number `first` on, ``cfg.cam.n_frames`` in all; the last is cut to fit."""
    size, total = cfg.cam.sequence_frames, cfg.cam.n_frames
    for number in range(first, -(-total // size)):
        yield cam_block(cfg, split, number).first(total - number * size)


def phantom_blocks(
    cfg: Config, numbers: Iterable[int] | None = None, **options: Any
) -> Iterator[Block]:
    """Yield sequences of the phantom by their numbers, by default all; `options` as in `phantom.phantom_block`."""
    what: dict[str, Any] = {
        "n_frames": cfg.phantom.n_frames,
        "n_bubbles": cfg.phantom.n_bubbles,
        "seed": cfg.seed,
    }
    for number in range(1, cfg.phantom.n_sequences + 1) if numbers is None else numbers:
        yield phantom_block(number, **what, **options)


def invivo_scene(cfg: Config, data_dir: str | Path | None = None) -> Scene:
    """Lay out the vessels of a brain, finer than the frames by ``cfg.invivo.upsample``.

    PALA's maps of a rat's brain give course, direction and speed where they have been fetched to `data_dir` or lie in
    the mirror, see `fetch.fetch`; nothing is downloaded here. Else vessels are grown; `source` tells which.
    """
    px, rng = cfg.invivo.upsample, _rng(cfg, "invivo vessels", 0)
    shape = (px * cfg.invivo.shape_px[0], px * cfg.invivo.shape_px[1])
    flow = {**_scale(cfg), "max_speed_mm_s": cfg.invivo.max_speed_mm_s}
    if _at_hand("rat-brain-map", data_dir):
        folder = fetch("rat-brain-map", data_dir)
        names = [
            folder / f"PALA_InVivoRatBrain_example_{kind}.tif"
            for kind in ("MatOut", "MatOut_zdir", "VelMorm")
        ]
        density, direction, speed = (np.asarray(Image.open(name)) for name in names)
        mask, maps = vessels_from_density_map(density, direction, speed, shape_px=shape, **flow)
        picture = (
            resize_local_mean(density.max(axis=2), shape, preserve_range=True).astype(np.float32)
            / 255
        )
        return Scene(picture, None, mask, maps, px, "PALA's map of a rat's brain")
    network = grow_network(shape, rng=rng)
    picture = photograph(network, rng=rng)
    mask = segment_vessels(picture)
    maps = displacement_maps(mask, **flow, rng=rng)
    return Scene(picture, lumen_mask(network), mask, maps, px, "grown vessels")


def invivo_block(cfg: Config, number: int, scene: Scene) -> Block:
    """Simulate a block of IQ in which tissue hides the bubbles.

    Parameters
    ----------
    cfg : Config
        Settings, section ``invivo``.
    number, scene : int, Scene
        Number of the block, from 0 without end; vessels made by `invivo_scene`.

    Returns
    -------
    Block
        Bubbles, noise and tissue (T, Z, X) complex64, with the true bubbles.

    Notes
    -----
    The tissue breathes, the vessels in it stand still. `filters.svd_filter` from component 10 on brings the bubbles
    back, nearly as many as where there is no tissue at all. PALA's band of 50 to 250 Hz costs some: slow bubbles do
    not pass it.
    """
    invivo, rng, bank = cfg.invivo, _rng(cfg, "invivo block", number), psf_bank(cfg, "iq")
    n_frames, (n_z, n_x), px = invivo.n_frames, invivo.shape_px, scene.upsample
    life: dict[str, Any] = {"n_bubbles": invivo.n_bubbles, "n_psf": len(bank)}
    with warnings.catch_warnings(
        action="ignore"
    ):  # of steps over a pixel, which `invivo_scene` has judged
        bubbles = advect(scene.mask, px * scene.maps, n_frames=n_frames, rng=rng, **life)
    bubbles = bubbles.assign(**{axis: (bubbles[axis] + 0.5) / px - 0.5 for axis in ("z", "x")})
    probe = resample(linear_array_psf(), px_wavelengths=bank.px_wavelengths)
    noise = cut_speckle(
        speckle((2 * n_z, 2 * n_x), rng=rng, bank=probe), (n_z, n_x), n_frames, memory=0, rng=rng
    )
    bubbles_db = 20 * math.log10(MEAN_AMPLITUDE)
    noise *= 10 ** ((bubbles_db - invivo.noise_db) / 20)
    frames = tissue_clutter(
        (n_z, n_x),
        n_frames,
        rng=rng,
        frame_rate_hz=cfg.acquisition.frame_rate_hz,
        level_db=bubbles_db + invivo.tissue_db,
        motion_px=invivo.motion_px,
        px_wavelengths=bank.px_wavelengths,
    )
    frames += synthesize(
        bubbles, bank, (n_z, n_x), n_frames=n_frames, background=noise, iq=True
    ).numpy()
    return Block(frames, bubbles, **_scale(cfg), source=f"in vivo simulation, {scene.source}")


def invivo_blocks(cfg: Config, scene: Scene, *, first: int = 0, n_jobs: int = 1) -> Iterator[Block]:
    """Yield blocks of the in vivo simulation from number `first` on, ``cfg.invivo.n_blocks`` in all.

    Each of `n_jobs` processes makes a block at a time; the blocks do not depend on it.
    """
    n_jobs = joblib.effective_n_jobs(n_jobs)
    for start in range(
        first, cfg.invivo.n_blocks, n_jobs
    ):  # so that no more blocks than these are in memory
        numbers = range(start, min(start + n_jobs, cfg.invivo.n_blocks))
        tasks = (joblib.delayed(invivo_block)(cfg, number, scene) for number in numbers)
        yield from joblib.Parallel(n_jobs=n_jobs, max_nbytes=None)(tasks)


@functools.lru_cache(maxsize=4)
def _bank(name: str, px_wavelengths: float) -> PsfBank:
    return resample(read_bank(SHIPPED_BANK.with_name(name)), px_wavelengths=px_wavelengths)


def _scale(cfg: Config) -> dict[str, Any]:
    return {"px_mm": cfg.acquisition.px_mm, "frame_rate_hz": cfg.acquisition.frame_rate_hz}


def _rng(cfg: Config, what: str, number: int) -> np.random.Generator:
    return np.random.default_rng(
        np.random.SeedSequence([cfg.seed, zlib.crc32(what.encode()), number])
    )


def _at_hand(name: str, data_dir: str | Path | None) -> bool:
    """Whether a data set can be fetched without the network."""
    table, mirror = (
        registry_table(data_dir),
        Path(os.environ.get("ULMPAPER_DATA_MIRROR") or os.devnull),
    )
    fetched = bool((table["fetched"][table["name"] == name] == "yes").all())
    return fetched or all((mirror / file.name).is_file() for file in REGISTRY[name].files)
