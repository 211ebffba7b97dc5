"""Which revision of the source code this is."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision() -> str:
    """Commit of the source, ``-dirty`` where files were changed, ``unknown`` without a checkout."""
    where = ["git", "-C", str(Path(__file__).parent)]
    command = [*where, "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
