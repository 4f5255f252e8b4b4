import threading
import time
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cdinfer.data.draws import Draw, EpochSampler
from cdinfer.data.loader import Loader, share_step


class Numbers(Dataset[dict[str, Tensor]]):
    """The epoch and number of each draw; ``bad`` fails."""

    def __init__(self, bad: int = -1) -> None:
        self.bad, self.read = bad, list[int]()

    def __getitem__(self, draw: Draw | int) -> dict[str, Tensor]:
        epoch, sample = draw if isinstance(draw, Draw) else (-1, draw)
        if sample == self.bad:
            raise ValueError(f"sample {sample} is damaged")
        self.read.append(sample)
        return {"draw": torch.tensor([epoch, sample])}


def train_loader(
    workers: int = 0, prefetch: int = 0, batch_size: int = 3, **options: int
) -> Loader:
    sampler = EpochSampler(options.pop("length", 11), options.pop("seed", 0), batch_size, **options)
    return Loader(
        Numbers(), batch_size, sampler=sampler, num_workers=workers, prefetch=prefetch
    )  # fmt: skip


def drawn(batches: Iterator[dict[str, Tensor]]) -> list[list[list[int]]]:
    return [batch["draw"].tolist() for batch in batches]


KINDS = pytest.mark.parametrize(("workers", "prefetch"), [(0, 0), (0, 1), (0, 3), (2, 0)], ids=str)


@KINDS
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_batches_do_not_depend_on_who_reads_them(workers: int, prefetch: int) -> None:
    loader = train_loader(workers, prefetch)
    for epoch in range(3):
        iterator = iter(loader)
        loader.sampler.set_epoch(epoch)  # as Lightning does, after iter
        plain = train_loader()
        plain.sampler.set_epoch(epoch)
        assert drawn(iterator) == drawn(iter(plain))


@KINDS
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_what_counts_is_what_was_used_not_what_was_read(workers: int, prefetch: int) -> None:
    loader = train_loader(workers, prefetch)
    loader.sampler.set_epoch(2)
    whole = drawn(iter(loader))
    for used in range(len(loader) + 1):
        before = train_loader(workers, prefetch)
        before.sampler.set_epoch(2)
        list(islice(iter(before), used))
        state = before.state_dict()
        assert (state["epoch"], state["seen"]) == (2, 3 * used)
        after = train_loader(workers, prefetch)
        after.load_state_dict(state)
        iterator = iter(after)
        after.sampler.set_epoch(2)
        assert drawn(iterator) == whole[used:]
        after.sampler.set_epoch(3)
        assert after.state_dict()["seen"] == 0
        assert len(list(after)) == len(after) == 4


def test_a_state_is_plain_numbers_and_the_same_on_every_process() -> None:
    states = []
    for rank in range(2):
        loader = train_loader(rank=rank, world=2)
        next(iter(loader))
        states.append(loader.state_dict())
    assert states[0] == states[1]
    assert set(map(type, states[0].values())) == {int}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 12}, "a number of training samples of 11, and now it is 12"),
        ({"seed": 1}, r"a --data\.seed of 0, and now it is 1"),
        ({"blocks": [6, 5]}, r"\(--data\.shuffle\) of 0, and now it is 2"),
        ({"batch_size": 4}, r"of 3 samples a step, .* 4: resume with --data\.batch_size 3"),
        ({"batch_size": 2, "world": 2}, r"resume with --trainer\.devices 1 or 3"),
    ],
)
def test_another_epoch_is_not_taken_for_the_rest(options: dict[str, int], message: str) -> None:
    loader = train_loader()
    next(iter(loader))
    with pytest.raises(ValueError, match=message):
        train_loader(**options).load_state_dict(loader.state_dict())


def test_between_epochs_the_set_may_change() -> None:
    loader = train_loader()
    list(loader)
    larger = train_loader(length=20, seed=1)
    larger.load_state_dict(loader.state_dict())
    larger.sampler.set_epoch(1)
    assert len(list(larger)) == len(larger) == 7


def test_other_processes_share_the_same_steps() -> None:
    state = train_loader(batch_size=6, world=2, rank=0).state_dict()
    assert [share_step(state, world) for world in (1, 2, 3, 4, 6, 12)] == [12, 6, 4, 3, 2, 1]
    with pytest.raises(
        ValueError,
        match=r"12 samples a step \(2 processes of 6\), which 5 cannot share evenly: resume with "
        r"--trainer\.devices 1 or 2 or 3 or 4 or 6 or 12",
    ):
        share_step(state, 5)


def test_a_thread_reads_so_many_batches_ahead_and_no_more() -> None:
    loader = Loader(Numbers(), 2, sampler=range(20), prefetch=3)
    iterator = iter(loader)
    assert loader.dataset.read == []  # nothing before it is asked for
    next(iterator)
    deadline = time.monotonic() + 10
    while len(loader.dataset.read) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert loader.dataset.read == list(range(8))  # the one used and three more


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_comes_where_its_batch_would_have_come(prefetch: int) -> None:
    iterator = iter(Loader(Numbers(bad=5), 2, sampler=range(20), prefetch=prefetch))
    assert [next(iterator)["draw"][:, 1].tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="sample 5 is damaged"):
        next(iterator)
    assert list(iterator) == []


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("cdinfer-read-ahead")]


def test_a_consumer_that_stops_early_ends_the_thread() -> None:
    for batch in Loader(Numbers(), 2, sampler=range(1000), prefetch=2):
        assert threads()
        assert batch["draw"][0, 1] == 0
        break
    assert not threads()
    iterator = iter(Loader(Numbers(), 2, sampler=range(1000), prefetch=2))
    next(iterator)
    del iterator
    assert not threads()
