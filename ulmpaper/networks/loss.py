"""Losses of the three networks, in full precision whatever that of the network.

Eqs. (1) to (3) of the paper are sums over a frame, averaged over frames: means over pixels would
vanish, since few pixels hold a bubble.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

HEATMAP_SCALE = 50.0  # output that mSPCN learns for a bubble, before the blur
_WIDEST_PX = 100  # a wider blur takes minutes, and leaves no bubble to see
_REACH_PX = 4  # from a bubble to the pixels that may have found it
_TINY_P = 1e-6  # nearer to 0 and 1, logarithms run away
_LEAST_VARIANCE = 0.01  # of the number of bubbles in a frame
_LEAST_P = 0.2  # of a bubble whose error counts
HEATMAP_GAIN = 2.0  # sum of mSPCN's blur


def blur(maps: Tensor, *, sigma_px: float = 1.0) -> Tensor:
    """Convolve every frame with a Gaussian of unit sum, the paper's H.

    Parameters
    ----------
    maps : Tensor (..., Z, X)
        Taken as 0 beyond the border.
    sigma_px : float
        Standard deviation [px]; 0 leaves the maps as they are.

    Returns
    -------
    Tensor (..., Z, X)
        Blurred maps.

    Raises
    ------
    ValueError
        `sigma_px` is negative or not finite.

    Notes
    -----
    Paper, Eq. (2): "a small Gaussian blur". Its width is ours: 1 px, cut off at 3 px, so 7 x 7
    pixels.

    Examples
    --------
    >>> point = torch.zeros(1, 9, 9)
    >>> point[0, 4, 4] = 1
    >>> [round(value, 4) for value in blur(point)[0, 4, 4:8].tolist()]
    [0.1592, 0.0966, 0.0216, 0.0018]
    """
    if not 0 <= sigma_px <= _WIDEST_PX:
        raise ValueError(f"sigma_px must be a number from 0 to {_WIDEST_PX}, not {sigma_px}")
    _check_real(maps=maps)
    if sigma_px == 0:
        return maps
    half = math.ceil(3 * sigma_px)
    return _convolve(maps, _gaussian(half, sigma_px), padding=half)


def detection_loss(maps: Tensor, truth: Tensor, *, sigma_px: float = 1.0) -> Tensor:
    """Compare the blurred probabilities of found and true bubbles.

    Parameters
    ----------
    maps, truth : Tensor (..., 3, N, Z, X)
        p, oz, ox, as from `ulmpaper.networks.ML3DResNet` and `ulmpaper.networks.encode_offsets`.
        Only p is compared.
    sigma_px : float
        Width of the blur, see `blur` [px].

    Returns
    -------
    Tensor ()
        Squared Frobenius norm of a frame's difference, mean over all frames.

    Raises
    ------
    ValueError
        Shapes that differ or have no axis of three maps.

    Notes
    -----
    Paper, Eq. (2): :math:`L_{pos} = \\| H * Pos - H * \\hat{Pos} \\|_F^2`, computed as :math:`\\| H
    * (Pos - \\hat{Pos}) \\|_F^2`. The mean over frames is our reading.

    Examples
    --------
    >>> truth = torch.zeros(3, 1, 9, 9)
    >>> truth[0, 0, 4, 4] = 1
    >>> round(float(detection_loss(torch.zeros_like(truth), truth)), 4)
    0.0797
    """
    difference = _difference(maps, truth).select(-4, 0)
    return _frame_mean(blur(difference, sigma_px=sigma_px).square())


def offset_loss(maps: Tensor, truth: Tensor, *, masked: bool = True) -> Tensor:
    """Compare the positions of found and true bubbles in their pixels.

    Parameters
    ----------
    maps, truth : Tensor (..., 3, N, Z, X)
        See `detection_loss`.
    masked : bool
        Compare only pixels that hold a true bubble; otherwise the offsets must be 0 in all others.

    Returns
    -------
    Tensor ()
        Half the squared Frobenius norms of a frame's differences along z and x, mean over all
        frames.

    Raises
    ------
    ValueError
        See `detection_loss`.

    Notes
    -----
    Paper, Eq. (3): :math:`L_{loc} = \\frac{1}{2} \\| X - \\hat{X} \\|_F^2 + \\frac{1}{2} \\| Y -
    \\hat{Y} \\|_F^2`, with the truth 0 off the bubbles. So taken literally it asks for zeros there
    (`masked` False); the words "for MBs detected in the first channel" are our reason for the mask.
    The literal form needs a network whose offsets start near 0 (``output="linear"``): from 1/2,
    where a sigmoid starts, it drives all three maps to 0.

    Examples
    --------
    >>> truth = torch.zeros(3, 1, 9, 9)
    >>> truth[:, 0, 4, 4] = torch.tensor([1.0, 0.5, 0.25])
    >>> float(offset_loss(torch.full_like(truth, 0.5), truth))
    0.03125
    """
    difference = _difference(maps, truth).narrow(-4, 1, 2)
    if masked:
        difference = difference * truth.narrow(-4, 0, 1)
    return 0.5 * _frame_mean(difference.square().sum(dim=-4))


def ml3d_loss(
    maps: Tensor, truth: Tensor, *, sigma_px: float = 1.0, masked: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add up detection and offset loss.

    Parameters
    ----------
    maps, truth, sigma_px, masked
        See `detection_loss` and `offset_loss`.

    Returns
    -------
    Tensor (), dict of str to Tensor
        The loss, and its parts without gradients: ``detection`` and ``offset``.

    Raises
    ------
    ValueError
        See `detection_loss`.

    Notes
    -----
    Paper, Eq. (1): :math:`L = L_{pos} + L_{loc}`.

    Examples
    --------
    >>> total, parts = ml3d_loss(torch.full((2, 3, 4, 8, 8), 0.5), torch.zeros(2, 3, 4, 8, 8))
    >>> bool(total == parts["detection"]), float(parts["offset"])
    (True, 0.0)
    """
    detection = detection_loss(maps, truth, sigma_px=sigma_px)
    offset = offset_loss(maps, truth, masked=masked)
    return detection + offset, {"detection": detection.detach(), "offset": offset.detach()}


