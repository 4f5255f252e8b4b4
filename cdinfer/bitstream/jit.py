"""numba that compiles once per machine, and still works where it cannot remember.

``numba.njit(cache=True)`` fails outright where no cache folder can be written (a read-only
installation, a full disk): when it looks for the folder, or only when it saves what it compiled.
Here both happen at the kernel's first call, and both end in the same kernel without a cache.
"""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba
from numba import types

P = ParamSpec("P")
R = TypeVar("R")


def constant(dtype: types.Type, ndim: int) -> types.Type:
    """Return the numba type of a C-ordered array that a kernel only reads."""
    return types.Array(dtype, ndim, "C", readonly=True)


def compiled(signature: object) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that compiles a function for one signature when first called.

    The function runs without Python's global lock, so threads decode in parallel.

    Args:
        signature: numba types, ``result(*arguments)``.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.cache
        def kernel() -> Callable[P, R]:
            try:
                cached: Callable[P, R] = numba.njit(signature, nogil=True, cache=True)(function)
                return cached
            except Exception:  # numba's cache has no error of its own; others return just below
                uncached: Callable[P, R] = numba.njit(signature, nogil=True)(function)
                _report_no_cache()
                return uncached

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return kernel()(*args, **kwargs)

        return call

    return decorate


@functools.cache
def _report_no_cache() -> None:
    """Say once per process why it starts slowly."""
    logging.getLogger(__name__).warning(
        "numba cannot use its cache folder, so every process compiles the entropy coder anew "
        "(a few seconds): set NUMBA_CACHE_DIR to a folder that can be written"
    )
