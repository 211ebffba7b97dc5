"""Execute the notebooks of a profile, each only when something it depends on has changed.

    python book/tools/run_notebooks.py PROFILE [NAME ...] [--source pala] [--set 'seed=7']

`notebooks/profiles.yml` gives the order, what each notebook needs and its parameters. The executed
notebook, `build/nb/PROFILE/NAME.ipynb`, carries the key it was made with: a hash of its code, its
parameters, what it can reach of this package (`reach.py`), the versions of other packages, its
input files and the keys of the notebooks it needs. Prose, captions and docstrings are not in the
key: staging takes them from the sources, so a corrected sentence costs no execution.

With another source or other settings the folder is `build/nb/PROFILE-SOURCE-DIGEST`, so that what
was executed as written stays.

Notebooks that do not need each other run side by side, one for each core and four at most; in the
profile paper, which fills a GPU, one after another. Those that measure times run alone.

Notebooks run in the root of the repository, so `data` and `outputs` mean the same folders here as
in `papermill notebooks/NAME.ipynb out.ipynb -p profile smoke` called from there.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import datetime as dt
import importlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from provenance import commit, cores, device, file_hash, list_hash, versions
from reach import Package

from ulmpaper.config import PROFILES, load_config, read_overrides
from ulmpaper.core import check_choice
from ulmpaper.paper import NotebookRun, start_run
from ulmpaper.paper.palafiles import SOURCES

ROOT = Path(__file__).resolve().parents[2]
_MOST_JOBS = 4  # notebooks at a time: each takes up to 3 GB


@dataclass(frozen=True)
class Notebook:
    """One notebook of the plan with its parameters for the profile."""

    name: str
    source: Path
    needs: tuple[str, ...]
    inputs: tuple[str, ...]
    defaults: dict[str, Any]
    parameters: dict[str, Any]
    is_alone: bool = False  # it measures times, which others beside it would falsify

    @property
    def changed(self) -> dict[str, Any]:
        """The parameters that differ from those written in the notebook."""
        return {
            name: value for name, value in self.parameters.items() if self.defaults[name] != value
        }

    @property
    def root(self) -> Path:
        """Root of the repository, in which the notebook runs."""
        return self.source.parents[1]

    @property
    def data_dir(self) -> Path:
        """Folder of fetched data."""
        given = self.parameters["data_dir"] or os.environ.get("ULMPAPER_DATA_DIR") or "data"
        return self.root / given

    @property
    def results(self) -> Path:
        """Folder, relative to the root, for results.json and pictures that other pages show."""
        out = self.start().out
        return out.relative_to(self.root) if out.is_relative_to(self.root) else out

    @property
    def real_data(self) -> dict[str, Any] | None:
        """PALA's files that it reads, by content; None where they are not meant."""
        return None if self.parameters["source"] == SOURCES[0] else self.start().data

    def start(self) -> NotebookRun:
        """What the notebook's own first cell makes of its parameters, or the error it raises."""
        out_dir = self.root / self.parameters["out_dir"]
        meant = {**self.parameters, "data_dir": self.data_dir, "out_dir": out_dir}
        return start_run(self.name, **meant)


@dataclass(frozen=True)
class Run:
    """Outcome for one notebook: it `ran`, is `unchanged`, `failed`, or `waits` for a failed one."""

    name: str
    status: str
    seconds: float = 0.0
    detail: str = ""


class NotebookError(Exception):
    """A notebook did not run to its end; the message is fit for the terminal."""


# --- the plan -------------------------------------------------------------------------------------


def read_profiles(root: Path) -> dict[str, Any]:
    """The content of `notebooks/profiles.yml`."""
    return yaml.safe_load((root / "notebooks" / "profiles.yml").read_text(encoding="utf-8"))


Change = Mapping[str, Any]  # parameters of all notebooks that a user sets: source, overrides


def label(profile: str, change: Change | None = None) -> str:
    """Name of the folder of executed notebooks: the profile, and what was changed.

    Examples
    --------
    >>> label("quick")
    'quick'
    """
    if not change:
        return profile
    digest = list_hash(sorted(change.items()))[:6]
    return f"{profile}-{change.get('source', SOURCES[0])}-{digest}"


