"""Grow, photograph and segment vessels (Fig. 2a, b).

The paper cuts its training vessels out of photographs of CAMs, which are not public. The pictures
grown here stand in for them (Fig. 2a). A network grows by space colonization: points scattered over
the membrane, short of blood, each pull the nearest vessel towards themselves until a vessel has
come close enough. Coarse passes lay the trunks, fine ones fill the gaps between them. Radii then
follow Murray's law, and blood absorbs light by the law of Beer and Lambert.

Masks of vessels (Fig. 2b) come from such photographs, or from published super-resolved maps.
`ulmpaper.simulator.displacement_maps` makes blood flow through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi
from scipy.spatial import cKDTree

from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_choice, check_positive, check_rng
from ulmpaper.simulator.flow import displacement_maps, drop_small

_MARGIN_PX = 10  # vessels enter from outside the picture and leave it
_SMOOTHINGS = 4  # after each pass
_SUPERSAMPLE = 2  # the picture is drawn on a grid so much finer
_RIDGE_SIGMAS_PX = (1, 1.5, 2, 3, 4, 6)
_BACKGROUND_PX = 25
_SURROUNDINGS_PX = 12


class _Pass(NamedTuple):
    """One pass of growth, from coarse to fine."""

    attractors: int  # on 512 x 512 px; other sizes in proportion to their area
    reach_px: float  # an attractor pulls vessels nearer than this ...
    sated_px: float  # ... until one is nearer than that
    step_px: float
    inertia: float
    jitter: float


# Densities rise gently from pass to pass. With larger jumps, the tip of each trunk would be the
# nearest vessel to a whole empty quarter and sprout a fan.
_PASSES = (
    _Pass(10, 900, 70, 4.0, 1.2, 0.30),
    _Pass(25, 300, 45, 4.0, 1.0, 0.30),
    _Pass(70, 200, 28, 4.0, 0.9, 0.30),
    _Pass(200, 120, 18, 3.0, 0.7, 0.30),
    _Pass(600, 80, 11, 3.0, 0.6, 0.28),
    _Pass(3200, 45, 5.5, 2.5, 0.4, 0.25),
)


@dataclass(frozen=True)
class VesselNetwork:
    """Vessels as trees of short straight segments, each from a node's parent to the node.

    Parameters
    ----------
    nodes : ndarray (N, 2)
        Positions (z, x), origin at the centre of pixel (0, 0); some lie outside the picture [px].
    parent : ndarray (N,) int
        Index of each node's parent, always below its own; -1 for the root of a tree.
    radius_px : ndarray (N,)
        Radius of the segment that ends in the node [px].
    shape_px : (int, int)
        Size of the picture (z, x) [px].
    """

    nodes: NDArray
    parent: NDArray
    radius_px: NDArray
    shape_px: tuple[int, int]


def grow_network(
    shape_px: tuple[int, int] = (512, 512),
    *,
    rng: np.random.Generator,
    leaf_radius_px: float = 0.55,
    murray_exponent: float = 2.6,
) -> VesselNetwork:
    """Grow two or three trees that share the membrane between them.

    Parameters
    ----------
    shape_px : (int, int)
        Size of the picture (z, x) [px], 64 or more each.
    rng : numpy.random.Generator
        Source of every random number.
    leaf_radius_px : float
        Radius of the last branches [px].
    murray_exponent : float
        Exponent of Murray's law; smaller values make thicker trunks.

    Returns
    -------
    VesselNetwork
        About 7000 nodes on 512 x 512 px.

    Raises
    ------
    TypeError
        `rng` is not a generator.
    ValueError
        A side of the picture under 64 px, or a radius or exponent that is not above 0.

    Notes
    -----
    Space colonization after Runions, Lane and Prusinkiewicz (Eurographics Workshop on Natural
    Phenomena, 2007). At a branching :math:`r^\\gamma = \\sum_i r_i^\\gamma` over the branches that
    leave it; Murray's :math:`\\gamma` is 3, the default 2.6 gives the wide trunks of a CAM. Sizes
    and numbers of points are this project's choice.

    Examples
    --------
    >>> network = grow_network((64, 64), rng=np.random.default_rng(0))
    >>> bool((network.parent < np.arange(len(network.parent))).all())
    True
    """
    check_rng(rng)
    if len(shape_px) != 2 or not all(
        isinstance(side, int | np.integer) and side >= 64 for side in shape_px
    ):
        raise ValueError(
            f"shape_px must be two whole numbers (z, x) of 64 or more, not {shape_px!r}"
        )
    check_positive(leaf_radius_px=leaf_radius_px, murray_exponent=murray_exponent)
    shape = np.array(shape_px, dtype=float)
    nodes, heading = _roots(shape, rng)
    parent = np.full(len(nodes), -1)
    for stage in _PASSES:
        n_attractors = max(3, round(stage.attractors * shape.prod() / 512**2))
        attractors = rng.uniform(-_MARGIN_PX, shape + _MARGIN_PX, (n_attractors, 2))
        nodes, parent, heading = _colonize(nodes, parent, heading, attractors, stage, rng)
        nodes = _smooth(nodes, parent)
    radius = _murray_radii(parent, leaf_radius_px, murray_exponent)
    return VesselNetwork(nodes, parent, radius, (int(shape_px[0]), int(shape_px[1])))


def lumen_mask(network: VesselNetwork) -> NDArray[np.bool_]:
    """Mark the pixels more than half covered by the inside of a vessel.

    This is the truth that a segmentation should find.

    Examples
    --------
    >>> nodes = np.array([[8.0, 0.0], [8.0, 15.0]])
    >>> straight = VesselNetwork(nodes, np.array([-1, 0]), np.full(2, 2.5), (16, 16))
    >>> lumen_mask(straight).sum(axis=0).max()
    np.int64(5)
    """
    return _shrink(_half_chord(network) > 0) >= 0.5


def photograph(network: VesselNetwork, *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Photograph a network through the green filter, in which blood is darkest.

    Parameters
    ----------
    network : VesselNetwork
        As from `grow_network`.
    rng : numpy.random.Generator
        Source of the light's centre, the tissue's texture and the camera's noise.

    Returns
    -------
    ndarray (Z, X) float32
        Brightness from 0 to 1.

    Notes
    -----
    Light that crosses blood of thickness :math:`T` px falls to :math:`e^{-0.17 T}`; round a large
    vessel some more is lost to blood below the surface. Ridges of smooth noise stand for the
    capillaries, too fine to be drawn. The numbers are chosen by eye.
    """
    check_rng(rng)
    shape = network.shape_px
    thickness = _shrink(2 * _half_chord(network))
    z, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    centre_z, centre_x = rng.uniform(-0.3, 0.3, 2)
    light = 0.92 - 0.12 * ((z - centre_z) ** 2 + (x - centre_x) ** 2)
    tissue = 1 + 0.03 * _noise(shape, 20, rng) + 0.02 * _noise(shape, 5, rng)
    ridges = np.exp(-((_noise(shape, 2, rng) / 0.25) ** 2))
    capillaries = ridges * (0.5 + 0.5 * np.tanh(_noise(shape, 12, rng)))
    blood = np.exp(-0.17 * thickness - 0.012 * ndi.gaussian_filter(thickness, 6))
    sharp = light * tissue * blood * (1 - 0.1 * capillaries)
    picture = ndi.gaussian_filter(sharp, 0.9) + 0.01 * rng.standard_normal(shape)
    return picture.clip(0, 1).astype(np.float32)


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
        Brightness on any scale that starts at 0. Of a colour picture the green channel counts,
        since blood is darkest in it.
    method : {"frangi", "contrast"}
        A ridge filter, or the plain contrast with the surroundings, which is quicker and coarser.
    bright : bool
        Vessels are brighter than the tissue.
    percentiles : (float, float)
        Limits among the ridge filter's values in this picture: a vessel lies above the lower limit
        and somewhere reaches the upper one. They set how much of the picture becomes vessel, 10 to
        15 % by default.
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
    Frangi's filter (MICCAI 1998) with widths of 1 to 6 px acts on the picture divided by its
    background, a Gaussian mean over 25 px; vessels must also be darker than their surroundings of
    12 px. Wide lumens, which the filter leaves hollow, are added: areas under 60 % of the
    background, opened. On pictures of `photograph` the Dice index with the true lumen is about 0.82
    (contrast: 0.78).

    Examples
    --------
    >>> picture = np.ones((60, 60))
    >>> picture[28:33] = 0.4
    >>> segment_vessels(picture)[:, 30].nonzero()[0]
    array([28, 29, 30, 31, 32])
    """
    with optional("simulate"):  # here, since scikit-image takes half a second to load
        from skimage.filters import apply_hysteresis_threshold, frangi

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
        # Single precision takes half the time.
        relative = _relative(grey, _BACKGROUND_PX).astype(np.float32)
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
        Density to the power 1/3, bright on black. A white scale bar is found by its shape and
        painted over.
    direction_rgb : array_like (H, W, 3), optional
        Red where blood flows to larger z, blue where it flows to smaller. By default the flow
        follows from the mask's shape.
    speed_rgb : array_like (H, W, 3), optional
        Speed in PALA's colours; a colour bar is recognized by the black density under it. By
        default the speed follows from the vessels' radius.
    px_mm, frame_rate_hz : float
        Scale of the result, which may differ from the pictures' scale: pixel pitch [mm] and frames
        per second [Hz].
    shape_px : (int, int), optional
        Grid (Z, X) of the result; by default the pictures' own.
    max_speed_mm_s : float
        Speed at the upper end of the colour bar, or on the axis of the widest vessel [mm/s]. PALA's
        picture shows no number (its script takes the 98th percentile, rounded up to tens); the
        default is the paper's fastest flow.
    percentiles : (float, float)
        See `segment_vessels`.
    min_area_px : int
        Smaller pieces, on the new grid, are dropped [px].
    rng : numpy.random.Generator, optional
        See `ulmpaper.simulator.displacement_maps`; not used where `direction_rgb` is given.

    Returns
    -------
    mask : ndarray (Z, X) bool
        Inside of the vessels.
    maps : ndarray (2, Z, X) float32
        Steps along z and x [px/frame], zero outside the mask and where measured directions meet.

    Raises
    ------
    TypeError
        A picture holds no numbers.
    ValueError
        A picture is not finite, is black or differs in size; no vessels; a scale that is not above
        0.

    Notes
    -----
    Made for the pictures that ``PALA_InVivoULM_example`` writes: 781 x 1181 px of a tenth of a
    wavelength, with a scale bar of 1 mm. It colours speeds as jet(share^(2/3)), dims them by the
    density and brightens them by a power of 0.6; all three are undone here. Speeds above 0.82 of
    the top come out as 0.82, since they differ from it in brightness alone. Directions and speeds
    are means over the new pixels, weighted by density.

    Examples
    --------
    >>> picture = np.zeros((60, 90))
    >>> picture[26:35, 5:85] = 1
    >>> mask, maps = vessels_from_density_map(picture, px_mm=0.1, frame_rate_hz=1000)
    >>> bool(mask[30, 40]), round(float(np.abs(maps).max()), 3)
    (True, 0.05)
    """
    with optional("simulate"):
        from skimage.transform import resize_local_mean

    display = _rgb(density_rgb, "density_rgb").max(axis=2)
    shape = _check_picture_shape(display.shape if shape_px is None else shape_px)
    # The scale bar takes the brightness of the nearest pixels outside it.
    bar = _scale_bar(display)
    if bar.any():
        near = ndi.distance_transform_edt(bar, return_distances=False, return_indices=True)
        display = display[tuple(near)]
    # Means are taken of the density itself, the mask is made from its cube root again.
    density = display**3
    compressed = np.cbrt(resize_local_mean(density, shape))
    mask = segment_vessels(
        compressed, bright=True, percentiles=percentiles, min_area_px=min_area_px
    )
    down = share = None
    if direction_rgb is not None:
        colour = _rgb(direction_rgb, "direction_rgb", display.shape)
        is_red = np.sign(colour[..., 0] - colour[..., 2])
        down = _weighted_mean(is_red, np.where(bar, 0, density), shape)
    if speed_rgb is not None:
        colour = _rgb(speed_rgb, "speed_rgb", display.shape)
        hidden = bar | _find_colour_bar(colour.max(axis=2), density)
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


