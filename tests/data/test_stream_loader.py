import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cdinfer.data.stream import StreamDataset
from cdinfer.data.stream_loader import StreamLoader


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))


def loader(shards: Path, rank: int = 0, world: int = 1, workers: int = 0) -> StreamLoader:
    """Batches of 2 of the 12 training samples of ``shards``."""
    data = StreamDataset(f"file://{shards}", "train", 32, True, 2, True, 0, rank, world)
    return StreamLoader(data, workers, prefetch=2)


def numbers(batches: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in batches]


def test_every_epoch_has_its_own_order_and_whole_steps(shards: Path) -> None:
    batches = loader(shards)
    assert len(batches) == 6
    epochs = []
    for epoch in (0, 1, 0):
        batches.sampler.set_epoch(epoch)
        epochs.append(numbers(batches))
        assert batches.sampler.seen == 12
        assert sorted(n for batch in epochs[-1] for n in batch) == list(range(12))
    assert epochs[0] == epochs[2] != epochs[1]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2])
def test_a_run_goes_on_in_the_middle_of_an_epoch(shards: Path, world: int, workers: int) -> None:
    for rank in range(world):
        whole = loader(shards, rank, world, workers)
        whole.sampler.set_epoch(4)
        expected = numbers(whole)
        broken = loader(shards, rank, world, workers)
        broken.sampler.set_epoch(4)
        steps = iter(broken)
        seen = numbers([next(steps), next(steps)])
        state = broken.state_dict()
        del steps
        resumed = loader(shards, rank, world, workers)
        resumed.load_state_dict(state)
        resumed.sampler.set_epoch(4)
        assert seen + numbers(resumed) == expected
        assert len(numbers(resumed)) == len(expected)


def test_other_processes_cannot_go_on_within_an_epoch(shards: Path) -> None:
    batches = loader(shards)
    steps = iter(batches)
    next(steps)
    state = batches.state_dict()
    with pytest.raises(ValueError, match=r"with --data.workers 0, and now it is 2: resume with"):
        loader(shards, workers=2).load_state_dict(state)
    with pytest.raises(ValueError, match=r"with --trainer.devices 1, and now it is 2: resume with"):
        loader(shards, world=2).load_state_dict(state)
    loader(shards, workers=1).load_state_dict(state)
    list(steps)
    loader(shards, world=2).load_state_dict(batches.state_dict())


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_goes_wrong_in_a_worker_is_one_line(
    shards: Path, tmp_path: Path, workers: int
) -> None:
    copy = Path(shutil.copytree(shards, tmp_path / "copy"))
    batches = loader(copy, workers=workers)
    (copy / "train-00000.tar").unlink()
    with pytest.raises(
        ValueError, match=r"^cannot read file://[^\n]*/train-00000.tar: [^\n]+ URL$"
    ):
        list(batches)


def test_validation_needs_no_sampler(shards: Path) -> None:
    data = StreamDataset(f"file://{shards}", "val", None, batch_size=3)
    batches = list(StreamLoader(data))
    assert numbers(batches) == [[0, 1, 2], [3]]
    assert batches[0]["planes"]["y"].dtype == torch.uint8
