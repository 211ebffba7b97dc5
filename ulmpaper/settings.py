"""The sections of the configuration: frozen dataclasses whose every field knows its unit and its source.

`config.load_config` puts them together; values are checked when a section is made.
"""

from __future__ import annotations

from dataclasses import dataclass

from ulmpaper.checked import Checked, setting

METHODS = ("none", "weighted", "radial", "gaussian", "parabola", "cubic", "lanczos", "spline")
NETWORKS = ("ml3d", "mspcn")
DECAYS = ("none", "cosine", "halfway")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Acquisition(Checked):
    """Scale of the frames, for sources that do not state their own."""

    px_mm: float = setting(0.09856, "pixel pitch, one wavelength", unit="mm", source="PALA", above=0)
    frame_rate_hz: float = setting(1000.0, "frames per second", unit="Hz", source="PALA", above=0)


@dataclass(frozen=True)
class Filter(Checked):
    """Clutter filter. Off by default: only the paper's in vivo data is filtered."""

    svd_low: int = setting(1, "first singular component kept; 1 keeps all", source="paper §III", low=1)
    svd_high: int | None = setting(None, "last singular component kept; None keeps the rest", source="PALA", low=1)
    band_hz: tuple[float, float] | None = setting(
        None, "band kept along time; None is no band-pass", unit="Hz", source="PALA", above=0
    )
    order: int = setting(2, "order of the Butterworth design", source="PALA", low=1)
    zero_phase: bool = setting(True, "filter forwards and backwards, so that bubbles do not lag", source="ours")


@dataclass(frozen=True)
class Locate(Checked):
    """Detection and sub-pixel localization."""

    method: str = setting("radial", "sub-pixel method, or network", source="paper §III", choices=METHODS + NETWORKS)
    n_bubbles: int = setting(40, "strongest peaks kept in a frame", source="PALA", low=1)
    min_score: float = setting(0.0, "peaks must be above this value of the frame", source="ours", low=0)
    roi_px: int = setting(5, "side of the square window, odd", unit="px", source="PALA", low=3, odd=True)
    max_peaks_in_roi: int = setting(3, "windows with more maxima are skipped", source="PALA", low=1)


@dataclass(frozen=True)
class Track(Checked):
    """Linking, smoothing and interpolation."""

    max_distance_px: float = setting(2.0, "longest step from frame to frame", unit="px", source="PALA", above=0)
    max_gap: int = setting(0, "missing frames that a track may bridge", unit="frames", source="PALA", low=0)
    min_length: int = setting(15, "tracks need more points than this", unit="frames", source="PALA", low=1)
    smooth_points: int = setting(20, "span of the moving average", unit="points", source="PALA", low=1)


@dataclass(frozen=True)
class Render(Checked):
    """Super-resolved maps."""

    upsample: int = setting(10, "map pixels per frame pixel", source="paper §III-A", low=1)


@dataclass(frozen=True)
class Blocks(Checked):
    """How long sequences are cut and spread over processes."""

    n_frames: int = setting(800, "frames filtered and tracked together", unit="frames", source="PALA", low=1)
    n_jobs: int = setting(1, "processes working on blocks at the same time", source="ours", low=1)


@dataclass(frozen=True)
class Example(Checked):
    """The generated flow that examples and tests use where no simulator is needed."""

    n_frames: int = setting(2000, "length of the sequence", unit="frames", source="ours", low=1)
    n_bubbles: int = setting(30, "bubbles alive in a frame", source="ours", low=0)
    shape_px: tuple[int, int] = setting((84, 143), "size of a frame (z, x)", unit="px", source="PALA", low=8)
    noise: float = setting(0.02, "standard deviation of the noise, brightest bubble = 1", source="ours", low=0)


