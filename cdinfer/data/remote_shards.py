"""The shards of a split that lie behind a URL, read forwards: both tars side by side.

    piece of a shard --its blocks, from the first needed to the last--> samples, not decoded

Nothing of a tar is trusted, its own headers included: the index says at which bytes each block
lies, and those are read. A block must be what the index says, and targets must fit it.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np

from cdinfer.bitstream.container import Parsed
from cdinfer.bitstream.remote import DELAYS, Remote, fetch, locate, shown
from cdinfer.data.blocks import Block
from cdinfer.data.deal import Piece
from cdinfer.data.index import MAX_INDEX, Index, ShardEntry, parse_index
from cdinfer.data.layout import INDEX
from cdinfer.data.mask_blocks import MaskBlock
from cdinfer.data.reader import Damage
from cdinfer.data.targets import read_targets

#: Most bytes of a block, which is held whole.
MAX_BLOCK = 2**28


class Sample(NamedTuple):
    """A sample that is not decoded yet.

    Attributes:
        number: in the split.
        label: its class or -1.
        size: height and width in pixels.
        shape: those of its latents.
        file: its bitstream.
        where: its block, for errors.
        key: path of its picture, for errors.
        mask: the PNG of its mask, in sets with masks.
    """

    number: int
    label: int
    size: tuple[int, int]
    shape: tuple[int, int]
    file: Parsed
    where: str
    key: str
    mask: bytes


def fetch_index(url: str, delays: tuple[float, ...] = DELAYS) -> Index:
    """Return the checked index of the set at ``url``.

    Raises:
        ValueError: if it cannot be had, or as ``read_index`` does.
    """
    return parse_index(fetch(locate(url, INDEX), MAX_INDEX, delays), shown(url))


class RemoteShards:
    """Samples of one split, by pieces.

    Args:
        url: of the set.
        index: from `fetch_index`.
        split: ``train``, ``val`` or ``test``.
        on_damage: called with what is wrong with a block; the block is left out if it returns.
        delays: seconds to wait before each new try of a broken connection.

    Attributes:
        counts: samples of each shard.

    Raises:
        ValueError: if there is no such split, or blocks cannot be read one after the other.
    """

    def __init__(
        self,
        url: str,
        index: Index,
        split: str,
        on_damage: Callable[[Damage], None],
        delays: tuple[float, ...] = DELAYS,
    ) -> None:
        self.shards = index.shards(split, shown(url))
        self.url, self.on_damage, self.delays = url, on_damage, delays
        self.stride, self.num_labels = index.stride, index.num_labels
        self.counts = [sum(entry.samples for entry in shard.blocks) for shard in self.shards]
        self._firsts = np.cumsum([0, *self.counts]).tolist()
        for shard in self.shards:
            _check_order(shard, shown(url))

    def read(self, piece: Piece) -> Iterator[Sample]:
        """Yield the samples of a piece, in order.

        Raises:
            ValueError: naming URL, shard and byte, if they cannot be had.
        """
        shard = self.shards[piece.shard]
        bounds = np.cumsum([0, *(entry.samples for entry in shard.blocks)]).tolist()
        numbers = [
            number
            for number in range(len(shard.blocks))
            if bounds[number] < piece.stop and bounds[number + 1] > piece.start
        ]
        with (
            closing(self._open(shard, 0, numbers)) as data,
            closing(self._open(shard, 1, numbers)) as targets,
        ):
            for number in numbers:
                block = _take(data, *shard.blocks[number][:2])
                rows = _take(targets, *shard.targets[number])
                masks = _take(targets, *shard.masks[number]) if shard.masks else b""
                first = self._firsts[piece.shard] + bounds[number]
                try:
                    samples = self._unpack(shard, number, first, block, rows, masks)
                except ValueError as error:
                    lost = range(first, first + shard.blocks[number].samples)
                    self.on_damage(Damage(str(error), lost))
                    continue
                start, stop = (max(0, place - bounds[number]) for place in piece[1:])
                yield from samples[start:stop]

    def _open(self, shard: ShardEntry, which: int, numbers: list[int]) -> Remote:
        """Open one of a shard's two tars for the blocks ``numbers``."""
        spans = shard.spans[which]
        each = len(spans) // len(shard.blocks)  # 2: targets and masks
        start, stop = spans[each * numbers[0]][0], sum(spans[each * numbers[-1] + each - 1])
        url = locate(self.url, shard.tars[which])
        return Remote(url, shard.sizes[which], start, stop, self.delays)

    def _unpack(
        self,
        shard: ShardEntry,
        number: int,
        first: int,
        data: bytes,
        targets: bytes,
        masks: bytes,
    ) -> list[Sample]:
        """Return the samples of a block, of which ``first`` is the number of the first.

        Raises:
            ValueError: if they are not what the index says.
        """
        entry = shard.blocks[number]
        urls = [shown(locate(self.url, name)) for name in shard.tars]
        where = f"{number} at byte {entry.offset} of {urls[0]}"
        block = Block(memoryview(data), where)
        if not block.fits(entry.samples, entry[-2:], self.stride):
            raise ValueError(f"damaged block {where}: it does not fit its index; start again")
        try:
            rows = read_targets(targets, entry.samples, self.num_labels)
            pngs = MaskBlock(memoryview(masks), entry.samples) if shard.masks else None
        except ValueError as error:
            raise ValueError(
                f"damaged {urls[1]}, block {number}: {error}; copy it again"
            ) from error
        sizes: list[tuple[int, int]] = [(height, width) for height, width in block.sizes.tolist()]
        return [
            Sample(
                first + i,
                rows[i][0],
                sizes[i],
                entry[-2:],
                block.parsed(i),
                where,
                rows[i][1],
                b"" if pngs is None else bytes(pngs[i]),
            )
            for i in range(len(block))
        ]


def _take(file: Remote, offset: int, length: int) -> bytes:
    file.skip_to(offset)
    return file.read(length)


def _check_order(shard: ShardEntry, name: str) -> None:
    """Refuse blocks that cannot be read one after the other in a bounded memory."""
    for spans in shard.spans:
        end = 0
        for offset, length in spans:
            if offset < end:
                raise ValueError(f"damaged {name}: the blocks of {shard.name} are not in order")
            if length > MAX_BLOCK:
                raise ValueError(
                    f"'{name}' has a block of {length} bytes, too large to stream: export it "
                    "with a smaller --block"
                )
            end = offset + length