def read_plan(
    root: Path, profile: str, *, build: str = "build", change: Change | None = None
) -> list[Notebook]:
    """Notebooks in order, with the parameters of `profile`, and `change` on top of them.

    With a `build` other than the default, results go there too and leave the usual `outputs` alone.
    """
    check_choice(profile, PROFILES, "profile")
    change = dict(change or {})
    load_config(profile, change.get("overrides"))  # a slip is an error before anything runs
    plan: list[Notebook] = []
    for name, entry in read_profiles(root)["notebooks"].items():
        for key in entry:
            check_choice(key, ("needs", "inputs", "parameters", "alone"), f"key of notebook {name}")
        for key in entry.get("parameters", {}):
            check_choice(key, PROFILES, f"profile of notebook {name}")
        source = root / "notebooks" / f"{name}.ipynb"
        if not source.is_file():
            raise ValueError(
                f"profiles.yml names {name!r} but notebooks/{name}.ipynb is missing: "
                "run `make sync`"
            )
        for needed in entry.get("needs", []):
            check_choice(needed, [n.name for n in plan], f"notebook before {name}, which needs it,")
        defaults = default_parameters(nbformat.read(source, 4))
        wanted = {"profile": profile, **(entry.get("parameters", {}).get(profile) or {})}
        overrides = {**wanted.get("overrides", {}), **change.get("overrides", {})}
        wanted |= {**change, "overrides": overrides}
        if build != "build":
            wanted["out_dir"] = f"{build}/outputs"
        for parameter in wanted:
            check_choice(parameter, defaults, f"parameter of notebook {name}")
        needs = tuple(entry.get("needs", []))
        inputs = tuple(entry.get("inputs", []))
        is_alone = bool(entry.get("alone", False))
        plan.append(Notebook(name, source, needs, inputs, defaults, defaults | wanted, is_alone))
    return plan


def default_parameters(notebook: nbformat.NotebookNode) -> dict[str, Any]:
    """Names and values assigned, with a type each, in the cell tagged `parameters`."""
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(
            f"a notebook needs one cell tagged `parameters`, this one has {len(cells)}"
        )
    return {
        line.target.id: ast.literal_eval(line.value)
        for line in ast.parse(cells[0].source).body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value
    }


def with_needs(plan: Sequence[Notebook], names: Sequence[str]) -> list[Notebook]:
    """The notebooks called `names` and those they need, in order; without names, all."""
    known = [notebook.name for notebook in plan]
    wanted = {check_choice(name, known, "notebook") for name in names} or set(known)
    for notebook in reversed(plan):
        if notebook.name in wanted:
            wanted |= set(notebook.needs)
    return [notebook for notebook in plan if notebook.name in wanted]


# --- the key --------------------------------------------------------------------------------------


def content_key(
    notebook: Notebook, root: Path, package: Package, upstream: Mapping[str, str]
) -> str:
    """Hash of everything the outputs of `notebook` depend on."""
    code = [
        (cell.source, sorted(cell.metadata.get("tags", [])))
        for cell in nbformat.read(notebook.source, 4).cells
        if cell.cell_type == "code"
    ]
    # The setup cell names the version of the package, which changes no number.
    cells = [cell for cell in code if "setup" not in cell[1]]
    parameters = sorted(notebook.parameters.items())
    reached = package.key(source for source, _ in code)
    needed = [upstream[name] for name in notebook.needs]
    inputs = [input_hashes(notebook, root), notebook.real_data]
    return list_hash([*cells, *parameters, reached, versions(), *inputs, *needed])


def input_hashes(notebook: Notebook, root: Path) -> dict[str, dict[str, str]]:
    """Hashes of the declared input files, in the first place that has them."""
    mirror = os.environ.get("ULMPAPER_DATA_MIRROR")
    folders = [notebook.data_dir, *([root / mirror] if mirror else [])]
    return {pattern: _first_matches(folders, pattern) for pattern in notebook.inputs}


def _first_matches(folders: Sequence[Path], pattern: str) -> dict[str, str]:
    for folder in folders:
        if matches := sorted(p for p in folder.rglob(pattern) if p.is_file()):
            return {p.name: file_hash(p) for p in matches}
    return {}


def read_record(executed: Path) -> dict[str, Any] | None:
    """What the runner noted in an executed notebook; None where there is none."""
    return nbformat.read(executed, 4).metadata.get("ulmpaper") if executed.is_file() else None


def is_current(record: Mapping[str, Any], key: str, root: Path) -> bool:
    """Whether a notebook was executed with `key`, and its results are still there, untouched."""
    results = root / record["results"] / "results.json"
    return (
        record["key"] == key
        and results.is_file()
        and file_hash(results) == record["results_sha256"]
    )


# --- execution ------------------------------------------------------------------------------------


