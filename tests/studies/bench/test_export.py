from pathlib import Path

import pytest

from cdinfer.studies.bench import export
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS


def test_an_export_is_held_against_its_encoder_on_both_clocks(
    tiny_codec: Path, few: Pictures
) -> None:
    rows = export.run(few, [tiny_codec], 1, lambda title: None)
    assert all(tuple(row) == FIELDS for row in rows)
    assert [row["unit"] for row in rows] == ["over the encoder", "pictures/s"] * 2
    for over, rate in zip(rows[::2], rows[1::2], strict=True):
        assert over["ours"] > 0
        assert over["ideal"] == 1  # an export runs the encoder, too
        assert rate["ratio"] == pytest.approx(1 / over["ours"])  # there was one round
        assert rate["ideal"] == rate["peer"]


def test_an_export_that_loses_pictures_is_found_out(
    tiny_codec: Path, few: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = export.export

    def lossy(images, *args: object) -> None:
        whole(images._replace(splits={"train": images.splits["train"][1:]}), *args)

    monkeypatch.setattr(export, "export", lossy)
    with pytest.raises(AssertionError, match="exported 5 pictures and found"):
        export.run(few, [tiny_codec], 1, lambda title: None)
