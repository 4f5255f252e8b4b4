from pathlib import Path

import pytest
import torch

from cdinfer.studies.bench import masks
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS


def test_masks_of_latents_meet_those_of_pixels(tiny_codec: Path, few: Pictures) -> None:
    rows = masks.run(
        few, [tiny_codec], 1, lambda title: None, engines=["torch"], width=0.0625, sizes=[(48, 64)]
    )
    assert all(tuple(row) == FIELDS for row in rows)
    *compared, enlarging = rows
    assert len(compared) == 2 * len(masks.NETWORKS) * 2  # precisions, networks, peers
    assert all("batch 1, cae 0.33, 64x48, " in row["case"] for row in compared)
    assert all(min(row["ours"], row["peer"], row["ideal"]) > 0 for row in rows)
    assert enlarging["case"] == "enlarging logits of 21 classes, 64x48 vs planes, then argmax"


def test_the_usual_mask_is_the_class_of_each_pixel() -> None:
    logits = torch.zeros(1, 3, 2, 4)
    logits[0, 2, :, 2:] = 1
    mask = masks.naive(logits, (16, 32))
    assert mask.dtype == torch.uint8
    assert mask.shape == (1, 16, 32)
    assert set(mask[0, :, 20:].unique().tolist()) == {2}
    assert set(mask[0, :, :12].unique().tolist()) == {0}


def test_masks_that_differ_are_found_out(
    tiny_codec: Path, few: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = masks.naive
    monkeypatch.setattr(masks, "naive", lambda *args: usual(*args) ^ 1)
    with pytest.raises(AssertionError, match="masks differ"):
        masks.run(few, [], 1, lambda title: None, sizes=[(48, 64)])