# --- growing -----------------------------------------------------------------------------------


def _roots(shape: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Two or three roots just outside different sides of the picture, heading inwards."""
    sides = rng.permutation(4)[: rng.integers(2, 4)]
    axis = sides % 2
    far = sides // 2
    each = np.arange(len(sides))
    nodes = rng.uniform(0.2, 0.8, (len(sides), 2)) * shape
    nodes[each, axis] = np.where(far, shape[axis] - 1 + _MARGIN_PX, -_MARGIN_PX)
    heading = np.zeros((len(sides), 2))
    heading[each, axis] = np.where(far, -1.0, 1.0)
    return nodes, heading


def _colonize(
    nodes: NDArray,
    parent: NDArray,
    heading: NDArray,
    attractors: NDArray,
    stage: _Pass,
    rng: np.random.Generator,
) -> tuple[NDArray, NDArray, NDArray]:
    """Grow until every attractor is sated, out of reach or next to a node with two children."""
    children = np.bincount(parent[parent >= 0], minlength=len(nodes))
    distance, nearest = cKDTree(nodes).query(attractors)
    while True:
        hungry = distance > stage.sated_px
        attractors = attractors[hungry]
        distance = distance[hungry]
        nearest = nearest[hungry]
        pulling = (distance < stage.reach_px) & (children[nearest] < 2)
        if not pulling.any():
            return nodes, parent, heading
        # Each tip grows towards the mean direction of the attractors that pull it.
        tips, tip_of = np.unique(nearest[pulling], return_inverse=True)
        pull = _unit(attractors[pulling] - nodes[nearest[pulling]])
        pull = _unit(np.stack([np.bincount(tip_of, pull[:, axis]) for axis in (0, 1)], axis=1))
        ahead = _unit(
            pull + stage.inertia * heading[tips] + stage.jitter * rng.standard_normal(pull.shape)
        )
        new = nodes[tips] + stage.step_px * ahead
        # Only the new nodes can be nearer than the node that was nearest before.
        to_new, which_new = cKDTree(new).query(attractors)
        nearest = np.where(to_new < distance, len(nodes) + which_new, nearest)
        distance = np.minimum(to_new, distance)
        children[tips] += 1
        children = np.append(children, np.zeros(len(new), dtype=children.dtype))
        nodes = np.concatenate([nodes, new])
        heading = np.concatenate([heading, ahead])
        parent = np.append(parent, tips)


def _unit(vectors: NDArray) -> NDArray:
    """Vectors (..., 2) at length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _smooth(nodes: NDArray, parent: NDArray) -> NDArray:
    """Move every node but the ends halfway to the mean of its neighbours, a few times."""
    child = np.flatnonzero(parent >= 0)
    above = parent[child]
    degree = np.bincount(above, minlength=len(nodes)) + (parent >= 0)
    inner = (degree > 1) & (parent >= 0)
    for _ in range(_SMOOTHINGS):
        total = np.zeros_like(nodes)
        np.add.at(total, above, nodes[child])
        total[child] += nodes[above]
        mean = total / np.maximum(degree, 1)[:, None]
        nodes = np.where(inner[:, None], 0.5 * (nodes + mean), nodes)
    return nodes


def _murray_radii(parent: NDArray, leaf_radius_px: float, exponent: float) -> NDArray:
    """Radius of each segment, summed up from the leaves [px]."""
    leaves = np.bincount(parent[parent >= 0], minlength=len(parent)) == 0
    power = np.where(leaves, leaf_radius_px**exponent, 0.0)
    for node in range(len(parent) - 1, -1, -1):  # children stand after their parents
        if parent[node] >= 0:
            power[parent[node]] += power[node]
    return power ** (1 / exponent)


# --- photographing -----------------------------------------------------------------------------


def _half_chord(network: VesselNetwork) -> NDArray:
    """Half the thickness of blood under each point of the finer grid [px]."""
    # A vessel is a row of balls; blood is as thick as the thickest, 2 max_i sqrt(R_i^2 - d_i^2).
    child = np.flatnonzero(network.parent >= 0)
    start = network.nodes[network.parent[child]]
    end = network.nodes[child]
    n_balls = 1 + int(np.ceil(_SUPERSAMPLE * np.linalg.norm(end - start, axis=1).max()))
    points = (start + (end - start) * np.linspace(0, 1, n_balls)[:, None, None]).reshape(-1, 2)
    radius = np.tile(network.radius_px[child], n_balls) * _SUPERSAMPLE
    pad = int(np.ceil(radius.max()))
    shape = np.array(network.shape_px) * _SUPERSAMPLE
    index = np.rint((points + 0.5) * _SUPERSAMPLE - 0.5).astype(int) + pad
    inside = ((index >= 0) & (index < shape + 2 * pad)).all(axis=1)
    squared = np.zeros(shape + 2 * pad, dtype=np.float32)
    np.maximum.at(squared, tuple(index[inside].T), radius[inside] ** 2)
    # The maximum over both axes is two maxima over one axis, as in the distance transform of
    # Felzenszwalb and Huttenlocher.
    for _ in range(2):
        centre = squared
        squared = centre.copy()
        for shift in range(1, pad + 1):
            np.maximum(squared[:-shift], centre[shift:] - shift**2, out=squared[:-shift])
            np.maximum(squared[shift:], centre[:-shift] - shift**2, out=squared[shift:])
        squared = squared.T
    return np.sqrt(squared[pad : pad + shape[0], pad : pad + shape[1]]) / _SUPERSAMPLE


def _shrink(fine: NDArray) -> NDArray:
    """Mean of each pixel's share of the finer grid."""
    z = fine.shape[0] // _SUPERSAMPLE
    x = fine.shape[1] // _SUPERSAMPLE
    return fine.reshape(z, _SUPERSAMPLE, x, _SUPERSAMPLE).mean(axis=(1, 3))


def _noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> NDArray:
    """Smooth random field of unit variance."""
    field = ndi.gaussian_filter(rng.standard_normal(shape), sigma_px)
    return field / field.std()


# --- segmenting --------------------------------------------------------------------------------


def _rgb(picture: ArrayLike, what: str, shape: tuple[int, ...] | None = None) -> NDArray:
    """Picture as (Z, X, 3) floats whose maximum is 1."""
    array = np.asarray(picture)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{what} must hold numbers, not {array.dtype}")
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] not in (3, 4) or min(array.shape[:2]) < 8:
        raise ValueError(
            f"{what} must be a picture (Z, X) or (Z, X, 3) of 8 px or more, "
            f"not shape {np.shape(picture)}"
        )
    if shape is not None and array.shape[:2] != shape:
        raise ValueError(
            f"{what} must have the size of density_rgb, {shape}, not {array.shape[:2]}"
        )
    array = array[..., :3].astype(float)
    if not np.isfinite(array).all() or array.min() < 0 or array.max() == 0:
        raise ValueError(f"{what} must hold finite brightnesses from 0 and not be black all over")
    return array / array.max()


