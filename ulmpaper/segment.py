"""Vessel masks from pictures: photographs (Fig. 2a and b of the paper) and published super-resolved maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi
from skimage.transform import resize_local_mean

from ulmpaper.flow import displacement_maps, drop_small
from ulmpaper.records import check_choice, check_positive

_RIDGE_SIGMAS_PX = (1, 1.5, 2, 3, 4, 6)
_BACKGROUND_PX = 25
_SURROUNDINGS_PX = 12


def segment_vessels(
    image: ArrayLike,
    *,
    method: str = "frangi",
    bright: bool = False,
    percentiles: tuple[float, float] = (80.0, 90.0),
    contrasts: tuple[float, float] = (0.04, 0.12),
    min_area_px: int = 80,
) -> NDArray[np.bool_]:
    """Find the vessels in a photograph.

    Parameters
    ----------
    image : array_like (Z, X) or (Z, X, 3 or 4)
        Brightness on any scale that starts at 0. Of a colour picture the green channel counts: blood is darkest in it.
    method : {"frangi", "contrast"}
        A ridge filter, or the plain contrast with the surroundings, which is quicker and coarser.
    bright : bool
        Vessels are brighter than the tissue.
    percentiles : (float, float)
        Limits among the ridge filter's values in this picture: a vessel lies above the lower one and somewhere
        reaches the upper one. They set how much of the picture becomes vessel, 10 to 15 % by default.
    contrasts : (float, float)
        The same for ``method="contrast"``, as a share of the surrounding brightness.
    min_area_px : int
        Smaller pieces are dropped [px].

    Returns
    -------
    ndarray (Z, X) bool
        True inside vessels; all False where there are none.

    Raises
    ------
    TypeError
        `image` holds no numbers.
    ValueError
        Not a picture, NaN, negative or constant; unknown method; limits that do not ascend.

    Notes
    -----
    Frangi's filter (MICCAI 1998) with widths of 1 to 6 px acts on the picture divided by its background, a Gaussian
    mean over 25 px; vessels must be darker than their surroundings, 12 px, too. Wide lumens, which the filter leaves
    hollow, are added: areas under 60 % of the background, opened. On pictures of `ulmpaper.vessels.grow_vessels` the
    Dice index with the true lumen is about 0.82 (contrast: 0.78).

    Examples
    --------
    >>> picture = np.ones((60, 60))
    >>> picture[28:33] = 0.4
    >>> segment_vessels(picture)[:, 30].nonzero()[0]
    array([28, 29, 30, 31, 32])
    """
    from skimage.filters import apply_hysteresis_threshold, frangi  # half a second: it loads scipy.stats

    check_choice(method, ("frangi", "contrast"), "method")
    check_positive(min_area_px=min_area_px)
    _check_limits("percentiles", percentiles, 100)
    _check_limits("contrasts", contrasts, 1)
    grey = _rgb(image, "image")[..., 1]
    if np.ptp(grey) == 0:
        raise ValueError("image is constant: there are no vessels to find")
    if bright:
        grey = 1 - grey
    contrast = 1 - _relative(ndi.gaussian_filter(grey, 0.5), _SURROUNDINGS_PX)
    if method == "frangi":
        relative = _relative(grey, _BACKGROUND_PX).astype(np.float32)  # half the time
        ridges = frangi(relative, sigmas=_RIDGE_SIGMAS_PX)
        low, high = np.percentile(ridges, percentiles)
        mask = apply_hysteresis_threshold(np.where(contrast > 0, ridges, 0), low, high)
        mask |= ndi.binary_opening(relative < 0.6)
    else:
        mask = apply_hysteresis_threshold(contrast, *contrasts)
    return drop_small(mask, min_area_px)


def vessels_from_density_map(
    density_rgb: ArrayLike,
    direction_rgb: ArrayLike | None = None,
    speed_rgb: ArrayLike | None = None,
    *,
    px_mm: float,
    frame_rate_hz: float,
    shape_px: tuple[int, int] | None = None,
    max_speed_mm_s: float = 5.0,
    percentiles: tuple[float, float] = (80.0, 90.0),
    min_area_px: int = 60,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Turn pictures of a real super-resolved map into a mask and displacement maps.

    Parameters
    ----------
    density_rgb : array_like (H, W) or (H, W, 3)
        Density to the power 1/3, bright on black. A white scale bar is found by its shape and painted over.
    direction_rgb : array_like (H, W, 3), optional
        Red where blood flows to larger z, blue where to smaller. By default the flow follows from the mask's shape.
    speed_rgb : array_like (H, W, 3), optional
        Speed in PALA's colours; a colour bar is known by the black density under it. By default the speed follows
        from the vessels' radius.
    px_mm, frame_rate_hz : float
        Scale of the result, which need not be the pictures': pixel pitch [mm] and frames per second [Hz].
    shape_px : (int, int), optional
        Grid (Z, X) of the result; by default the pictures' own.
    max_speed_mm_s : float
        Speed at the upper end of the colour bar, or on the axis of the widest vessel [mm/s]. PALA's picture shows no
        number (its script takes the 98th percentile, rounded up to tens); the default is the paper's fastest flow.
    percentiles : (float, float)
        See `segment_vessels`.
    min_area_px : int
        Smaller pieces, on the new grid, are dropped [px].
    rng : numpy.random.Generator, optional
        See `ulmpaper.flow.displacement_maps`; not used where `direction_rgb` is given.

    Returns
    -------
    mask : ndarray (Z, X) bool
    maps : ndarray (2, Z, X) float32
        Steps along z and x [px/frame], zero outside the mask and where measured directions meet.

    Raises
    ------
    TypeError
        A picture holds no numbers.
    ValueError
        A picture is not finite, is black or differs in size; no vessels; a scale that is not above 0.

    Notes
    -----
    Made for the pictures that ``PALA_InVivoULM_example`` writes: 781 x 1181 px of a tenth of a wavelength, scale bar
    of 1 mm. Its speeds are coloured as jet(share^(2/3)), dimmed by the density and brightened by a power of 0.6; all
    three are undone; speeds above 0.82 of the top read as 0.82, for they differ from it in brightness alone. Directions
    and speeds are means over the new pixels, weighted by density.

    Examples
    --------
    >>> picture = np.zeros((60, 90))
    >>> picture[26:35, 5:85] = 1
    >>> mask, maps = vessels_from_density_map(picture, px_mm=0.1, frame_rate_hz=1000)
    >>> bool(mask[30, 40]), round(float(np.abs(maps).max()), 3)
    (True, 0.05)
    """
    display = _rgb(density_rgb, "density_rgb").max(axis=2)
    shape = _check_shape(display.shape if shape_px is None else shape_px)
    bar = _scale_bar(display)
    if bar.any():
        near = ndi.distance_transform_edt(bar, return_distances=False, return_indices=True)
        display = display[tuple(near)]
    density = display**3
    compressed = np.cbrt(resize_local_mean(density, shape))
    mask = segment_vessels(compressed, bright=True, percentiles=percentiles, min_area_px=min_area_px)
    down = share = None
    if direction_rgb is not None:
        colour = _rgb(direction_rgb, "direction_rgb", display.shape)
        down = _weighted_mean(np.sign(colour[..., 0] - colour[..., 2]), np.where(bar, 0, density), shape)
    if speed_rgb is not None:
        colour = _rgb(speed_rgb, "speed_rgb", display.shape)
        hidden = bar | _colour_bar(colour.max(axis=2), density)
        share = _weighted_mean(_speed_share(colour), np.where(hidden, 0, density), shape)
    maps = displacement_maps(
        mask,
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_speed_mm_s=max_speed_mm_s,
        min_area_px=min_area_px,
        downward=down,
        speed_share=share,
        rng=rng,
    )
    return mask, maps


