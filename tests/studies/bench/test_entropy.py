from pathlib import Path

import numpy as np
import pytest

from cdinfer.codecs.stored import read_codec
from cdinfer.studies.bench import coders, entropy
from cdinfer.studies.bench.pictures import Pictures
from cdinfer.studies.bench.rows import FIELDS, NOT_INSTALLED

Silent = lambda title: None  # noqa: E731


def test_both_of_our_coders_meet_every_peer(tiny_codec: Path, few: Pictures) -> None:
    rows = entropy.run(few, [tiny_codec], 1, Silent)
    assert all(tuple(row) == FIELDS and row["bench"] == "entropy" for row in rows)
    cases = [row["case"] for row in rows]
    assert len(set(cases)) == 2 * len(coders.PEERS) * 4
    for row in rows:
        there = NOT_INSTALLED not in row["case"]
        assert (row["peer"] is not None) == (row["ratio"] is not None) == there
        assert row["ours"] > 0
        assert row["ideal"] > 0


def test_bytes_are_those_of_the_payloads(tiny_codec: Path, few: Pictures) -> None:
    rows = entropy.run(few, [tiny_codec], 1, Silent)
    codec = read_codec(tiny_codec)
    files = [codec.compress(x) for x in few.batches()]
    payload = np.mean([len(file) for batch in files for file in batch]) - 22
    (row,) = (r for r in rows if r["case"].startswith("bytes context") and "zstd" in r["case"])
    assert row["ours"] == pytest.approx(payload, abs=2)  # the header of a small file
    assert row["ideal"] <= row["ours"]


@pytest.mark.usefixtures("no_peers")
def test_without_peers_their_rows_say_how_to_get_them(tiny_codec: Path, few: Pictures) -> None:
    rows = entropy.run(few, [tiny_codec], 1, Silent)
    missing = [row for row in rows if NOT_INSTALLED in row["case"]]
    assert len(missing) == 2 * 2 * 4
    assert all(row["peer"] is None and row["ours"] > 0 for row in missing)


def test_a_coder_that_decodes_something_else_is_found_out(
    tiny_codec: Path, few: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = coders.make_peer

    def wrong(name: str, *args: object) -> coders.Coder | None:
        coder = make(name, *args)
        return coder and coder._replace(decode=lambda payloads: 1 - coder.decode(payloads))

    monkeypatch.setattr(coders, "make_peer", wrong)
    with pytest.raises(AssertionError, match="decodes other symbols than it encoded"):
        entropy.run(few, [tiny_codec], 1, Silent)
