"""Where the YAML files are, beside the package in a checkout, inside it in a wheel; reading one."""

from pathlib import Path
from typing import Any

PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")

#: Most bytes of a config, and most values and levels of it once its aliases are written out.
MAX_BYTES, MAX_VALUES, MAX_DEPTH = 2**20, 10**5, 100


def folder() -> Path:
    """Return the folder of task configs."""
    return next(place for place in PLACES if (place / "codec.yaml").is_file())


def known_tasks() -> list[str]:
    """Return the words ``--task`` takes: the names of the YAML files."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find_config(task: str) -> Path:
    """Return the YAML file of a known task."""
    return folder() / f"{task}.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """Return what a YAML file says.

    Raises:
        ValueError: if it is no YAML, or one whose aliases would fill the memory.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES:,} bytes")
        # libyaml's limits how deep values may be, and does not take longer the deeper they are
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        config: dict[str, Any] = yaml.load(path.read_text("utf-8"), loader) or {}
        if not isinstance(config, dict):
            raise TypeError(f"expected settings, got a {type(config).__name__}")
        _count(config, 0)
    except (yaml.YAMLError, RecursionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot use {path}: {reason}; correct it, or give another") from error
    return config


def _count(value: object, before: int, depth: int = 0) -> int:
    """Return how many values there are, those ``before`` included."""
    if before > MAX_VALUES or depth > MAX_DEPTH:
        raise ValueError(f"more than {MAX_VALUES:,} values, or {MAX_DEPTH} levels of them")
    parts = list(value.values()) if isinstance(value, dict) else value
    for part in parts if isinstance(parts, list) else ():
        before = _count(part, before, depth + 1)
    return before + 1