def run_notebooks(
    root: Path,
    profile: str,
    names: Sequence[str] = (),
    *,
    build: str = "build",
    change: Change | None = None,
) -> list[Run]:
    """Bring the executed notebooks of a profile up to date, one line each on the terminal."""
    plan = with_needs(read_plan(root, profile, build=build, change=change), names)
    _check_real_data(plan)
    folder = root / build / "nb" / label(profile, change)
    folder.mkdir(parents=True, exist_ok=True)
    package = Package(root / "ulmpaper")
    width = max(len(notebook.name) for notebook in plan)
    jobs: list[_Job] = []
    runs = {}
    keys: dict[str, str] = {}
    lasted = {}
    for notebook in plan:
        keys[notebook.name] = content_key(notebook, root, package, keys)
        target = folder / f"{notebook.name}.ipynb"
        made = read_record(target)
        if made and is_current(made, keys[notebook.name], root):
            when = f"ran on {made['finished'][:10]} in {made['seconds']} s"
            runs[notebook.name] = Run(notebook.name, "unchanged", detail=when)
            _say(runs[notebook.name], width)
        else:
            timeout_s = read_profiles(root).get("cell_timeout_s", {}).get(profile)
            jobs.append(_Job(notebook, root, target, keys[notebook.name], timeout_s))
            lasted[notebook.name] = made["seconds"] if made else None
    n_jobs = 1 if profile == "paper" else min(_MOST_JOBS, cores(), len(jobs))
    _forecast(lasted, n_jobs)
    for run in _run_all(jobs, n_jobs):
        runs[run.name] = run
        _say(run, width)
    return [runs[notebook.name] for notebook in plan]


def _say(run: Run, width: int) -> None:
    line = f"{run.name:<{width}}  {run.status:<9}  {run.seconds:6.1f} s  {run.detail}"
    print(line.rstrip(), flush=True)


def _forecast(lasted: Mapping[str, float | None], n_jobs: int) -> None:
    """Say what is going to run, and how long it took the last time."""
    if not lasted:
        return
    parts = [
        name.partition("_")[0] + ("" if seconds is None else f" ({seconds:.0f} s)")
        for name, seconds in lasted.items()
    ]
    known = [seconds for seconds in lasted.values() if seconds is not None]
    total = ""
    if len(known) == len(lasted):
        total = f": about {max(max(known), sum(known) / n_jobs) / 60:.1f} min, by the last run"
    print(f"to run, {n_jobs} at a time: {', '.join(parts)}{total}", flush=True)


def _run_all(jobs: Sequence[_Job], n_jobs: int) -> Iterator[Run]:
    """Execute notebooks side by side, each after those that it needs."""
    if n_jobs <= 1:
        pool: Any = None
    else:
        pool = ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn"))
    left = list(jobs)
    running: dict[Future[Run], _Job] = {}
    failed: set[str] = set()
    with pool or contextlib.nullcontext():
        while left or running:
            for job in _ready(left, list(running.values())):
                left.remove(job)
                if lacking := sorted(failed & set(job.notebook.needs)):
                    failed.add(job.notebook.name)
                    yield Run(job.notebook.name, "waits", detail=f"for {', '.join(lacking)}")
                elif pool:
                    running[pool.submit(_execute, job)] = job
                else:
                    run = _execute(job)
                    failed |= {run.name} if run.status == "failed" else set()
                    yield run
            for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                del running[future]
                run = future.result()
                failed |= {run.name} if run.status == "failed" else set()
                yield run


def _ready(left: Sequence[_Job], running: Sequence[_Job]) -> list[_Job]:
    """Those that may begin now: what they need is done, and nobody runs who must be alone."""
    unfinished = {job.notebook.name for job in (*left, *running)}
    free = [job for job in left if not unfinished & set(job.notebook.needs)]
    together = [job for job in free if not job.notebook.is_alone]
    if together:
        return together
    return [] if running else free[:1]


def _check_real_data(plan: Sequence[Notebook]) -> None:
    """Refuse data that are missing before anything runs, all in one message."""
    missing: dict[str, list[str]] = {}
    for notebook in plan:
        try:
            notebook.start()
        except FileNotFoundError as error:
            missing.setdefault(str(error), []).append(notebook.name)
    if missing:
        said = "; ".join(f"{', '.join(names)}: {error}" for error, names in missing.items())
        raise FileNotFoundError(f"{said}. Or name only notebooks whose data are there")


@dataclass(frozen=True)
class _Job:
    """A notebook to execute, and where it goes."""

    notebook: Notebook
    root: Path
    target: Path
    key: str
    timeout_s: float | None


