"""The command line: each command reads its settings and calls one function.

Errors of the user's making end with one line and exit code 2, without a traceback.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

from ulmpaper.core.doors import optional

with optional("cli"):
    import typer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Ultrasound localization microscopy: the companion of 3DML-ResNet (EUSIPCO 2024).",
)


def _show_version(wanted: bool) -> None:
    from ulmpaper import __version__

    if wanted:
        typer.echo(f"ulmpaper {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


def _place(name: str) -> Path:
    """File or folder to write: an empty name, as of a variable that is not set, is none."""
    if not name.strip():
        raise FileNotFoundError("-o (--out) names nothing: give a file or folder to write to")
    return Path(name)


_PLACE: dict[str, Any] = {"parser": _place, "metavar": "PATH"}
_Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a setting, e.g. track.max_gap=1; repeatable."
    ),
]


_Truth = Annotated[
    list[Path] | None,
    typer.Option(
        help="CSV of the true bubbles, frame,z,x and score if known, in pixels, from 0. One "
        "counts its frames over all FILES; or one for each, in their order."
    ),
]
_Profile = Annotated[str, typer.Option(help="smoke, quick or paper.")]
_Jobs = Annotated[
    int | None, typer.Option("-j", "--jobs", help="Processes.", show_default="of the profile")
]
_Variable = Annotated[str | None, typer.Option(help="Name of the array in the file.")]
_Axes = Annotated[
    str | None, typer.Option(help="Meaning of its axes, e.g. zxt; c holds real and imaginary part.")
]


@app.command()
def ulm(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Frames: .mat, .h5, .npy, TIFF, DICOM and others, see the book.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Folder for tables and maps.", show_default=False, **_PLACE
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(help="Localization method, or ml3d or mspcn.", show_default="of the profile"),
    ] = None,
    variable: _Variable = None,
    axes: _Axes = None,
    profile: _Profile = "quick",
    overrides: _Overrides = None,
    jobs: _Jobs = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, tcp://host:port.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of another run in OUT.")
    ] = False,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Pictures of the maps, of png, pdf and tiff (their numbers, 16 or 32 bit), "
            "parted by commas.",
        ),
    ] = "png",
    dpi: Annotated[float, typer.Option(help="Dots per inch of the PNG.")] = 300,
    thicken: Annotated[
        int | None,
        typer.Option(
            metavar="PX",
            help="Width of lines in pictures [map pixels]; 1 leaves them as they are.",
            show_default="seen in a column of 85 mm",
        ),
    ] = None,
    red: Annotated[
        str, typer.Option(help="What is red in the map of directions: towards the probe, or away.")
    ] = "towards",
) -> None:
    """Find, track and map the bubbles of FILES, one after another, as one recording.

    No track goes on from one file to the next. OUT then holds bubbles and tracks (tables.h5, .csv),
    the maps (maps.npz, pictures) and the settings (run.json). The same command goes on with a run
    that was stopped.
    """
    from ulmpaper.config import load_config, method_name
    from ulmpaper.io.scale import pitch_pair
    from ulmpaper.pipeline.pictures import Pictures
    from ulmpaper.pipeline.recording import open_recording
    from ulmpaper.pipeline.run import run_to_folder

    pictures = Pictures(formats, dpi=dpi, thicken_px=thicken, red=red)
    settings = _parse_overrides(overrides)
    if method is not None:
        settings["locate.method"] = method_name(method)
    px_mm = pitch_pair(settings)
    cfg = load_config(profile, settings)
    sources = [open_recording(file, cfg, variable, axes=axes, px_mm=px_mm) for file in files]
    done = run_to_folder(
        sources,
        out,
        cfg,
        n_jobs=jobs,
        scheduler=scheduler,
        overwrite=overwrite,
        pictures=pictures,
        progress=True,
    )
    n_tracks = done.tracks["n_tracks"]
    middle = ""
    if n_tracks:
        speed, length = (done.tracks[name]["median"] for name in ("speed_mm_s", "n_points"))
        middle = f" (medians: {speed:.3g} mm/s, {length:g} frames long)"
    _say(f"{done.n_frames} frames, {done.n_bubbles} bubbles, {n_tracks} tracks{middle} -> {out}")
    along_z, along_x = done.scale.get("network_scale", (1, 1))
    if (along_z, along_x) != (1, 1):
        _say(
            f"the network looked at {along_z:.2g} x {along_x:.2g} times as many pixels (z, x), "
            f"so that spots are as wide as in its training ({cfg.locate.method}.scale)"
        )
    for note in sources[0].notes:
        if note.startswith("there are fewer frames"):  # so the axes may be other ones
            _say(f"note: {note}")
    if n_tracks == 0:
        numbers = {"ml3d": "ml3d.threshold, count.margin", "mspcn": "mspcn.threshold"}
        number = numbers.get(cfg.locate.method, "locate.n_bubbles")
        _say(
            f"no track was long enough: see {number}, track.max_distance_px "
            "and track.min_length (--set)"
        )


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Frames, as for ulm.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            "-o", "--out", help="Folder for table and figure.", show_default=False, **_PLACE
        ),
    ],
    methods: Annotated[
        str,
        typer.Option(
            help="Methods, parted by commas; parabola:60 takes at most 60 bubbles a frame, "
            "ml3d:FILE or ml3d:paper other weights."
        ),
    ] = "radial,parabola,ml3d",
    truth: _Truth = None,
    variable: _Variable = None,
    axes: _Axes = None,
    profile: _Profile = "quick",
    overrides: _Overrides = None,
    jobs: _Jobs = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another comparison in OUT.")
    ] = False,
) -> None:
    """Run several methods on FILES, and score them where the truth is known.

    Prints a table. OUT then holds it (compare.csv), the density maps side by side (compare.png) and
    the settings (compare.json). Nothing is tuned: each method runs with the number of bubbles and
    the threshold of the settings or of its weights.
    """
    from ulmpaper.config import load_config
    from ulmpaper.io.scale import pitch_pair
    from ulmpaper.pipeline.recording import open_recording
    from ulmpaper.pipeline.side_by_side import compare_to_folder

    settings = _parse_overrides(overrides)
    px_mm = pitch_pair(settings)
    cfg = load_config(profile, settings)
    sources = [open_recording(file, cfg, variable, axes=axes, px_mm=px_mm) for file in files]
    made = compare_to_folder(
        sources, out, methods, cfg, truth=truth, n_jobs=jobs, overwrite=overwrite
    )
    typer.echo(made.text())
    _say(f"{', '.join(made.table.index)} -> {out}")


@app.command()
def simulate(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="cam, phantom or invivo.", show_default=False)
    ],
    out: Annotated[
        str,
        typer.Option("-o", "--out", help="File (.h5); for phantom a folder.", show_default=False),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Of cam: train, validation or test (default). Of phantom: validation or test."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where invivo looks for a real map.", show_default="data")
    ] = None,
    profile: _Profile = "quick",
    overrides: _Overrides = None,
    jobs: Annotated[
        int | None,
        typer.Option("-j", "--jobs", help="Processes, but for cam.", show_default="of the profile"),
    ] = None,
) -> None:
    """Simulate frames with their true bubbles, to train and to test on.

    cam: the paper's simulator. phantom: tubes imaged by other physics, in PALA's files. invivo: a
    brain under moving tissue. A run that was interrupted goes on where it stopped.
    """
    from ulmpaper.config import load_config
    from ulmpaper.simulator.datasets import simulate_dataset

    cfg = load_config(profile, _parse_overrides(overrides))
    n_jobs = cfg.blocks.n_jobs if jobs is None else jobs
    n_frames = simulate_dataset(
        kind, out, cfg, split=split, data_dir=data_dir, n_jobs=n_jobs, progress=sys.stderr.isatty()
    )
    _say(f"{n_frames} frames with their true bubbles -> {out}")
    if kind == "invivo":
        _say("tissue hides the bubbles: run ulm with --set filter.svd_low=10")


@app.command()
def train(
    recipe: Annotated[str, typer.Option(help="ml3d, count or mspcn.", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder of the run.", show_default=False, **_PLACE)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Block store with true bubbles, see store.",
            show_default="simulated data, always new",
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="Weights to begin with: shipped, phantom, paper or a file.",
            show_default="random ones",
        ),
    ] = None,
    profile: _Profile = "quick",
    overrides: _Overrides = None,
) -> None:
    """Train a network, or go on with the run in OUT.

    OUT then holds the best network (best.safetensors), what is needed to go on (last.safetensors)
    and the scores of each epoch (metrics.csv). Ctrl-C saves and stops. To use the network:
    ulm --method ml3d --set ml3d.weights=OUT/best.safetensors.
    """
    from ulmpaper.config import load_config
    from ulmpaper.networks.train import train as train_network

    cfg = load_config(profile, _parse_overrides(overrides))
    summary = train_network(recipe, out, cfg, data=data, start=start, progress=sys.stderr.isatty())
    left = "" if summary.step == summary.n_steps else "; stopped, the same command goes on"
    _say(f"{summary.step} of {summary.n_steps} steps, {summary.seconds:.0f} s -> {out}{left}")
    _say(" ".join(f"{name} {value:.3f}" for name, value in summary.scores.items()))
    # Not 0, so that what a script does next does not take a half-trained network.
    if left and summary.stopped_by is not None:
        raise typer.Exit(128 + summary.stopped_by)


@app.command()
def store(
    files: Annotated[
        list[Path], typer.Argument(help="Frames, as for ulm; PALA's truth comes with them.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="File to write, .h5.", show_default=False, **_PLACE)
    ],
    truth: _Truth = None,
    variable: _Variable = None,
    axes: _Axes = None,
) -> None:
    """Put the frames of FILES, one after another, into one block store: what train --data reads.

    IQ becomes amplitude. For the paper's training set in silico: PALA's sequences 16 to 20.
    """
    from ulmpaper.io.readers import store_frames

    n_frames = store_frames(files, out, variable=variable, axes=axes, truth=truth, progress=True)
    _say(f"{n_frames} frames -> {out}")


@app.command()
def info(
    file: Annotated[
        Path,
        typer.Argument(
            help="Frames: .mat, .h5, .npy, TIFF, DICOM and others, see the book.",
            show_default=False,
        ),
    ],
    variable: _Variable = None,
    axes: _Axes = None,
) -> None:
    """Say what FILE holds, how it will be read, and what looks wrong.

    A part of the file is read; look reads all of it.
    """
    from ulmpaper.io.readers import open_frames
    from ulmpaper.pipeline.look import look_briefly

    for name, text in look_briefly(open_frames(file, variable, axes=axes)):
        typer.echo(f"{name:12} {text}")


@app.command()
def look(
    files: Annotated[list[Path], typer.Argument(help="Frames, as for ulm.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option("-o", "--out", help="Page to write, .html.", show_default=False, **_PLACE),
    ],
    variable: _Variable = None,
    axes: _Axes = None,
    overrides: _Overrides = None,
) -> None:
    """Look at FILES, one recording, and suggest settings and the command to run.

    OUT is one page with what was read and why, what is wrong, pictures, tissue, and bubbles.
    """
    from ulmpaper.config import load_config
    from ulmpaper.pipeline.look import look as look_at

    cfg = load_config(overrides=_parse_overrides(overrides))
    seen = look_at(files, cfg, variable=variable, axes=axes)
    for sentence in seen.sentences():
        _say(sentence)
    typer.echo(seen.command)
    _say(f"-> {seen.save(out)}")


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="What to fetch; see --list.", show_default=False)
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List what can be fetched.")] = False,
    small: Annotated[bool, typer.Option("--small", help="Fetch everything small.")] = False,
    files: Annotated[
        list[str] | None, typer.Option("--file", help="Only this file of the set; repeatable.")
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Every file of the set, not only its first ones.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for the data.", show_default="data")
    ] = None,
) -> None:
    """Fetch real data by name, checked and kept for the next time.

    ULMPAPER_DATA_DIR changes the folder; a folder in ULMPAPER_DATA_MIRROR is looked in before the
    network.
    """
    from ulmpaper.core.records import check_choice
    from ulmpaper.io.fetch import REGISTRY, registry_table
    from ulmpaper.io.fetch import fetch as fetch_data

    if list_:
        for row in registry_table(data_dir).itertuples():
            here = {"yes": "fetched", "no": "not fetched"}.get(
                str(row.fetched), f"{row.fetched} fetched"
            )
            typer.echo(
                f"{row.name:14} {row.what}\n"
                f"{'':14} {row.size}; licence: {row.licence}; {here}\n"
                f"{'':14} {row.address}"
            )
        return
    wanted = [name for name, entry in REGISTRY.items() if entry.small] if small else names
    if not wanted:
        raise ValueError(
            f"nothing to fetch: name one of {', '.join(REGISTRY)}, or --small, or --list"
        )
    for name in wanted:
        entry = REGISTRY[check_choice(name, REGISTRY, "data set")]
        some = [file.name for file in entry.files] if all_ else files
        typer.echo(f"{name}: {fetch_data(name, data_dir, files=some)}")


@app.command()
def config(
    profile: _Profile = "quick",
    overrides: _Overrides = None,
) -> None:
    """List all settings with unit, source and meaning."""
    from ulmpaper.config import config_table, load_config

    typer.echo(
        config_table(load_config(profile, _parse_overrides(overrides))).to_string(
            index=False, justify="left"
        )
    )


_UsageError: Any = typer.BadParameter.__bases__[0]  # click's, or that of typer's copy of it
_FORESEEN = (ValueError, TypeError, OSError, ImportError, MemoryError, FloatingPointError)


def main() -> None:
    """Run the command line."""
    from ulmpaper.core.records import UlmWarning
    from ulmpaper.io.processes import Stopped, handle_stops, last_stop, raise_stop

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, UlmWarning):
            _say(f"warning: {message}")
        else:
            usual(message, category, *where)

    try:
        with warnings.catch_warnings(), handle_stops(raise_stop):
            warnings.simplefilter("always", UlmWarning)
            warnings.showwarning = show  # type: ignore[assignment]
            code = app(standalone_mode=False)
    except _UsageError as error:
        error.show()
        if error.ctx and any("--set" in option.opts for option in error.ctx.command.params):
            _say_setting(getattr(error, "option_name", ""))
        sys.exit(2)
    except Stopped as stop:
        _say_error(stop)
        sys.exit(128 + stop.number)
    except Exception as error:
        if (number := last_stop()) is not None:
            _say_error(Stopped(number))
            sys.exit(128 + number)
        if not isinstance(error, _FORESEEN):
            raise
        _say_error(error)
        sys.exit(2)
    sys.exit(code or 0)


def _say_setting(option: str) -> None:
    """Name the settings that somebody may mean who took them for options, such as --px-mm."""
    from ulmpaper.config import near_settings

    meant = near_settings(option.strip("-").replace("-", "_")) if option else []
    if meant:
        _say(f"settings are given by --set: --set {meant[0]}=VALUE")


def _say_error(error: BaseException) -> None:
    """Say what went wrong in one line, with what was kept in spite of it."""
    what = str(error) or type(error).__name__
    _say(f"ulmpaper: {'; '.join([what, *getattr(error, '__notes__', [])])}")


def _parse_overrides(pairs: list[str] | None) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--set takes KEY=VALUE, not {pair!r}")
        parsed[key.strip()] = value.strip()
    return parsed


def _say(text: str) -> None:
    typer.echo(text, err=True)