def _relative(grey: NDArray, sigma_px: float) -> NDArray:
    """Brightness relative to the Gaussian mean around."""
    return grey / np.maximum(ndi.gaussian_filter(grey, sigma_px), 1e-9)


def _check_limits(name: str, limits: tuple[float, float], top: float) -> None:
    """Refuse limits that do not ascend from 0 to `top`."""
    if len(limits) != 2 or not 0 <= limits[0] <= limits[1] <= top:
        raise ValueError(f"{name} must be two ascending numbers from 0 to {top}, not {limits!r}")


def _check_picture_shape(shape_px: tuple[int, ...]) -> tuple[int, int]:
    """Size (z, x) as whole numbers of 8 or more."""
    if len(shape_px) != 2 or not all(
        isinstance(side, int | np.integer) and side >= 8 for side in shape_px
    ):
        raise ValueError(
            f"shape_px must be two whole numbers (z, x) of 8 or more, not {shape_px!r}"
        )
    return int(shape_px[0]), int(shape_px[1])


# --- PALA's pictures ---------------------------------------------------------------------------


def _scale_bar(display: NDArray) -> NDArray[np.bool_]:
    """Mark a filled white rectangle, ten or more times as wide as high, and a pixel of rim."""
    found = np.zeros(display.shape, dtype=bool)
    white, _ = ndi.label(display > 0.98)
    for number, box in enumerate(ndi.find_objects(white), start=1):
        height, width = white[box].shape
        if height >= 2 and width >= 10 * height and (white[box] == number).all():
            found[box] = True
    return ndi.binary_dilation(found, np.ones((3, 3)))


