"""On what a measurement was made: commit, processor, versions."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from cdinfer import __version__


def describe() -> dict[str, Any]:
    """Return ``git``, ``hardware`` and ``versions`` of a record, plain JSON values."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "git": _git(),
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "gpu": gpu,
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cdinfer": __version__,
        },
    }


def _git() -> dict[str, Any] | None:
    def ask(*words: str) -> str:
        place = Path(__file__).parent
        return subprocess.run(
            ["git", *words], cwd=place, capture_output=True, check=True, text=True
        ).stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "-uno")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
