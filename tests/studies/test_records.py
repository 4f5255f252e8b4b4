import json
from pathlib import Path

import pytest

from cdinfer.studies.records import Records


def lines(records: Records) -> list[bytes]:
    return records.path.read_bytes().splitlines()


def test_rows_are_found_again(tmp_path: Path) -> None:
    first = Records(tmp_path / "deep" / "records", "jpeg q30", {"level": 30})
    assert first.get("a") is None
    first.add("a", {"bytes": 1, "psnr": None})
    assert first.get("a") == {"bytes": 1, "psnr": None}
    again = Records(tmp_path / "deep" / "records", "jpeg q30", {"level": 30})
    assert again.get("a") == {"bytes": 1, "psnr": None}
    assert again.get("b") is None
    again.add("b", {"bytes": 2})
    assert len(lines(again)) == 3
    assert json.loads(lines(again)[0]) == {"settings": {"level": 30}}


def test_other_settings_are_another_file(tmp_path: Path) -> None:
    Records(tmp_path, "jpeg", {"level": 30}).add("a", {"bytes": 1})
    other = Records(tmp_path, "jpeg", {"level": 31})
    assert other.get("a") is None
    assert len(list(tmp_path.iterdir())) == 2
    assert Records(tmp_path, "renamed", {"level": 30}).path.name.startswith("renamed-")


def test_every_torn_end_loses_one_row_at_most(tmp_path: Path) -> None:
    records = Records(tmp_path, "x", {})
    for key in "abc":
        records.add(key, {"bytes": ord(key)})
    whole = records.path.read_bytes()
    start_of_last = whole.rindex(b"\n", 0, -1) + 1
    for length in range(start_of_last, len(whole)):
        records.path.write_bytes(whole[:length])
        torn = Records(tmp_path, "x", {})
        assert (torn.get("a"), torn.get("b")) == ({"bytes": 97}, {"bytes": 98})
        torn.add("d", {"bytes": 100})
        again = Records(tmp_path, "x", {})
        assert [again.get(k) is not None for k in "abd"] == [True] * 3
        assert again.get("c") in (None, {"bytes": 99})


@pytest.mark.parametrize("damage", [b"\0" * 40, b"[1, 2]", b"{}", b'{"key": "b", "row": 7}', b"["])
def test_damaged_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    records = Records(tmp_path, "x", {})
    records.add("a", {"bytes": 1})
    records.path.write_bytes(records.path.read_bytes() + damage + b"\n")
    records.add("c", {"bytes": 3})
    again = Records(tmp_path, "x", {})
    assert [again.get(key) for key in "abc"] == [{"bytes": 1}, None, {"bytes": 3}]


def test_names_of_files_are_tame(tmp_path: Path) -> None:
    records = Records(tmp_path, "../../x/<b>&  q30" + "y" * 300, {})
    assert records.path.parent == tmp_path
    assert len(records.path.name) < 100
    assert set("/<>& ").isdisjoint(records.path.name)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    records = Records(tmp_path, "x", {})
    records.path.unlink()
    records.path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as error:
        records.add("a", {"bytes": 1})
    assert error.value.filename == str(records.path)


def test_numbers_that_json_has_not_are_our_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Records(tmp_path, "x", {}).add("a", {"psnr": float("inf")})
