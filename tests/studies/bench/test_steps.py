from pathlib import Path

import torch

from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import fronts, jpeg, steps
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS
from cdinfer.studies.networks import build_classifier


def test_steps_on_latents_meet_steps_on_pixels(tiny_codec: Path, few: Pictures) -> None:
    rows = steps.run(few, [tiny_codec], 1, lambda title: None, widths=[0.0625])
    assert all(tuple(row) == FIELDS for row in rows)
    assert len(rows) == 2 * 2  # precisions, peers
    for row in rows:
        assert (
            "width 0.0625, batch 5, cae 0.33, cResNet-39 on latents vs ResNet-50 on " in row["case"]
        )
        assert min(row["ours"], row["peer"], row["ideal"]) > 0


def test_a_step_changes_every_weight(tiny_codec: Path, few: Pictures) -> None:
    codec, size = read_codec(tiny_codec), (64, 64)
    latents = fronts.from_latents(codec, fronts.write_cdi(codec, few.pixels), size)
    *_, pixels = fronts.from_jpeg([jpeg.encode(p) for p in few.pixels], size)
    for front, name in (
        (latents, "cResNet-39"),
        (fronts.decoded(codec, latents), "ResNet-50"),
        (pixels, "ResNet-50"),
    ):
        net = build_classifier(name, (16, 8), 7, width=0.0625)
        before = [p.clone() for p in net.parameters()]
        steps.make_step(front, net, "bf16")(front.files)
        changed = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
        assert all(changed)
        assert not any(p.requires_grad for p in codec.parameters())
