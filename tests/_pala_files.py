"""Miniature files in PALA's layouts, as MATLAB would save them: (z, x, t), counted from 1,
positions in wavelengths.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import savemat

from ulmpaper.config import load_config
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.simulator.simulate import invivo_block, invivo_scene

VERSIONS = ("v5", "v7", "v7.3")

ORIGIN = np.array([[-72.0, 0.0, 16.0]])
GRID = {
    "Origin": ORIGIN,
    "PDelta": np.array([[1.0, 0.0, 1.0]]),
    "Size": np.array([[12.0, 9.0, 1.0]]),
}
TRANSDUCER = {"frequency": 15.625, "name": "L22-14v"}
MEDIUM = {"Parameters": {"speedOfSound": 1540.0}}


def write_mat(path: Path, variables: dict[str, Any], version: str) -> None:
    """Save variables as MATLAB does under ``-v6`` (v5, not compressed), ``-v7`` or ``-v7.3``."""
    if version != "v7.3":
        savemat(path, variables, do_compression=version == "v7")
        return
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            _write_hdf5(file, name, value)
    with path.open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, made for a test".ljust(124) + b"\x00\x02IM")


def _write_hdf5(group: h5py.Group, name: str, value: Any) -> None:
    if isinstance(value, dict):
        struct = group.create_group(name)
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        for field, inner in value.items():
            _write_hdf5(struct, field, inner)
        return
    if isinstance(value, str):
        value = np.array([[ord(letter) for letter in value]], dtype=np.uint16)
    array = np.atleast_2d(value)
    kind = array.dtype.name
    if array.dtype.kind == "c":
        part = array.real.dtype
        pair = np.empty(array.shape, dtype=[("real", part), ("imag", part)])
        pair["real"], pair["imag"], array, kind = array.real, array.imag, pair, part.name
    data = group.create_dataset(name, data=array.T)
    data.attrs["MATLAB_class"] = np.bytes_(
        {"float64": "double", "float32": "single"}.get(kind, kind)
    )


def list_pos(
    points: list[tuple[int, float, float, float]], n_frames: int, *, n_rows: int = 6
) -> NDArray:
    """PALA's ``ListPos`` (n, 4, t) of points (frame, z_px, x_px, reflectivity) in 0-based pixels;
    NaN where absent.
    """
    table = np.full((n_rows, 4, n_frames), np.nan)
    for frame, z, x, reflectivity in points:
        row = n_rows - 1 - int(np.isfinite(table[:, 0, frame]).sum())
        table[row, :, frame] = x + ORIGIN[0, 0], 0.0, z + ORIGIN[0, 2], reflectivity
    return table


def write_insilico(
    folder: Path,
    sequence: int,
    iq: NDArray,
    truth: NDArray,
    *,
    version: str = "v7",
    settings: dict[str, Any] | None = None,
) -> Path:
    """Folder of PALA's in silico flow with one sequence; `settings` None leaves the parameter file
    out.
    """
    (folder / "IQ").mkdir(parents=True, exist_ok=True)
    path = folder / "IQ" / f"PALA_InSilicoFlow_IQ{sequence:03d}.mat"
    write_mat(path, {"IQ": iq, "ListPos": truth, "Media": {"nbPoints": 3.0}}, version)
    if settings is not None:
        write_mat(folder / "PALA_InSilicoFlow_sequence.mat", settings, version)
    return path


def insilico_settings(frame_rate_hz: float = 500.0) -> dict[str, Any]:
    """Variables of ``PALA_InSilicoFlow_sequence.mat`` that matter here, and one that must not
    mislead.
    """
    return {
        "P": {"FrameRate": frame_rate_hz, "BlocSize": 100.0},
        "PData": GRID,
        "Trans": TRANSDUCER,
        "Resource": MEDIUM,
        "UF": {"TwFreq": 15.0, "FrameRateUF": 1.0},
    }


def write_ratbrain(folder: Path, block: int, iq: NDArray, *, version: str = "v5") -> Path:
    """Block of the rat brain of Zenodo record 4343435."""
    (folder / "IQ").mkdir(parents=True, exist_ok=True)
    path = folder / "IQ" / f"PALA_InVivoRatBrain_{block:03d}.mat"
    scale = {
        "UF": {"TwFreq": 15.0, "FrameRateUF": 1000.0, "NbFrames": float(iq.shape[2])},
        "PData": GRID,
    }
    write_mat(path, {"IQ": iq, **scale}, version)
    return path


def write_record(folder: Path, block: int, iq: NDArray, *, settings: bool = True) -> Path:
    """Block of record 7883227 as its archives unpack: (I and Q, z, x, t) float32, ``param.mat`` two
    folders up.
    """
    inner = folder / "IQ_001_to_025" / "IQ"
    inner.mkdir(parents=True, exist_ok=True)
    path = inner / f"IQ_{block:03d}.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("iq", data=np.stack([iq.real, iq.imag]).astype(np.float32))
    if settings:
        param = {"FrameRate": 1000.0, "SpeedOfSound": 1540.0, "Angles": np.zeros((1, 5))}
        write_mat(
            folder / "param.mat", {"param": param, "Trans": TRANSDUCER, "PixelData": GRID}, "v5"
        )
    return path


def write_flow(data_dir: Path, numbers: Iterable[int] = (1, 16), *, n_frames: int = 32) -> Path:
    """Folder of sequences of the in silico flow where `insilico` looks for them: PALA's grid, but
    few frames.
    """
    folder = data_dir / "PALA_data_InSilicoFlow"
    for number in numbers:
        rng = np.random.default_rng(number)
        block = simulate_testcard(
            n_frames=n_frames, n_bubbles=20, shape_px=(84, 143), rng=rng, noise=0.005
        )
        phase = np.exp(1j * rng.uniform(0, 6, (1, 84, 143)))
        iq = np.moveaxis(block.frames * phase, 0, -1).astype(np.complex64)
        rows = block.truth[["frame", "z", "x", "score"]].itertuples(index=False, name=None)
        truth = list_pos(list(rows), n_frames, n_rows=40)
        write_insilico(folder, number, iq, truth, settings=insilico_settings())
    return folder


def brain_blocks(n_blocks: int = 2) -> list[NDArray]:
    """IQ (z, x, t) of a brain under moving tissue, small and short."""
    small = {
        "invivo.n_blocks": n_blocks,
        "invivo.n_frames": 40,
        "invivo.shape_px": (64, 64),
        "invivo.n_bubbles": 25,
    }
    cfg = load_config("smoke", small)
    scene = invivo_scene(cfg)
    return [
        invivo_block(cfg, number, scene).frames.transpose(1, 2, 0) for number in range(n_blocks)
    ]
