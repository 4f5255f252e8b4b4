import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer

import pytest

from cdinfer.data.lock import HeldError, locked
from cdinfer.studies import cells
from cdinfer.studies.cells import Cell, read_record


@pytest.fixture
def two(labelled: Path, tiny_codec: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    """A set, and the codec in it looked at again."""
    monkeypatch.setenv("PICTURES", str(labelled))
    export = ("export", "$PICTURES", "{out}/set", "--codec", str(tiny_codec), "--json")
    again = ("export", "$PICTURES", "{out}/set", "--codec", "{set}/set", "--json")
    return [
        Cell("again", {"arm": "b"}, (again,)),
        Cell("set", {"arm": "a"}, (export,)),
    ]


def test_cells_are_done_once_after_what_they_need(two: list[Cell], tmp_path: Path) -> None:
    said: list[str] = []
    again, first = cells.run(two, tmp_path, said.append)
    assert [line for line in said if line.endswith("...")] == ["set ...", "again ..."]
    assert again["metrics"]["bytes_after"] == first["metrics"]["bytes_after"] > 0
    assert first["about"] == {"arm": "a"}
    assert first["commands"][0][1:3] == ["$PICTURES", "{out}/set"]
    assert str(tmp_path) not in json.dumps(first["metrics"])
    assert first["git"] is None or len(first["git"]["commit"]) == 40
    assert first["hardware"]["cores"] == os.cpu_count()
    assert first["cpu_seconds"] > 0
    before = (tmp_path / "set.json").read_bytes()
    assert cells.run(two, tmp_path, said.append) == [again, first]
    assert (tmp_path / "set.json").read_bytes() == before
    assert len(said) == 4


def test_a_failed_command_names_its_log_and_leaves_no_record(tmp_path: Path) -> None:
    cell = Cell("bad", {}, (("export", "nowhere", "{out}/set"),))
    with pytest.raises(ValueError, match=r"bad: cdinfer export ended with status 2: .*log\.txt"):
        cells.run([cell], tmp_path)
    assert read_record(tmp_path, cell) is None


def test_a_cell_that_another_process_holds_is_left_to_it(
    two: list[Cell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "PATIENCE", 0.01)
    record = {"commands": [list(line) for line in two[1].commands]}

    def say(line: str) -> None:
        raise AssertionError(line)

    other = Timer(0.1, (tmp_path / "set.json").write_text, [json.dumps(record)])
    with locked(tmp_path / "set"):
        other.start()
        assert cells.run([two[1]], tmp_path, say) == [record]


def test_needs_are_checked_before_anything_is_done(two: list[Cell], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="again needs set, which is not among the cells"):
        cells.run(two[:1], tmp_path)
    ring = [Cell("a", {}, (("info", "{b}/x"),)), Cell("b", {}, (("info", "{a}/x"),))]
    with pytest.raises(ValueError, match="cells that need each other: a, b"):
        cells.run(ring, tmp_path)


def test_damaged_records_are_named(tmp_path: Path) -> None:
    cell = Cell("x", {}, (("info", "a"),))
    for text in ("[]", "{", "{}"):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match=r"damaged .*x\.json.*delete it to do the cell again"):
            read_record(tmp_path, cell)


def test_the_record_of_other_commands_is_not_taken_for_this_one(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"commands": [["info", "b"]]}')
    with pytest.raises(ValueError, match="the record of other commands: delete it"):
        cells.run([Cell("x", {}, (("info", "a"),))], tmp_path)


def test_a_command_that_finds_its_folder_held_fails_and_is_not_waited_for(
    two: list[Cell], tmp_path: Path
) -> None:
    place = tmp_path / "elsewhere"
    export = (*two[1].commands[0][:2], str(place), *two[1].commands[0][3:])
    with locked(place), pytest.raises(ValueError, match=r"x: cdinfer export .*another cdinfer"):
        cells.run([Cell("x", {}, (export,))], tmp_path)


def python(name: str, code: str, *words: str) -> Cell:
    return Cell(name, {}, (("python", "-c", code, *words, "--json"),))


def test_a_crash_is_no_interruption(tmp_path: Path) -> None:
    crash = python("x", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ValueError, match="x: python ended with status -11"):
        cells.run([crash], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cells.run([python("x", "raise SystemExit(143)")], tmp_path)


def test_cells_run_side_by_side_and_each_once(tmp_path: Path) -> None:
    meet = (
        "import sys, time, pathlib\n"
        "mine, other = map(pathlib.Path, sys.argv[1:3])\n"
        "mine.touch(exist_ok=False)\n"
        "while not other.exists(): time.sleep(0.01)\n"
        "print('{\"met\": 1}')"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    said: list[str] = []
    pair = [python("one", meet, a, b), python("two", meet, b, a)]
    records = cells.run(pair, tmp_path / "out", said.append, jobs=2)
    assert [record["metrics"] for record in records] == [{"met": 1}] * 2
    assert len(said) == 4


def test_a_failed_cell_is_passed_over_with_those_that_need_it(tmp_path: Path) -> None:
    bad, good = python("bad", "raise SystemExit(3)"), python("good", "print('{}')")
    needy = python("needy", "print('{}')", "{bad}/x")
    with pytest.raises(ValueError, match="bad: python ended with status 3"):
        cells.run([needy, bad, good], tmp_path)
    done = [read_record(tmp_path, cell) is not None for cell in (needy, bad, good)]
    assert done == [False, False, True]


def test_stopping_one_command_stops_them_all(tmp_path: Path) -> None:
    stopped = python("stopped", "import time; time.sleep(0.2); raise SystemExit(130)")
    long = python("long", "import time; time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cells.run([long, stopped, python("later", "print('{}')")], tmp_path, jobs=2)
    assert time.monotonic() - start < 30
    assert not list(tmp_path.glob("*.json"))


def test_what_is_needed_is_chosen_too() -> None:
    a, b = Cell("a", {}, ()), Cell("b", {}, (("info", "{a}/x"),))
    c, d = Cell("c", {}, (("info", "{b}/x", "{out}/y"),)), Cell("d", {}, ())
    assert cells.with_needs([c], [d, a, c, b]) == [a, c, b]


def test_a_child_that_outlives_its_parent_holds_the_cell(tmp_path: Path) -> None:
    with locked(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(lock,))
    with pytest.raises(HeldError), locked(tmp_path):
        pass
    child.kill()
    child.wait()
    with locked(tmp_path):
        pass


def test_a_cell_has_one_training_at_most(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x trains more than once"):
        cells.run([Cell("x", {}, (("train", "a"), ("train", "b")))], tmp_path)


TWO = """
import sys
from pathlib import Path
from cdinfer.studies.cells import Cell, run

place = sys.argv[1]
count = "import sys; open(sys.argv[1], 'a').write('x'); print('{}')"
wait = "import sys, os, time; time.sleep(0 if os.path.exists(sys.argv[1]) else 60); print('{}')"
first = Cell("first", {}, (("python", "-c", count, place + "/count", "--json"),))
second = Cell("second", {}, (("python", "-c", count, place + "/twice", "{first}", "--json"),
                             ("python", "-c", wait, place + "/go", "--json")))
run([first, second], Path(place, "out"))
"""


def test_a_killed_run_repeats_no_finished_cell_and_no_finished_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path)]
    killed = subprocess.Popen(command, start_new_session=True)
    while not (tmp_path / "out" / "second" / "command-0.json").exists():
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == ["first.json"]
    (tmp_path / "go").touch()
    subprocess.run(command, check=True, timeout=60)
    assert sorted(p.name for p in (tmp_path / "out").glob("*.json")) == [
        "first.json",
        "second.json",
    ]
    assert (tmp_path / "count").read_text() == (tmp_path / "twice").read_text() == "x"


TRAIN = """
import sys
from pathlib import Path
from cdinfer.studies.cells import Cell, run

data, codec, out = sys.argv[1:]
train = ("train", "--task", "cls", "--codec", codec, "--data", data, "--model.net.width", "0.125",
         "--data.crop", "32", "--data.batch_size", "4", "--trainer.max_epochs", "60",
         "--last.every_n_train_steps", "3",
         "--trainer.accelerator", "cpu", "--trainer.logger.save_dir", "{out}")
run([Cell("x", {}, (train, ("eval", "{out}/cls", "--json")))], Path(out), print)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_and_no_finished_cell_is_repeated(
    labelled: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", TRAIN, str(labelled), str(tiny_codec), str(tmp_path)]
    first = subprocess.Popen(command, start_new_session=True)
    checkpoint = tmp_path / "x" / "cls" / "version_0" / "checkpoints" / "last.ckpt"
    for _ in range(600):
        if checkpoint.exists():
            break
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / "x.json").exists()
    subprocess.run(command, check=True)
    record = json.loads((tmp_path / "x.json").read_text())
    assert 0 <= record["metrics"]["test/top1"] <= 1
    rows = (tmp_path / "x" / "cls" / "version_1" / "metrics.csv").read_text().splitlines()
    assert int(rows[1].split(",")[0]) > 0  # the epoch it went on from
    stamp = (tmp_path / "x.json").stat().st_mtime_ns
    subprocess.run(command, check=True)
    assert (tmp_path / "x.json").stat().st_mtime_ns == stamp