def _rgb(picture: ArrayLike, what: str, shape: tuple[int, ...] | None = None) -> NDArray:
    """Picture as (Z, X, 3) floats whose maximum is 1."""
    array = np.asarray(picture)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must hold numbers, not {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or min(array.shape[:2]) < 8:
        raise ValueError(f"{what} must be a picture (Z, X) or (Z, X, 3) of 8 px or more, not shape {np.shape(picture)}")
    if shape is not None and array.shape[:2] != shape:
        raise ValueError(f"{what} must have the size of density_rgb, {shape}, not {array.shape[:2]}")
    array = array[..., :3].astype(float)
    if not np.isfinite(array).all() or array.min() < 0 or array.max() == 0:
        raise ValueError(f"{what} must hold finite brightnesses from 0 and not be black all over")
    return array / array.max()


def _relative(grey: NDArray, sigma_px: float) -> NDArray:
    return grey / np.maximum(ndi.gaussian_filter(grey, sigma_px), 1e-9)


def _check_limits(name: str, limits: tuple[float, float], top: float) -> None:
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1] <= top:
        raise ValueError(f"{name} must be two ascending numbers from 0 to {top}, not {limits!r}")


def _check_shape(shape_px: tuple[int, ...]) -> tuple[int, int]:
    if len(shape_px) != 2 or not all(isinstance(side, int | np.integer) and side >= 8 for side in shape_px):
        raise ValueError(f"shape_px must be two whole numbers (z, x) of 8 or more, not {shape_px!r}")
    return int(shape_px[0]), int(shape_px[1])


def _scale_bar(display: NDArray) -> NDArray[np.bool_]:
    """A filled rectangle of full white, ten or more times as wide as high, and a pixel of rim."""
    found = np.zeros(display.shape, dtype=bool)
    white, _ = ndi.label(display > 0.98)
    for number, box in enumerate(ndi.find_objects(white), start=1):
        height, width = white[box].shape
        if height >= 2 and width >= 10 * height and (white[box] == number).all():
            found[box] = True
    return ndi.binary_dilation(found, np.ones((3, 3)))


def _colour_bar(brightness: NDArray, density: NDArray) -> NDArray[np.bool_]:
    """Rectangles round patches of colour that stand where no bubble ever passed."""
    found = np.zeros(density.shape, dtype=bool)
    patches, _ = ndi.label(ndi.binary_opening((brightness > 0) & (density == 0), np.ones((5, 5))))
    for box in ndi.find_objects(patches):
        found[box] = True
    return found


def _speed_share(colour: NDArray) -> NDArray:
    """Share of the top speed from PALA's colours, see the notes of `vessels_from_density_map`."""
    jet = colour ** (1 / 0.6)
    jet /= np.maximum(jet.max(axis=2, keepdims=True), 1e-9)
    tilt = jet[..., 0] - jet[..., 2]  # -1 blue to cyan, 1 yellow to red, and straight between
    return (0.5 + 0.125 * tilt + 0.25 * np.sign(tilt) * (1 - jet[..., 1])) ** 1.5


def _weighted_mean(values: NDArray, weight: NDArray, shape: tuple[int, int]) -> NDArray:
    """Mean over each pixel of the new grid and its near neighbours."""
    total, norm = (ndi.gaussian_filter(resize_local_mean(a, shape), 1) for a in (values * weight, weight))
    return total / np.maximum(norm, 1e-12)