def _execute(job: _Job) -> Run:
    notebook, root, target = job.notebook, job.root, job.target
    # papermill saves after every cell and when one fails: under a name that nothing reads.
    attempt = target.with_suffix(".unfinished.ipynb")
    started = time.time()
    try:
        executed = _papermill(notebook, root, attempt, job.timeout_s)
        results = root / notebook.results / "results.json"
        if not results.is_file() or results.stat().st_mtime < started:
            raise NotebookError(
                f"it ran to its end, but wrote no {notebook.results / 'results.json'}"
            )
    except NotebookError as error:
        return Run(
            notebook.name,
            "failed",
            time.time() - started,
            f"{error}\n    as far as it came: {attempt}",
        )
    seconds = time.time() - started
    executed.metadata["ulmpaper"] = {
        "key": job.key,
        "parameters": notebook.changed,
        "profile": notebook.parameters["profile"],
        "source": notebook.parameters["source"],
        "finished": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "slowest": _slowest_cell(executed),
        "device": device(),
        "commit": commit(root),
        "versions": versions(),
        "results": notebook.results.as_posix(),
        "results_sha256": file_hash(results),
    }
    nbformat.write(_without_traces(executed), attempt)
    attempt.replace(target)
    return Run(notebook.name, "ran", seconds)


def _papermill(
    notebook: Notebook, root: Path, target: Path, timeout_s: float | None
) -> nbformat.NotebookNode:
    # Slow to import, and not needed where nothing has changed.
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    # Else the first notebook on a fresh machine shows that matplotlib is making its list of fonts.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    importlib.import_module("matplotlib.font_manager")
    try:
        return papermill.execute_notebook(
            notebook.source,
            target.resolve(),
            parameters=notebook.changed,
            cwd=root,
            kernel_name="python3",
            progress_bar=False,
            start_timeout=600,  # on a busy machine a kernel takes more than the usual minute
            execution_timeout=timeout_s,
            # Else the kernel logs that its sockets are not encrypted, and how it was stopped.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except papermill.PapermillExecutionError as error:
        code = "\n".join(f"    | {line}" for line in error.source.splitlines())
        raise NotebookError(
            f"in cell [{error.exec_count}]\n{code}\n    {error.ename}: {error.evalue}"
        ) from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(str(error)) from None
    except RuntimeError as error:
        # "Kernel didn't respond in 600 seconds" has no type of its own.
        if "respond" not in str(error):
            raise
        raise NotebookError(str(error)) from None


def _slowest_cell(executed: nbformat.NotebookNode) -> dict[str, Any]:
    timed = [
        (c.metadata.papermill.duration or 0.0, c.execution_count)
        for c in executed.cells
        if c.cell_type == "code"
    ]
    seconds, number = max(timed)
    return {"cell": number, "seconds": round(seconds, 1)}


def _without_traces(executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop notes that hold paths of this machine; say who set the parameters."""
    del executed.metadata["papermill"]
    comment = f"# set by the profile {executed.metadata.ulmpaper.profile!r}"
    for cell in executed.cells:
        for trace in ("papermill", "execution"):
            cell.metadata.pop(trace, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = cell.source.replace("# Parameters", comment, 1)
    return executed


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all tools share which need executed notebooks."""
    parser.add_argument(
        "--build", default="build", help="folder for everything that is built (default: build)"
    )
    parser.add_argument(
        "--source", default=SOURCES[0], help=f"{' or '.join(SOURCES)} (default: {SOURCES[0]})"
    )
    parser.add_argument(
        "--set", default="", metavar="'KEY=VALUE ...'", help="settings of all notebooks"
    )


def read_change(args: argparse.Namespace) -> dict[str, Any]:
    """What the options `--source` and `--set` change."""
    overrides = read_overrides(args.set)
    check_choice(args.source, SOURCES, "source")
    changed = {"source": args.source} if args.source != SOURCES[0] else {}
    return {**changed, **({"overrides": overrides} if overrides else {})}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Execute the notebooks of a profile where something has changed."
    )
    parser.add_argument("profile", choices=list(PROFILES))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="only these notebooks and those they need"
    )
    add_options(parser)
    args = parser.parse_args(argv)
    try:
        runs = run_notebooks(
            ROOT, args.profile, args.names, build=args.build, change=read_change(args)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return int(any(run.status in ("failed", "waits") for run in runs))


if __name__ == "__main__":
    sys.exit(main())
