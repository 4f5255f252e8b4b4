import ctypes
import gc
import re
import signal
import subprocess
import sys
import time
from random import Random

import pytest

from cdinfer.bitstream import BitstreamError, container
from tests.test_golden import ROOT
from tools.fuzz import watch
from tools.fuzz.__main__ import main
from tools.fuzz.kinds import Case, Kind, Wrong
from tools.fuzz.material import NAMES, prepare
from tools.fuzz.mutate import spoil, spoil_json, spoil_number
from tools.fuzz.watch import Count, Finding, case_of, hunt

#: Inputs of each kind in the default tests; the slow one takes more.
FEW = {
    "container": 300, "coder": 300, "commands": 40, "shards": 30, "index": 30, "weights": 40,
    "config": 5, "checkpoint": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    return {kind.name: kind for kind in prepare(NAMES, tmp_path_factory.mktemp("fuzz"), 0)}


@pytest.mark.parametrize("name", NAMES)
def test_readers_take_what_is_whole_and_refuse_the_rest_in_one_line(kinds, name, request) -> None:
    kind = kinds[name]
    assert kind.judge(kind.whole_case()) == (True, "")
    # A collection in the depths of nested JSON has no room to run finalizers.
    request.addfinalizer(gc.enable)
    gc.disable()
    outcomes = {number: kind.judge(case_of(kind, 0, number)) for number in range(FEW[name])}
    assert {number: text for number, (_, text) in outcomes.items() if text} == {}
    assert not all(accepted for accepted, _ in outcomes.values())
    assert kind.judge(kind.whole_case()) == (True, "")  # the damage has been undone


@pytest.mark.slow
def test_a_minute_of_fuzzing_finds_nothing(tmp_path) -> None:
    command = [sys.executable, "-m", "tools.fuzz", "--count", "2000", "--minutes", "0.15"]
    for name in NAMES:
        options = ["--kind", name, "--seed", "17", "--out", str(tmp_path / "kept")]
        done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_an_input_is_fixed_by_seed_kind_and_number(kinds) -> None:
    for name in ("container", "shards", "weights"):
        cases = [case_of(kinds[name], seed, 5) for seed in (0, 0, 1)]
        assert cases[0].files == cases[1].files
        assert cases[0].files != cases[2].files


# Bugs that are planted are found


def test_a_decoder_without_checksums_is_found(kinds, monkeypatch) -> None:
    monkeypatch.setattr(container, "verify", lambda parsed, symbols: None)
    kind = kinds["container"]
    texts = [kind.judge(case_of(kind, 0, number))[1] for number in range(300)]
    assert "silently wrong: a changed file is accepted" in texts


def test_a_set_that_trusts_its_blocks_is_found(kinds, monkeypatch) -> None:
    monkeypatch.setattr(container, "verify", lambda parsed, symbols: None)
    monkeypatch.setattr("cdinfer.bitstream.rans._FAULTS", ("",) * 5)
    monkeypatch.setattr("cdinfer.bitstream.rans._damaged", lambda detail, index: KeyError(detail))
    kind = kinds["shards"]
    texts = [kind.judge(case_of(kind, 0, number))[1] for number in range(30)]
    assert any(text.startswith("KeyError") for text in texts)


class Trap(Kind):
    """Input 3 misbehaves as the kind is told to; the others are refused or, if even, accepted."""

    name = "trap"

    def __init__(self, how: str) -> None:
        self.how = how

    def whole_case(self) -> Case:
        return Case({"x": b""}, "whole", 0)

    def make(self, rng: Random) -> Case:
        return Case({"x": rng.randbytes(4)}, "noise", None)

    def read(self, case: Case) -> None:
        if case.files["x"] != case_of(self, 0, 3).files["x"]:
            if case.about == "noise" and case.files["x"][0] % 2:
                raise BitstreamError("damaged: copy it again")
            return
        if self.how == "crash":
            ctypes.string_at(0)
        elif self.how == "loop":
            while True:
                pass
        elif self.how == "wait":
            signal.pause()
        elif self.how == "fill":
            assert len(b"x" * 300_000_000)
        elif self.how == "reserve":
            bytearray(2**34)
        elif self.how == "lines":
            raise ValueError("one\ntwo")
        elif self.how == "wrong":
            raise Wrong("7 is not 8")
        elif self.how == "leave":
            raise SystemExit(0)
        else:
            raise TypeError("not what is documented")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("crash", "the process dies of SIGSEGV"),
        ("loop", "it takes more than"),
        ("wait", "it waits for something"),
        ("fill", r"it takes [3-7]\d\d MB"),
        ("reserve", "MemoryError"),
        ("lines", "an error of 2 lines: 'one"),
        ("wrong", "silently wrong: 7 is not 8"),
        ("leave", "SystemExit: 0"),
        ("raise", "TypeError: not what is documented"),
    ],
)
def test_whatever_goes_wrong_in_a_child_is_a_finding(how, text, monkeypatch) -> None:
    monkeypatch.setattr(watch, "SECONDS", 0.2 if how == "loop" else 2)
    monkeypatch.setattr(watch, "PATIENCE", 1 if how == "wait" else 60)
    count, trap = Count(), Trap(how)
    findings = list(hunt(trap, 0, 12, time.monotonic() + 60, count))
    assert [(finding.number, finding.case.files) for finding in findings] == [
        (3, case_of(trap, 0, 3).files)
    ]
    (finding,) = findings
    assert isinstance(finding, Finding)
    assert re.match(text, finding.text)
    assert count.inputs == 12
    others = [case_of(trap, 0, number).files["x"][0] for number in range(12) if number != 3]
    assert count.accepted == sum(first % 2 == 0 for first in others) + (how == "wrong") + (
        how == "fill"
    )


