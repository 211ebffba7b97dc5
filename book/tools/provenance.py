"""Where results come from: hashes of files, versions, the machine, the revision."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path


def file_hash(path: Path) -> str:
    """SHA-256 of one file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in `folder`, byte code left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return list_hash((p.relative_to(folder).as_posix(), file_hash(p)) for p in files)


def file_list(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of all files in `folder`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [path.stat() for path in files]
    names = [path.relative_to(folder).as_posix() for path in files]
    return [(n, s.st_size, s.st_mtime_ns) for n, s in zip(names, stats, strict=True)]


def list_hash(parts: Iterable[object]) -> str:
    """SHA-256 of the printed form of `parts`."""
    return hashlib.sha256("\n".join(map(repr, parts)).encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    """Python (minor) and the packages that ulmpaper stands on, with its extras.

    A build of the same version, 2.13.0+cpu, counts as that version: what a GPU has made can be
    published from a machine without one.
    """
    python = ".".join(map(str, sys.version_info[:2]))
    made = {"python": python}
    for name in sorted(_required()):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            made[name] = importlib.metadata.version(name).partition("+")[0]
    return made


def _required() -> set[str]:
    """Names of the packages that results can depend on: not those that only build or test."""
    lines = importlib.metadata.requires("ulmpaper") or []
    used = [line for line in lines if not re.search(r"extra == .(book|cluster|dev).", line)]
    return {re.split(r"[^\w.-]", line)[0] for line in used} - {"ulmpaper"}


def cores() -> int:
    """Cores of the CPU that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def device() -> str:
    """What the notebooks run on, in words."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    cpu = next(named, platform.processor() or platform.machine())
    gpus = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return ", ".join([*gpus.splitlines(), f"{cpu} ({cores()} cores)"])


def commit(root: Path) -> str:
    """Short hash of the revision in `root`, and whether files differ from it."""
    if not shutil.which("git"):
        return "not known"
    head, changes = (
        subprocess.run(["git", "-C", str(root), *call], capture_output=True, text=True, check=False)
        for call in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain"])
    )
    if head.returncode:
        return "not known"
    return head.stdout.strip() + (" with changes" if changes.stdout.strip() else "")


def revision(root: Path) -> str:
    """The tag at the present commit, or the commit: what Colab and Binder should open."""
    for call in (["describe", "--tags", "--exact-match"], ["rev-parse", "HEAD"]):
        if not shutil.which("git"):
            break
        asked = subprocess.run(
            ["git", "-C", str(root), *call], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            return asked.stdout.strip()
    return f"v{importlib.metadata.version('ulmpaper')}"
