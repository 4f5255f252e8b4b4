from pathlib import Path

import pytest

from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import overhead
from cdinfer.studies.bench.pictures import Pictures, write_pictures


def test_overhead_is_what_a_set_weighs_over_its_payload(
    tiny_codec: Path, few: Pictures, tmp_path: Path
) -> None:
    (row,) = overhead.run(few, [tiny_codec], 1, lambda title: None)
    images = write_pictures(few, tmp_path / "pictures")
    index = overhead.export(images, tmp_path / "set", tiny_codec, overhead.Plan())
    files = [*(tmp_path / "set").glob("*.tar"), tmp_path / "set" / "index.json"]
    size = sum(len(path.read_bytes()) for path in files)
    payload = sum(shard["payload"] for shard in index["splits"]["train"])
    assert row["ours"] == pytest.approx(100 * (size / payload - 1), abs=1)
    # webdataset: two heads of 512 bytes a picture, and contents filled up to 512
    least = 100 * (5 * 4 * 512 / payload - 1)
    assert row["peer"] > least > row["ours"]
    assert row["ratio"] == row["peer"] / row["ours"]
    assert row["ideal"] == 0
    assert f"{read_codec(tiny_codec).bpp:g}, 5 pictures" in row["case"]