@dataclass(frozen=True)
class Cam(Checked):
    """The paper's simulator: bubbles in the vessels of CAM-like pictures, drawn with extracted PSFs."""

    shape_px: tuple[int, int] = setting((250, 250), "size of a frame (z, x)", unit="px", source="paper §II-E", low=64)
    n_frames: int = setting(
        20_000, "frames of the training set, and of the test set", unit="frames", source="paper §II-E", low=1
    )
    sequence_frames: int = setting(
        800, "frames simulated in one go, as many as ULM takes for a block", unit="frames", source="ours", low=1
    )
    picture_px: int = setting(512, "side of a picture, of which frames show a part", unit="px", source="ours", low=64)
    n_pictures: int = setting(
        4, "pictures that training sequences take in turn", source="paper §II-E", low=1, high=1000
    )
    n_test_pictures: int = setting(
        1, "other pictures for the test set, and others again for validation", source="ours", low=1, high=1000
    )
    max_speed_mm_s: float = setting(
        5.0, "speed in the middle of the widest vessel", unit="mm/s", source="paper §II-D", above=0
    )
    n_bubbles: tuple[int, int] = setting(
        (20, 200), "bubbles alive in a frame, drawn for each sequence", source="ours", low=0, ascending=True
    )
    ratio_db: tuple[float, float] = setting(
        (20.0, 30.0), "bubbles over background, drawn likewise", unit="dB", source="ours", ascending=True
    )
    mean_life: float = setting(400.0, "frames until a bubble is replaced", unit="frames", source="ours", above=0)
    psf: str = setting(
        "bmode", "PSFs from B-mode, or from IQ with their phase", source="paper §II-D", choices=("bmode", "iq")
    )
    cross_speed: float = setting(
        0.0, "motion across the image plane; 0 is none", unit="1/frame", source="paper §II-D", low=0
    )
    memory: float = setting(
        1.0, "correlation of the background over a frame; 1 is constant", source="paper §II-D", low=0, high=1
    )


@dataclass(frozen=True)
class Phantom(Checked):
    """The in-silico flow phantom, simulated by PyMUST in the likeness of PALA's."""

    n_sequences: int = setting(20, "sequences", source="PALA", low=1)
    n_frames: int = setting(1000, "frames of a sequence", unit="frames", source="PALA", low=1)
    n_bubbles: int = setting(45, "bubbles alive in a frame", source="ours", low=1)


@dataclass(frozen=True)
class Invivo(Checked):
    """The in vivo stand-in: bubbles in a brain-like vasculature under moving tissue."""

    n_blocks: int = setting(250, "blocks", source="paper §III-B", low=1)
    n_frames: int = setting(800, "frames of a block", unit="frames", source="PALA", low=16)
    shape_px: tuple[int, int] = setting((78, 118), "size of a frame (z, x)", unit="px", source="PALA", low=64)
    upsample: int = setting(5, "pixels of the vessels' mask per frame pixel and side", source="ours", low=1)
    n_bubbles: int = setting(60, "bubbles alive in a frame", source="ours", low=0)
    max_speed_mm_s: float = setting(
        30.0, "speed in the middle of the widest vessel", unit="mm/s", source="ours", above=0
    )
    tissue_db: float = setting(30.0, "tissue over bubbles", unit="dB", source="ours")
    noise_db: float = setting(25.0, "bubbles over noise, new in each frame", unit="dB", source="ours")
    motion_px: float = setting(0.3, "breathing of the tissue, up and down", unit="px", source="ours", above=0)


@dataclass(frozen=True)
class Fitted(Checked):
    """What each network has in its training, with the paper's values."""

    epochs: int = setting(200, "epochs", source="paper §II-E", low=1)
    steps: int = setting(200, "steps of an epoch; here all 20,000 frames once", source="paper §II-E", low=1)
    batch: int = setting(10, "windows, or single frames, of a step", source="paper §II-E", low=1)
    accumulate: int = setting(1, "parts in which a batch goes through the network", source="ours", low=1)
    crop_px: int | None = setting(
        None, "side of the part cut out of a frame; None takes all of it", unit="px", source="paper §II-E", low=16
    )
    learning_rate: float = setting(1e-3, "step size of Adam", source="paper §II-E", above=0)
    warmup: float = setting(0.0, "share of the steps in which the step size grows", source="ours", low=0, high=1)
    decay: str = setting(
        "none", "how it falls then: not, as a cosine to 0, or times 0.1 halfway", source="ours", choices=DECAYS
    )
    clip: float = setting(1.0, "largest norm of the gradient", source="ours", above=0)
    weights: str | None = setting(
        None, "file of weights, or paper or (not for count) phantom: others that are shipped", source="ours"
    )


