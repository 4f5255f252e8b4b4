"""Packages that are measured and need not be installed: ``pip install 'cdinfer[bench]'``."""

import functools
import importlib
import warnings
from typing import Any


@functools.cache
def find(module: str) -> Any:  # noqa: ANN401
    """Return a module of a peer, or ``None`` where it is not installed or does not load."""
    with warnings.catch_warnings():  # what peers say to their own developers
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except (ImportError, OSError, RuntimeError):  # torchcodec without its libraries: Runtime
            return None
