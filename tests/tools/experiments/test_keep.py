"""Kept records of a table stand for its cells."""

import json
from pathlib import Path

from cdinfer.studies import cells
from cdinfer.studies.cells import Cell
from tools.experiments import keep

SAY = "import sys; open(sys.argv[1], 'a').write('x'); print('{\"said\": 1}')"


def make_cells(log: Path) -> list[Cell]:
    data = Cell("data", {}, (("python", "-c", SAY, str(log), "--json"),))
    ends = [
        Cell(name, {"seed": seed}, (("python", "-c", SAY, str(log), "{data}", name, "--json"),))
        for seed, name in enumerate(("one", "two"))
    ]
    return [data, *ends]


def test_a_table_goes_on_elsewhere_without_doing_kept_cells_again(tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "records.json"
    plan = make_cells(Path(log.name))  # relative: records name no place of a machine
    first = [
        {"name": cell.name, "commands": [list(line) for line in cell.commands]} for cell in plan
    ]
    file.write_text(json.dumps(first[:2]))  # data and one, not two
    left = keep.restore(plan, tmp_path / "here", file)
    assert [cell.name for cell in left] == ["data", "two"]
    assert json.loads((tmp_path / "here" / "one.json").read_text()) == first[1]
    file.write_text(json.dumps(first))
    assert keep.restore(plan, tmp_path / "there", file) == []


def test_what_is_put_back_is_what_was_kept(tmp_path: Path) -> None:
    plan = make_cells(tmp_path / "log")[:1]
    (record,) = cells.run(plan, tmp_path / "out")
    record["commands"][0][3] = "log"
    plan = [plan[0]._replace(commands=(tuple(record["commands"][0]),))]
    (tmp_path / "out" / "data.json").write_text(json.dumps(record))
    file = tmp_path / "records.json"
    assert keep.keep(plan, tmp_path / "out", file) == 1
    assert keep.restore(plan, tmp_path / "again", file) == []
    assert cells.read_record(tmp_path / "again", plan[0]) == record
    changed = [plan[0]._replace(commands=(("python", "-c", "pass", "--json"),))]
    assert keep.restore(changed, tmp_path / "third", file) == changed
