"""A trained codec where commands look for one."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(
    tiny_codec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_shipped: None
) -> Path:
    """A copy of the tiny codec at ``runs/codec/version_0/codec``; its grandparents are here."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(tiny_codec, Path("runs/codec/version_0/codec")))