@dataclass(frozen=True)
class Ml3d(Fitted):
    """3DML-ResNet: its size, training and use."""

    features: int = setting(96, "channels of the hidden layers", source="paper §II-A", low=1)
    blocks: int = setting(10, "residual blocks", source="paper §II-A", low=1)
    temporal_kernel: int = setting(3, "frames under a convolution, odd", source="paper §II-A", low=1, odd=True)
    output: str = setting("sigmoid", "last layer", source="ours", choices=("sigmoid", "linear"))
    window: int = setting(
        10, "frames of a training window; trained weights bring their own", source="paper §II-E", low=1
    )
    stride: int = setting(1, "frames from one window to the next", unit="frames", source="paper §II-A", low=1)
    mirrored: bool = setting(False, "look at the frames mirrored left to right as well, and average", source="ours")
    sigma_px: float = setting(1.0, "blur of the detection loss", unit="px", source="ours", low=0)
    masked: bool = setting(True, "offset loss at true bubbles only", source="ours")
    threshold: float | None = setting(
        0.0,
        "least probability of a bubble; None takes the best on validation data",
        source="paper §II-B",
        low=0,
        high=1,
    )
    min_distance_px: float = setting(
        0.7,
        "neighbouring pixels that tell places nearer than this mean the same bubble",
        unit="px",
        source="ours",
        low=0,
    )


@dataclass(frozen=True)
class Count(Fitted):
    """The network that counts bubbles: its size, training and use."""

    features: int = setting(16, "channels of the first layer", source="ours", low=1)
    n_max: int | None = setting(100, "largest number told of a tile; None is a regression", source="ours", low=1)
    tile_px: int = setting(
        64, "largest side of a counted tile; weights bring their own", unit="px", source="ours", low=16
    )
    margin: float = setting(
        1.0, "times as many bubbles as were told may be found where they are probable enough", source="ours", low=1
    )


@dataclass(frozen=True)
class Mspcn(Fitted):
    """mSPCN, to which the paper compares: its size, training and use."""

    epochs: int = setting(60, "epochs", source="mSPCN", low=1)
    batch: int = setting(4, "single frames of a step", source="mSPCN", low=1)
    decay: str = setting("halfway", "how the step size falls", source="mSPCN", choices=DECAYS)
    upsample: int = setting(4, "fine pixels per pixel and side", source="mSPCN", low=1)
    sparsity: float = setting(1.0, "weight of the sparsity loss", source="mSPCN", low=0)
    threshold: float | None = setting(
        None, "smallest peak that is a bubble; None takes the best on validation data", source="ours", above=0
    )
    centre_side: int = setting(
        1,
        "side of the square whose centre of mass is the bubble; 1 is the peak itself",
        unit="fine px",
        source="ours",
        low=1,
        odd=True,
    )


@dataclass(frozen=True)
class Train(Checked):
    """What the trainings of all networks share. The paper's simulator is in section ``cam``."""

    psf: str = setting(
        "bmode",
        "PSFs from B-mode, IQ, or a sequence from either",
        source="paper §II-D",
        choices=("bmode", "iq", "both"),
    )
    stretch: tuple[float, float] = setting(
        (1.0, 1.0), "factor that widens the PSFs, drawn for each sequence", source="ours", above=0, ascending=True
    )
    gain: tuple[float, float] = setting(
        (1.0, 1.0), "factor on each normalized window, drawn", source="ours", above=0, ascending=True
    )
    still: float = setting(
        1.0, "share of sequences with a constant background; in others it changes", source="paper §II-D", low=0, high=1
    )
    speed: tuple[float, float] = setting(
        (1.0, 1.0), "factor on the speed of the flow, drawn for each sequence", source="ours", above=0, ascending=True
    )
    quieter_db: tuple[float, float] = setting(
        (0.0, 0.0), "by how much the background is weakened, drawn likewise", unit="dB", source="ours", ascending=True
    )
    quieter_share: float = setting(1.0, "share of sequences with a weakened background", source="ours", above=0, high=1)
    crops: int = setting(1, "parts cut out of each simulated sequence", source="ours", low=1)
    precision: str = setting(
        "auto", "of the network; auto is bfloat16 where the processor has it", source="ours", choices=PRECISIONS
    )
    validation_frames: int = setting(200, "frames scored after each epoch", unit="frames", source="ours", low=1)


@dataclass(frozen=True)
class Compute(Checked):
    """Where and how networks run."""

    device: str = setting("auto", "processor; auto is CUDA where there is one", source="ours")
    precision: str = setting("float32", "of a trained network in use", source="ours", choices=PRECISIONS)
    compile: bool = setting(False, "let torch compile networks, in training and in use", source="ours")
    batch: int = setting(4, "windows or frames that go through a network together", source="ours", low=1)
    tile_px: int | None = setting(
        None, "side of the parts in which large frames are looked at; None takes all", unit="px", source="ours", low=32
    )
    workers: int = setting(1, "processes that simulate ahead of a training", source="ours", low=0)
