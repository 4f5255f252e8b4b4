from pathlib import Path

import numpy as np
import pytest
import torch

from cdinfer.codecs import CAE, load_codec
from cdinfer.data import roundtrip
from cdinfer.data.encoding import Job, Plan, Work, make_shard
from cdinfer.data.export import export
from cdinfer.data.layout import Item, find_pictures
from cdinfer.data.roundtrip import check_shard, digest
from cdinfer.data.writer import Encoded, Made, cut_blocks, pack_shard
from tests.data.test_export import PLAN, digests


@pytest.mark.parametrize("block", [4, 1])
def test_verifying_changes_no_byte(
    mixed_scenes: Path, tiny_codec: Path, tmp_path: Path, block: int
) -> None:
    plan = PLAN._replace(block=block)
    for name, verify in (("a", False), ("b", True)):
        export(find_pictures(mixed_scenes), tmp_path / name, tiny_codec, plan, verify=verify)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


@pytest.fixture
def codec(tiny_codec: Path) -> CAE:
    codec = load_codec(str(tiny_codec))
    assert isinstance(codec, CAE)
    return codec


def encode(codec: CAE, count: int, block: int) -> tuple[list[Encoded], Made, dict[str, bytes]]:
    x = torch.randint(0, 256, (count, 3, 24, 32), generator=torch.Generator().manual_seed(0))
    symbols = codec.symbols(x.to(torch.uint8))
    files = codec.pack(symbols, (24, 32))
    encoded = [Encoded(Item(f"{i}.png", 0), file, (3, 4)) for i, file in enumerate(files)]
    proofs = {f"{i}.png": digest(plane) for i, plane in enumerate(symbols.numpy())}
    return encoded, pack_shard("train-00000", encoded, block, True), proofs


@pytest.mark.parametrize("block", [3, 1])
def test_what_was_written_right_passes(
    codec: CAE, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roundtrip, "SYMBOLS", 2 * codec.channels * 12)  # two pictures at a time
    encoded, made, proofs = encode(codec, 7, block)
    check_shard(codec, made, cut_blocks(encoded, block), proofs)


@pytest.mark.parametrize("block", [3, 1])
def test_a_flipped_bit_of_a_payload_names_block_and_picture(codec: CAE, block: int) -> None:
    encoded, made, proofs = encode(codec, 7, block)
    tar = bytearray(made.files["train-00000.tar"])
    place = bytes(tar).index(encoded[4].file[-8:])
    tar[place + 3] ^= 8
    made.files["train-00000.tar"] = bytes(tar)
    where = rf"block {4 // block} of train-00000 .*: ({3 if block == 3 else 4}|4)\.png; run"
    with pytest.raises(ValueError, match=where):
        check_shard(codec, made, cut_blocks(encoded, block), proofs)


def test_other_symbols_are_found_though_their_checksum_agrees(codec: CAE) -> None:
    encoded, made, proofs = encode(codec, 7, 3)
    proofs["5.png"] = digest(np.zeros((codec.channels, 3, 4), np.uint8))
    with pytest.raises(ValueError, match=r"block 1 of train-00000 .*: 5\.png; run the same"):
        check_shard(codec, made, cut_blocks(encoded, 3), proofs)


def test_an_export_that_verifies_does_not_publish_what_is_wrong(
    picture_folder: Path, tiny_codec: Path, codec: CAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = find_pictures(picture_folder)
    work = Work(found.root, found.source, 2, tiny_codec, Plan(), "cpu", False, True)
    job = Job("train-00000", found.splits["train"])
    assert make_shard(codec, work, job, lambda count: None).entry["count"] == len(job.items)
    pack = codec.pack

    def pack_others(symbols: torch.Tensor, size: tuple[int, int]) -> list[bytes]:
        return pack(symbols.flip(-1), size)  # whole files of other symbols

    monkeypatch.setattr(codec, "pack", pack_others)
    with pytest.raises(ValueError, match=r"block 0 of train-00000 does not decode to what was"):
        make_shard(codec, work, job, lambda count: None)
