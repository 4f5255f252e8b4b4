import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdinfer.bitstream import jit

KERNEL = """
import sys
import numba
from jit import compiled

@compiled(numba.int64(numba.int64))
def double(number):
    return 2 * number

if sys.argv[1:]:  # no file may grow: a full disk
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
print(double(21))
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with a kernel in it and nothing that Python or numba cached."""
    shutil.copy(jit.__file__, tmp_path)
    (tmp_path / "kernel.py").write_text(KERNEL)
    return tmp_path


def run(folder: Path, *args: str, **environment: str) -> str:
    """Run the kernel in a new process and return what it said on stderr."""
    environment = {**os.environ, "PYTHONPATH": str(folder), **environment}
    command = [sys.executable, "-c", "import kernel", *args]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert done.stdout == "42\n", done.stderr
    return done.stderr


def test_a_kernel_works_and_says_so_where_no_cache_folder_can_be_made(folder) -> None:
    blocker = folder / "__pycache__"
    blocker.write_text("a file where numba wants a folder stops even the superuser")
    below = str(blocker / "below")
    said = run(folder, NUMBA_CACHE_DIR=below, XDG_CACHE_HOME=below, HOME=below)
    assert said.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="limits file sizes with setrlimit")
def test_a_kernel_works_and_says_so_where_its_cache_cannot_be_saved(folder) -> None:
    said = run(folder, "full disk", NUMBA_CACHE_DIR=str(folder / "cache"))
    assert said.count("set NUMBA_CACHE_DIR to a folder that can be written") == 1


def test_a_kernel_is_compiled_once_for_all_processes(folder) -> None:
    cache = folder / "cache"
    assert run(folder, NUMBA_CACHE_DIR=str(cache)) == ""
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")}
    assert len(written) == 2  # an index and a kernel
    assert run(folder, NUMBA_CACHE_DIR=str(cache)) == ""
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.nb?")} == written