def _find_colour_bar(brightness: NDArray, density: NDArray) -> NDArray[np.bool_]:
    """Mark rectangles round patches of colour where no bubble ever passed."""
    found = np.zeros(density.shape, dtype=bool)
    patches, _ = ndi.label(ndi.binary_opening((brightness > 0) & (density == 0), np.ones((5, 5))))
    for box in ndi.find_objects(patches):
        found[box] = True
    return found


def _speed_share(colour: NDArray) -> NDArray:
    """Share of the top speed from PALA's colours, see `vessels_from_density_map`."""
    jet = colour ** (1 / 0.6)
    jet /= np.maximum(jet.max(axis=2, keepdims=True), 1e-9)
    # -1 from blue to cyan, 1 from yellow to red, and a straight line between.
    tilt = jet[..., 0] - jet[..., 2]
    return (0.5 + 0.125 * tilt + 0.25 * np.sign(tilt) * (1 - jet[..., 1])) ** 1.5


def _weighted_mean(values: NDArray, weight: NDArray, shape: tuple[int, int]) -> NDArray:
    """Weighted mean over each pixel of the new grid and its near neighbours."""
    with optional("simulate"):
        from skimage.transform import resize_local_mean

    total = ndi.gaussian_filter(resize_local_mean(values * weight, shape), 1)
    norm = ndi.gaussian_filter(resize_local_mean(weight, shape), 1)
    return total / np.maximum(norm, 1e-12)