def sigma_loss(maps: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare the expected errors of positions with the true ones: the likelihood of Gaussians.

    Parameters
    ----------
    maps : Tensor (..., 5, N, Z, X)
        p, oz, ox, sigma_z, sigma_x, as from `ulmpaper.networks.ML3DResNet` with `sigma`. Only the
        last two are learnt.
    truth : Tensor (..., 3, N, Z, X)
        See `detection_loss`.

    Returns
    -------
    Tensor (), dict of str to Tensor
        Negative logarithm of the likelihood, up to a constant, mean over the bubbles that the
        network finds and both axes; no parts.

    Raises
    ------
    TypeError, ValueError
        Maps of other shapes, or of no real numbers.

    Notes
    -----
    Ours. For an error :math:`e` it is :math:`\\log \\sigma + e^2 / 2 \\sigma^2`, least where
    sigma is the standard deviation of the errors. Bubbles with a p of 0.2 or less do not count.

    Examples
    --------
    >>> truth = torch.full((3, 1, 9, 9), 1.0)
    >>> maps = torch.cat([truth + 0.1, torch.full((2, 1, 9, 9), 0.1)])
    >>> round(float(sigma_loss(maps, truth)[0]), 4)  # log(0.1) + 1/2
    -1.8026
    """
    _check_five(maps, truth)
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    found = (truth.select(-4, 0) > 0) & (maps.select(-4, 0) > _LEAST_P)
    error = (maps.narrow(-4, 1, 2) - truth.narrow(-4, 1, 2)).detach()
    sigma = maps.narrow(-4, 3, 2)
    terms = sigma.log() + 0.5 * (error / sigma).square()
    return (terms.mean(dim=-4) * found).sum() / found.sum().clamp(min=1), {}


def mixture_loss(maps: Tensor, truth: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare bubbles with a mixture of Gaussians, one for each pixel, and their number.

    Parameters
    ----------
    maps : Tensor (B, 5, N, Z, X)
        p, oz, ox, sigma_z, sigma_x, as from `ulmpaper.networks.ML3DResNet` with `sigma`.
    truth : Tensor (B, 3, N, Z, X)
        See `detection_loss`.

    Returns
    -------
    Tensor (), dict of str to Tensor
        The loss, and its parts without gradients: ``place`` and ``number``.

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Notes
    -----
    Ours, in the manner of Speiser et al. (Nat. Methods 18 (2021) 1082). A bubble at :math:`r` costs
    :math:`-\\log \\sum_k (p_k / \\sum_j p_j) N(r; r_k, \\sigma_k)`, where the first sum goes over
    the 9 x 9 pixels around it and the second over the frame. A frame with :math:`n` bubbles costs
    :math:`(n - \\mu)^2 / 2 v + \\log(v) / 2`, with the mean :math:`\\mu = \\sum p_k` and the
    variance :math:`v = \\sum p_k (1 - p_k) + 0.01` of the number of bubbles. Both are added up and
    divided by the number of bubbles and frames.

    Examples
    --------
    >>> truth = torch.zeros(1, 3, 1, 9, 9)
    >>> truth[0, :, 0, 4, 4] = torch.tensor([1.0, 0.5, 0.25])
    >>> found = torch.cat([truth, torch.full((1, 2, 1, 9, 9), 0.1)], dim=1)
    >>> beside = found.roll(1, dims=-1)
    >>> bool(mixture_loss(found, truth)[0] < mixture_loss(beside, truth)[0])
    True
    """
    _check_five(maps, truth)
    if maps.ndim != 5:
        raise ValueError(f"maps have the shape (B, 5, N, Z, X), not {tuple(maps.shape)}")
    maps = maps.float()
    p = maps[:, 0].clamp(_TINY_P, 1 - _TINY_P)
    mean = p.sum(dim=(-2, -1))
    variance = (p * (1 - p)).sum(dim=(-2, -1)) + _LEAST_VARIANCE
    n_true = truth[:, 0].sum(dim=(-2, -1))
    number = ((n_true - mean).square() / (2 * variance) + variance.log() / 2).sum()
    window, frame, row, column = truth[:, 0].nonzero(as_tuple=True)
    # Places of the pixels around each bubble; those beyond the border have a p of nearly 0.
    around = torch.arange(-_REACH_PX, _REACH_PX + 1, device=maps.device)
    border = (_REACH_PX,) * 4
    patch = (
        window[:, None, None],
        slice(None),
        frame[:, None, None],
        (row[:, None] + around + _REACH_PX)[:, :, None],
        (column[:, None] + around + _REACH_PX)[:, None, :],
    )
    log_p = functional.pad(p, border, value=_TINY_P).log()[
        window[:, None, None], frame[:, None, None], patch[3], patch[4]
    ]
    others = functional.pad(maps[:, 1:], border, value=1.0)[patch]  # (n, 9, 9, 4)
    at = truth[window, 1:, frame, row, column]
    steps = torch.stack(torch.meshgrid(around, around, indexing="ij"), dim=-1)
    sigma = others[..., 2:]
    away = (others[..., :2] + steps - at[:, None, None]) / sigma
    log_density = -(away.square() / 2 + sigma.log()).sum(dim=-1) - math.log(2 * math.pi)
    likelihood = torch.logsumexp((log_p + log_density).flatten(1), dim=1)
    place = (mean[window, frame].log() - likelihood).sum()
    n_terms = max(1, len(window) + n_true.numel())
    parts = {"place": place.detach() / n_terms, "number": number.detach() / n_terms}
    return (place + number) / n_terms, parts


def count_loss(outputs: Tensor, counts: Tensor) -> Tensor:
    """Compare predicted and true counts of bubbles.

    Parameters
    ----------
    outputs : Tensor (B, n_max + 1) or (B, 1)
        Logits, or counts, as from `ulmpaper.networks.CountNet`.
    counts : Tensor (B,) of int
        True counts.

    Returns
    -------
    Tensor ()
        Cross-entropy of logits, or smooth L1 distance of counts; mean over the frames.

    Raises
    ------
    ValueError
        Shapes that do not fit, counts below 0 or above `n_max`.

    Notes
    -----
    Paper, section II-A: a "classification-style network". Its loss is not stated; both are our
    choice.

    Examples
    --------
    >>> round(float(count_loss(torch.zeros(2, 10), torch.tensor([0, 9]))), 4)  # log(10)
    2.3026
    >>> float(count_loss(torch.tensor([[3.0], [5.0]]), torch.tensor([3, 7])))
    0.75
    """
    if outputs.ndim != 2 or counts.shape != outputs.shape[:1]:
        raise ValueError(
            f"outputs (B, classes) and counts (B,) do not fit: {tuple(outputs.shape)} and "
            f"{tuple(counts.shape)}"
        )
    if outputs.shape[1] == 0 or outputs.is_complex() or counts.is_complex():
        raise ValueError("outputs of one or more classes, and counts, must be real numbers")
    outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    n_max = outputs.shape[1] - 1
    if n_max == 0:
        return functional.smooth_l1_loss(outputs[:, 0], counts.to(outputs))
    if counts.min() < 0 or counts.max() > n_max:
        raise ValueError(
            f"counts go from {counts.min()} to {counts.max()}, but the network predicts 0 to "
            f"{n_max}: set its n_max higher"
        )
    return functional.cross_entropy(outputs, counts.long())


def mspcn_loss(
    maps: Tensor, truth: Tensor, *, sparsity: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Compare the blurred heat maps of mSPCN and the truth, and keep the maps sparse.

    Parameters
    ----------
    maps, truth : Tensor (B, 1, uZ, uX)
        As from `ulmpaper.networks.MSPCN` and `ulmpaper.networks.encode_heatmap`; 7 fine pixels or
        more each way.
    sparsity : float
        Weight of the second part.

    Returns
    -------
    Tensor (), dict of str to Tensor
        The loss, and its parts without gradients: ``heatmap``, the mean squared difference between
        `maps` and 50 times the truth, both blurred; and ``sparsity``, the mean absolute value of
        `maps`.

    Raises
    ------
    ValueError
        Shapes that differ or are too small.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064. The factor, the weight and the blur
    (Gaussian of 1 fine pixel, 7 x 7, sum 2, only where it lies inside) are those of the training
    script that they published.

    Examples
    --------
    >>> truth = torch.zeros(1, 1, 8, 8)
    >>> total, parts = mspcn_loss(truth + 1, truth)
    >>> round(float(total), 4), round(float(parts["heatmap"]), 4), float(parts["sparsity"])
    (5.0, 4.0, 1.0)
    """
    if maps.shape != truth.shape or maps.ndim != 4 or min(maps.shape[-2:]) < 7:
        raise ValueError(
            "maps and truth must both be (B, 1, uZ, uX), 7 or more each way, not "
            f"{tuple(maps.shape)} and {tuple(truth.shape)}"
        )
    _check_real(maps=maps, truth=truth)
    maps = maps.to(truth.dtype)
    difference = _convolve(maps - HEATMAP_SCALE * truth, HEATMAP_GAIN * _gaussian(3, 1.0))
    heatmap = difference.square().mean()
    size = maps.abs().mean()
    return heatmap + sparsity * size, {"heatmap": heatmap.detach(), "sparsity": size.detach()}


def _check_real(**tensors: Tensor) -> None:
    """Refuse tensors that do not hold real numbers with a point."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or 0 in tensor.shape[-2:]:
            raise ValueError(
                f"{name} must be frames (..., Z, X) of real numbers, such as float32, not "
                f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            )


def _gaussian(half: int, sigma_px: float) -> Tensor:
    """Square Gaussian of unit sum (2 half + 1, 2 half + 1)."""
    line = torch.exp(-(torch.arange(-half, half + 1, dtype=torch.float64) ** 2) / (2 * sigma_px**2))
    square = torch.outer(line, line)
    return square / square.sum()


def _convolve(maps: Tensor, kernel: Tensor, padding: int = 0) -> Tensor:
    """Every frame of `maps` (..., Z, X) convolved with `kernel`."""
    frames = maps.reshape(1, -1, *maps.shape[-2:])
    kernels = kernel.to(frames).expand(frames.shape[1], 1, *kernel.shape)
    # Frames as channels, each with its own kernel: on a CPU thirty times as fast as as a batch.
    with torch.autocast(maps.device.type, enabled=False):
        blurred = functional.conv2d(frames, kernels, padding=padding, groups=frames.shape[1])
    return blurred.reshape(*maps.shape[:-2], *blurred.shape[-2:])


def _difference(maps: Tensor, truth: Tensor) -> Tensor:
    """Maps minus truth, in the precision of the truth."""
    if maps.shape != truth.shape or maps.ndim < 4 or maps.shape[-4] != 3:
        raise ValueError(
            f"maps and truth must both be (..., 3, N, Z, X), not {tuple(maps.shape)} and "
            f"{tuple(truth.shape)}"
        )
    _check_numbers(maps, truth)
    return maps.to(truth.dtype) - truth


def _check_numbers(maps: Tensor, truth: Tensor) -> None:
    if any(part.is_complex() or part.dtype == torch.bool for part in (maps, truth)):
        raise TypeError(f"maps and truth hold real numbers, not {maps.dtype} and {truth.dtype}")


def _check_five(maps: Tensor, truth: Tensor) -> None:
    """Refuse what is not five maps and the three of their truth, in real numbers."""
    if (
        min(maps.ndim, truth.ndim) < 4
        or (maps.shape[-4], truth.shape[-4]) != (5, 3)
        or maps.shape[:-4] != truth.shape[:-4]
        or maps.shape[-3:] != truth.shape[-3:]
        or 0 in maps.shape
    ):
        raise ValueError(
            "maps (..., 5, N, Z, X) and truth (..., 3, N, Z, X) do not fit: "
            f"{tuple(maps.shape)} and {tuple(truth.shape)}"
        )
    _check_numbers(maps, truth)


def _frame_mean(squares: Tensor) -> Tensor:
    """Sum over z and x, mean over all frames."""
    return squares.sum(dim=(-2, -1)).mean()
