"""Miniature recordings, each written by the library of its format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import imageio_ffmpeg
import nibabel
import numpy as np
import pydicom
import tifffile
import zarr
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid


def write_imagej(path: Path, frames: np.ndarray, px_um: tuple[float, float]) -> None:
    """Stack as ImageJ writes it, 2 ms apart."""
    z_um, x_um = px_um
    about = {"axes": "TYX", "unit": "um", "finterval": 0.002, "fps": 7.0}
    resolution = (1 / x_um, 1 / z_um)
    tifffile.imwrite(path, frames, imagej=True, resolution=resolution, metadata=about)


def write_ome(path: Path, frames: np.ndarray) -> None:
    """OME-TIFF of 0.1 mm pixels, 2 ms apart, in different units."""
    about = {
        "axes": "TYX",
        "PhysicalSizeX": 100.0,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": 0.1,
        "PhysicalSizeYUnit": "mm",
        "TimeIncrement": 2.0,
        "TimeIncrementUnit": "ms",
    }
    tifffile.imwrite(path, frames, ome=True, metadata=about)


def write_zarr(
    path: Path,
    frames: np.ndarray,
    *,
    version: int = 3,
    name: str = "frames",
    about: dict | None = None,
) -> zarr.Array:
    """An array in a group, or in the zip of one."""
    store = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else path
    group = zarr.open_group(store, mode="a", zarr_format=version)
    array = group.create_array(
        name,
        shape=frames.shape,
        dtype=frames.dtype,
        chunks=(2, *frames.shape[1:]),
        attributes=about,
    )
    array[:] = frames
    if path.suffix == ".zip":
        store.close()
    return array


def write_dicom(path: Path, frames: np.ndarray, compress: Any = None, **elements: Any) -> None:
    """Ultrasound multi-frame image of grey (t, z, x) or of colour (t, z, x, 3)."""
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    file.SOPClassUID = UltrasoundMultiFrameImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID
    file.Modality = "US"
    file.NumberOfFrames, file.Rows, file.Columns = frames.shape[:3]
    file.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    file.PhotometricInterpretation = "RGB" if frames.ndim == 4 else "MONOCHROME2"
    if frames.ndim == 4:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8 * frames.dtype.itemsize
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = 0
    file.PixelData = frames.tobytes()
    for name, value in elements.items():
        setattr(file, name, value)
    if compress is not None:
        file.compress(compress)
    file.save_as(path, enforce_file_format=True)


def region(z_cm: float, x_cm: float) -> pydicom.Dataset:
    """Region of an ultrasound picture."""
    item = Dataset()
    item.RegionSpatialFormat = item.RegionDataType = 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = x_cm
    item.PhysicalDeltaY = z_cm
    return item


def write_nifti(
    path: Path, array: np.ndarray, zooms: tuple[float, ...], units: tuple[str, str] | None
) -> None:
    """Array in the order of NIfTI."""
    image = nibabel.Nifti1Image(array, np.eye(4))
    if units:
        image.header.set_xyzt_units(*units)
    image.header.set_zooms(zooms)
    nibabel.save(image, path)


def write_video(path: Path, frames: np.ndarray, codec: str, pix_fmt: str) -> None:
    """Grey (t, z, x) or colour (t, z, x, 3) at 25 frames per second."""
    is_colour = frames.ndim == 4
    writer = imageio_ffmpeg.write_frames(
        str(path),
        frames.shape[2:0:-1],
        pix_fmt_in="rgb24" if is_colour else "gray",
        pix_fmt_out=pix_fmt,
        fps=25,
        codec=codec,
        macro_block_size=1,
        ffmpeg_log_level="error",
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame).tobytes())
    writer.close()


def write_zea(path: Path, kinds: dict[str, np.ndarray], *, grid: Any = None, period_s: Any) -> None:
    """File of zea: flat arrays, or maps of values with coordinates (x, y, z) [m]."""
    with h5py.File(path, "w") as file:
        file.attrs["zea_version"] = "0.1.0"
        for kind, values in kinds.items():
            if grid is None:
                file[f"data/{kind}"] = values
            else:
                file[f"data/{kind}/values"] = values
                file[f"data/{kind}/coordinates"] = grid
        file["scan/probe_geometry"] = np.zeros((4, 3), np.float32)
        if period_s is not None:
            n_frames = len(next(iter(kinds.values())))
            times = np.full((n_frames, 4), period_s / 4, np.float32)
            file["scan/time_to_next_transmit"] = times


def cartesian(n_z: int, n_x: int, dz_m: float, dx_m: float) -> np.ndarray:
    """Coordinates (z, x, xyz) [m] as zea keeps them."""
    z, x = np.meshgrid(0.01 + dz_m * np.arange(n_z), dx_m * np.arange(n_x), indexing="ij")
    return np.stack([x, np.zeros_like(x), z], axis=-1).astype(np.float32)


def write_uff(
    path: Path,
    frames: np.ndarray,
    *,
    step_m: tuple[float, float] = (1e-4, 1e-4),
    scan: str = "uff.linear_scan",
    n_waves: int = 1,
) -> None:
    """Beamformed IQ (t, z, x) as USTB writes it, pixels column by column and axes in reverse."""
    n_t, n_z, n_x = frames.shape
    pixels = frames.transpose(0, 2, 1).reshape(n_t, 1, 1, n_x * n_z)
    pixels = np.repeat(pixels, n_waves, axis=1)
    with h5py.File(path, "w") as file:
        file.attrs["version"] = "v1.2.0"
        group = file.create_group("b_data")
        group.attrs["class"] = np.bytes_("uff.beamformed_data")
        data = group.create_group("data")
        data.attrs["complex"] = 1
        data["real"] = pixels.real.astype(np.float32)
        data["imag"] = pixels.imag.astype(np.float32)
        group["frame_rate"] = np.ones((1, 1), np.float32)
        group.create_group("scan").attrs["class"] = np.bytes_(scan)
        if scan == "uff.linear_scan":
            for axis, n, step in (("z", n_z, step_m[0]), ("x", n_x, step_m[1])):
                group[f"scan/{axis}_axis"] = (step * np.arange(n, dtype=np.float32))[None]
