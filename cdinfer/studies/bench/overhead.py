"""Bytes of a set that are no entropy-coded payload: tars, class labels and keys, and the index.

    overhead = (tars + index) / payload - 1, in percent, without ``codec/``

The peer is plain webdataset: a member KEY.cdi and one KEY.cls for each picture. The ideal is 0.
Large sets pay least; the row says how many pictures there were.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import webdataset

from cdinfer.codecs.stored import read_codec
from cdinfer.data.encoding import Plan
from cdinfer.data.export import export
from cdinfer.data.layout import INDEX, ImageSet
from cdinfer.data.shards import ShardDataset
from cdinfer.studies.bench.pictures import Pictures, write_pictures
from cdinfer.studies.bench.rows import counted
from cdinfer.studies.bench.timing import Progress
from cdinfer.studies.records import Row

BENCH = "overhead"
PICTURES = 2048
CODECS = (("cae-lite", 0.0983),)


def run(pictures: Pictures, codecs: Sequence[Path], rounds: int, progress: Progress) -> list[Row]:
    """Return percent over the payload.

    Args:
        pictures: of the set.
        codecs: folders of codecs.
        rounds: counting needs only one.
        progress: called with what is being done.
    """
    with tempfile.TemporaryDirectory(prefix="cdinfer-bench-") as place:
        images = write_pictures(pictures, Path(place, "pictures"))
        return [_bench(images, folder, progress, Path(place, folder.name)) for folder in codecs]


def _bench(images: ImageSet, codec_folder: Path, progress: Progress, place: Path) -> Row:
    done, total = 0, len(images.splits["train"])

    def step(split: str, count: int) -> None:
        nonlocal done
        done += count
        progress(f"{BENCH}: encoding, {done} of {total} pictures")

    index = export(images, place, codec_folder, Plan(), progress=step)
    shards = index["splits"]["train"]
    payload = sum(shard["payload"] for shard in shards)
    size = sum(path.stat().st_size for path in [*place.glob("*.tar"), place / INDEX])
    plain = place / "plain"
    with webdataset.TarWriter(str(plain), encoder=False, mtime=0) as tar:
        dataset = ShardDataset(place, "train", None)
        assert sorted(dataset.keys()) == sorted(item.key for item in images.splits["train"])
        for number, label in enumerate(dataset.labels.tolist()):
            files = {"cdi": dataset.file(number), "cls": str(label).encode()}
            tar.write({"__key__": f"{number:06d}", **files})
    codec = read_codec(codec_folder)
    case = f"{codec.name} {codec.bpp:g}, {total} pictures, vs webdataset, a member a picture"
    ours, peer = (100 * (bytes_ / payload - 1) for bytes_ in (size, plain.stat().st_size))
    return counted(BENCH, case, "% over payload", ours, peer, 0.0)
