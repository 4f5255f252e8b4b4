"""Where the YAML files are, beside the package in a checkout, inside it in a wheel; reading one.

``--config`` takes files, and ours by name: ``seg``, ``baselines/patch``, ``paper/seg``.
"""

import difflib
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")

#: Flags that take a config.
FLAGS = ("--config", "-c")

#: Most bytes of a config, and most values and levels of it once its aliases are written out.
MAX_BYTES, MAX_VALUES, MAX_DEPTH = 2**20, 10**5, 100


def folder() -> Path:
    """Return the folder of task configs."""
    return next(place for place in PLACES if (place / "codec.yaml").is_file())


def known_tasks() -> list[str]:
    """Return the words ``--task`` takes: the names of the YAML files."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def known_baselines() -> list[str]:
    """Return the names of the overlays that train a network to compare with."""
    return sorted(f"baselines/{path.stem}" for path in folder().glob("baselines/*.yaml"))


def find_config(name: str) -> Path:
    """Return the YAML file of a task, or another of ours, as ``baselines/patch``."""
    return folder() / f"{name}.yaml"


def options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield flags and their values, in order.

    Example:
        >>> list(options(["--config", "seg", "--data.crop=96"]))
        [('--config', 'seg'), ('--data.crop', '96')]
    """
    for arg, following in itertools.pairwise([*args, ""]):
        flag, equals, value = arg.partition("=")
        if equals and flag.startswith("-"):
            yield flag, value
        elif arg.startswith("-"):
            yield arg, following


def name_files(args: Sequence[str]) -> list[str]:
    """Return ``args`` with the files of configs that are given by name.

    Raises:
        ValueError: if one is neither a file nor ours.
    """
    named = []
    for before, arg in itertools.pairwise(["", *args]):
        flag, equals, value = arg.partition("=")
        if before in FLAGS:
            named.append(_name_file(arg))
        else:
            named.append(f"{flag}={_name_file(value)}" if equals and flag in FLAGS else arg)
    return named


def _name_file(word: str) -> str:
    if Path(word).is_file() or not re.fullmatch(r"[\w./~-]+", word):  # others are YAML itself
        return word
    if not find_config(word).is_file():
        known = [str(p.relative_to(folder()).with_suffix("")) for p in folder().rglob("*.yaml")]
        close = difflib.get_close_matches(word, known, 1) or sorted(known)
        raise ValueError(f"no config '{word}': expected a file, or a name: {', '.join(close)}")
    return str(find_config(word))


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