def test_it_stops_when_time_is_up() -> None:
    count = Count()
    assert list(hunt(Trap("raise"), 0, 10**9, time.monotonic() + 1.5, count)) != []
    assert 100 < count.inputs < 10**8


def test_findings_are_told_kept_and_can_be_repeated(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("tools.fuzz.__main__.prepare", lambda names, folder, seed: [Trap("wrong")])
    command = ["fuzz", "--kind", "coder", "--count", "9", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 1
    told = capsys.readouterr().out
    assert "| trap | 9 |" in told
    assert "1 x trap 3 (noise): silently wrong: 7 is not 8" in told
    assert (tmp_path / "trap-3" / "x").read_bytes() == case_of(Trap("wrong"), 0, 3).files["x"]
    assert "silently wrong" in (tmp_path / "trap-3" / "finding.txt").read_text()
    for only, status in ((3, 1), (4, 0)):
        monkeypatch.setattr(sys, "argv", [*command, "--only", str(only)])
        assert main() == status


# What inputs are made of


def test_blind_changes_change_and_differ() -> None:
    data, rng = bytes(range(256)), Random(0)
    spoilt = [spoil(data, rng, bytes(300)) for _ in range(300)]
    assert sum(one == data for one in spoilt) < 30
    assert len(set(spoilt)) > 200
    assert {len(one) > 256 for one in spoilt} == {len(one) < 256 for one in spoilt} == {True, False}
    assert [len(spoil(b"", rng)) for _ in range(50)]


def test_a_changed_number_keeps_its_place() -> None:
    data, rng = bytes(range(16)), Random(0)
    for size in (1, 2, 4):
        for _ in range(100):
            spoilt = spoil_number(data, 5, size, rng)
            assert (spoilt[:5], spoilt[5 + size :]) == (data[:5], data[5 + size :])


def test_changed_json_reaches_every_depth() -> None:
    rng, text = Random(0), '{"a": [1, {"b": "c"}], "d": 2}'
    spoilt = [spoil_json(text, rng) for _ in range(400)]
    for part in ("[" * 1000, "1e999", '"c"', "\\ud800", "x" * 1000, '"d"', "null"):
        assert any(part in one for one in spoilt)
