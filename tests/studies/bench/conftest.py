"""Pictures for benches, small; and a machine on which no peer is installed."""

import gc
import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest

from cdinfer.studies.bench import peers
from cdinfer.studies.bench.pictures import Pictures, read_pictures


@pytest.fixture
def webdataset_files() -> Iterator[None]:
    """webdataset leaves closing to Python: let that happen where the warning is ignored."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def few() -> Pictures:
    """Five pictures of 64 x 64 pixels."""
    return read_pictures(None, 5, side=64)


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what the package itself depends on."""

    def find(module: str) -> ModuleType | None:
        return importlib.import_module(module) if module in ("PIL", "imagecodecs") else None

    monkeypatch.setattr(peers, "find", find)
