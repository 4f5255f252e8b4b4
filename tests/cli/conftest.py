"""Pictures, and the set that an export makes of them."""

from pathlib import Path

import pytest

from cdinfer.__main__ import main
from tests.conftest import paint

#: Options that make many shards of few pictures.
SMALL = ["--block", "3", "--per-shard", "4"]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 training and 6 test pictures of 96 x 128: at least ten shards of four."""
    counts = {"train": 30, "test": 6}
    return paint(tmp_path_factory.mktemp("scenes"), counts, ("left", "right"), [(96, 128)])


@pytest.fixture(scope="session")
def whole(scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set that an uninterrupted export makes."""
    folder = tmp_path_factory.mktemp("whole") / "shards"
    assert main(["export", str(scenes), str(folder), "--codec", str(tiny_codec), *SMALL]) == 0
    return folder
