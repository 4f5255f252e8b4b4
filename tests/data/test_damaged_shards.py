import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from cdinfer.data.draws import Draw
from cdinfer.data.loader import Loader
from cdinfer.data.module import DataModule
from cdinfer.data.shards import ShardDataset


def damage(root: Path, split: str, numbers: Sequence[int], whole: bool = False) -> list[str]:
    """Flip a bit of samples' checksums, or the magic of their blocks; return their keys."""
    data = ShardDataset(root, split, None, whole=True)
    blocks, places = data.reader.find(np.array(numbers))
    for number, place in zip(blocks.tolist(), places.tolist(), strict=True):
        shard, _, entry = data.reader.entries[number]
        path = root / shard.tars[0]
        content = bytearray(path.read_bytes())
        one_size = content[entry.offset + 21] == 0
        crcs = entry.offset + 22 + (8 if one_size else 8 * entry.samples)
        content[entry.offset if whole else crcs + 4 * place] ^= 1
        path.write_bytes(content)
    return [data.keys()[i] for i in numbers]


def test_a_damaged_sample_stops_by_shard_block_and_key(copy: Path) -> None:
    (key,) = damage(copy, "train", [9])
    data = ShardDataset(copy, "train", 32)
    shard, number, entry = data.reader.entries[int(data.reader.find(np.array([9]))[0][0])]
    where = f"damaged block {number} at byte {entry.offset} of {copy / shard.tars[0]}, key '{key}'"
    with pytest.raises(ValueError, match=rf"^{re.escape(where)}: damaged: the checksum .* again$"):
        data.__getitems__([8, 9, 10])
    assert data.__getitems__([8, 10])["index"].tolist() == [8, 10]


def test_training_puts_the_same_good_sample_in_its_place_whatever_came_before(copy: Path) -> None:
    bad = [2, 9, 10]
    keys = damage(copy, "train", bad)
    first, second = (ShardDataset(copy, "train", 32, on_error="skip") for _ in range(2))
    draws = [Draw(e, i) for e in range(4) for i in range(20)]
    with pytest.warns(UserWarning, match="^skipped a sample of train") as caught:
        batch = first.__getitems__(draws)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == 3
    assert all(
        message.startswith("skipped a sample of train: damaged block") for message in messages
    )
    assert all(sum(f"'{key}'" in message for message in messages) == 1 for key in keys)
    assert sorted(first.damaged) == bad
    taken = batch["index"].reshape(4, 20)
    good = [i for i in range(20) if i not in bad]
    assert taken[:, good].tolist() == [good] * 4
    assert not set(taken[:, bad].flatten().tolist()) & set(bad)
    assert len(set(taken[:, bad].flatten().tolist())) > 3
    whole = ShardDataset(copy, "train", None, whole=True)
    assert batch["label"].tolist() == whole.labels[batch["index"].numpy()].tolist()
    with pytest.warns(UserWarning, match="skipped a sample"):
        backwards = [second[one] for one in reversed(draws)][::-1]
    for name in ("index", "label"):
        assert torch.equal(torch.cat([one[name] for one in backwards]), batch[name])
    assert torch.equal(torch.cat([one["planes"]["y"] for one in backwards]), batch["planes"]["y"])


def test_validation_leaves_damaged_samples_out(copy: Path) -> None:
    damage(copy, "val", [0, 4, 5])
    data = ShardDataset(copy, "val", 32, on_error="skip")
    with pytest.warns(UserWarning, match="skipped a sample of val: damaged block"):
        assert data.__getitems__([0, 1, 2])["index"].tolist() == [1, 2]
    with pytest.warns(UserWarning, match="^skipped") as caught:
        batches = list(Loader(data, 2, sampler=range(6), collate_fn=lambda batch: batch))
    assert [batch["index"].tolist() for batch in batches] == [[1], [2, 3]]
    assert sorted(data.damaged) == [0, 4, 5]
    last = str(caught[-1].message)
    assert last.startswith(f"skipped 3 of 6 val samples of '{copy}', which are damaged; the first")


def test_a_damaged_block_is_skipped_with_one_warning(copy: Path) -> None:
    whole = ShardDataset(copy, "train", None, whole=True)
    damage(copy, "train", [0], whole=True)
    data = ShardDataset(copy, "train", 32, on_error="skip")
    lost = whole.reader.samples(0)
    with pytest.warns(
        UserWarning, match=f"^skipped {len(lost)} samples of train: damaged"
    ) as caught:
        batch = data.__getitems__([Draw(0, i) for i in range(20)])
    assert len(caught) == 1
    assert len(batch["index"]) == 20
    assert not set(batch["index"].tolist()) & set(lost)


def test_damaged_targets_are_skipped_and_their_labels_are_unknown(copy: Path) -> None:
    shard, _, entry = ShardDataset(copy, "val", 32).reader.entries[0]
    path = copy / shard.tars[1]
    content = bytearray(path.read_bytes())
    content[shard.targets[0][0]] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged .*val-00000\.targets\.tar, block 0: "):
        ShardDataset(copy, "val", 32)[0]
    data = ShardDataset(copy, "val", 32, on_error="skip")
    with pytest.warns(UserWarning, match=r"skipped 3 samples of val: damaged .*targets\.tar"):
        labels = data.labels
    assert entry.samples == 3
    assert labels[:3].tolist() == [-1] * 3
    assert (labels[3:] >= 0).all()
    assert data.__getitems__([0, 3])["index"].tolist() == [3]


def test_a_split_that_is_all_damaged_cannot_be_skipped(copy: Path) -> None:
    damage(copy, "val", range(6))
    data = ShardDataset(copy, "val", 32, on_error="skip")
    with (
        pytest.warns(UserWarning, match="^skipped a sample of val"),
        pytest.raises(ValueError, match=r"^every val sample of .* is damaged$"),
    ):
        data[Draw(0, 0)]


def test_a_set_that_was_changed_under_a_reader_is_named(copy: Path) -> None:
    data = ShardDataset(copy, "val", 32)
    (copy / "val-00000.tar").unlink()
    with pytest.raises(ValueError, match=r"val-00000\.tar is gone: .* was changed while .* again"):
        data[0]


def test_training_skips_what_is_damaged_if_asked_to(copy: Path) -> None:
    keys = damage(copy, "val", [3])
    stopping = DataModule(str(copy), batch_size=4, crop=32)
    with pytest.raises(ValueError, match=re.escape(keys[0])):
        list(stopping.val_dataloader())
    skipping = DataModule(str(copy), batch_size=4, crop=32, on_error="skip")
    with pytest.warns(UserWarning, match="skipped"):
        batches = list(skipping.val_dataloader())
    assert [i for batch in batches for i in batch["index"].tolist()] == [0, 1, 2, 4, 5]
