from pathlib import Path

import pytest
import torch

from cdinfer.studies.bench import jpeg, jpeg_tars, loading
from cdinfer.studies.bench.pictures import Pictures, write_pictures
from cdinfer.studies.bench.rows import FIELDS, NOT_INSTALLED

pytestmark = [
    pytest.mark.usefixtures("webdataset_files"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

Silent = lambda title: None  # noqa: E731


def test_shards_meet_every_decoder_with_either_crop(tiny_codec: Path, few: Pictures) -> None:
    rows = loading.run(few, [tiny_codec], 1, Silent)
    assert all(tuple(row) == FIELDS for row in rows)
    assert {row["unit"] for row in rows} == {"pictures/s"}
    decoders = [row for row in rows if "fastest" not in row["case"] and "thread" not in row["case"]]
    assert len(decoders) == len(jpeg_tars.CROPS) * len(jpeg.DECODERS)
    for row in decoders:
        assert (row["peer"] is None) == (NOT_INSTALLED in row["case"])
    assert sum("the fastest (" in row["case"] for row in rows) == len(jpeg_tars.CROPS)
    assert sum("with a prefetch thread vs without" in row["case"] for row in rows) == 2


@pytest.mark.usefixtures("no_peers")
def test_pillow_is_always_there(tiny_codec: Path, few: Pictures) -> None:
    rows = loading.run(few, [tiny_codec], 1, Silent)
    assert sum(NOT_INSTALLED in row["case"] for row in rows) == 2 * len(jpeg_tars.CROPS)
    (fastest, _) = (row["case"] for row in rows if "fastest" in row["case"])
    assert fastest.endswith("(Pillow)")


def test_shards_of_other_pictures_are_found_out(
    tiny_codec: Path, few: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = loading.read_image
    monkeypatch.setattr(loading, "read_image", lambda path: 255 - read(path))
    monkeypatch.setattr(loading, "LEVELS", 256)
    with pytest.raises(AssertionError, match="give other symbols than the codec"):
        loading.run(few, [tiny_codec], 1, Silent)


def test_a_decoder_of_other_pictures_is_found_out(
    tiny_codec: Path, few: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LEVELS", 0)
    with pytest.raises(AssertionError, match="decodes another picture"):
        loading.run(few, [tiny_codec], 1, Silent)


def test_tars_are_read_back_whole_whatever_their_number(tmp_path: Path, few: Pictures) -> None:
    images = write_pictures(few, tmp_path / "pictures")
    tars = jpeg_tars.write_tars(images, tmp_path, 2)
    for crop in jpeg_tars.CROPS:
        for decode in jpeg.installed().values():
            batches = list(jpeg_tars.make_loader(tars, decode, crop, 56, 2))
            pictures, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
            assert pictures.shape == (5, 3, 56, 56)
            assert pictures.dtype == torch.uint8
            assert sorted(labels.tolist()) == sorted(item.label for item in few.items)
