import hashlib
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import webdataset
from PIL import Image

from cdinfer.data.edit import Edit, delete, leftovers, relabel
from cdinfer.data.export import Plan, export
from cdinfer.data.index import read_index
from cdinfer.data.layout import find_pictures
from cdinfer.data.lock import LOCK, locked
from cdinfer.data.reader import Reader
from cdinfer.data.shards import ShardDataset
from cdinfer.data.verify import verify
from tests.conftest import draw


def contents(root: Path) -> dict[str, tuple[str, bytes]]:
    """Return class and bitstream of every key of a set."""
    index, found = read_index(root), dict[str, tuple[str, bytes]]()
    for split in index.splits:
        reader = Reader(root, index, split)
        reader.check_files()
        for number in range(len(reader.entries)):
            for item, (label, key) in enumerate(reader.targets(number)):
                assert key not in found
                found[key] = (index.classes[label], reader.block(number)[item])
    return found


def digests(root: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.iterdir()
        if path.is_file() and path.name != LOCK
    }


def assert_whole(root: Path) -> None:
    """Every file is as the index says, and there is no other."""
    report = verify(root)
    assert report.faults == []
    assert report.leftovers == []


# Relabelling


def test_relabelling_rewrites_targets_alone(copy: Path) -> None:
    before, files = contents(copy), digests(copy)
    keys = [key for key, (name, _) in before.items() if name == "left"][:3]
    assert relabel(copy, dict.fromkeys(keys, "right")) == 3
    after = contents(copy)
    assert after == before | {key: ("right", before[key][1]) for key in keys}
    changed = {name for name, digest in digests(copy).items() if files.get(name) != digest}
    assert all(".targets." in name or name == "index.json" for name in changed)
    assert 1 < len(changed) <= 4
    assert_whole(copy)


def test_labels_that_are_so_already_change_nothing(copy: Path) -> None:
    files = digests(copy)
    assert relabel(copy, {key: name for key, (name, _) in contents(copy).items()}) == 0
    assert digests(copy) == files


def test_a_new_class_comes_last_and_only_on_request(copy: Path) -> None:
    before, files = contents(copy), digests(copy)
    key = next(iter(before))
    with pytest.raises(ValueError, match=r"no class 'rigth' in .*; did you mean 'right'\?; --new"):
        relabel(copy, {key: "rigth"})
    assert digests(copy) == files
    assert relabel(copy, {key: "middle"}, new_classes=True) == 1
    assert read_index(copy).classes == ["left", "right", "middle"]
    assert contents(copy) == before | {key: ("middle", before[key][1])}
    for name in ("left", "middle"):  # twice, to and fro
        assert relabel(copy, {key: name}) == 1
    assert contents(copy)[key][0] == "middle"
    assert_whole(copy)


@pytest.mark.parametrize("change", [relabel, delete])
def test_an_unknown_key_changes_nothing(copy: Path, change: Callable[..., int]) -> None:
    files, known = digests(copy), next(iter(contents(copy)))
    with pytest.raises(ValueError, match=r"no 'nowhere\.png' in .*, nor 1 more: .* was changed$"):
        change(copy, {known: "left", "nowhere.png": "left", "nor there": "left"})
    assert digests(copy) == files


def test_a_set_without_classes_gets_them_for_all_or_none(tiny_codec: Path, tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for i in range(3):
        Image.fromarray(draw(24, 32, i)).save(tmp_path / "flat" / f"{i}.png")
    export(find_pictures(tmp_path / "flat"), tmp_path / "set", tiny_codec, Plan())
    labels = {f"{i}.png": "ab"[i % 2] for i in range(3)}
    with pytest.raises(ValueError, match=r"'2\.png' would have none: name one for every picture"):
        relabel(tmp_path / "set", {"0.png": "a", "1.png": "a"}, new_classes=True)
    assert relabel(tmp_path / "set", labels, new_classes=True) == 3
    data = ShardDataset(tmp_path / "set", "train", None)
    names = [data.classes[label] for label in data.labels]
    assert names == [labels[key] for key in data.keys()]  # noqa: SIM118
    assert_whole(tmp_path / "set")


# Deleting


def test_deleted_samples_leave_neither_key_nor_bits(copy: Path) -> None:
    before, files = contents(copy), digests(copy)
    shard = read_index(copy).splits["train"].shards[1]
    data = ShardDataset(copy, "train", None, whole=True)
    keys = [data.keys()[i] for i in (8, 11)]  # of the second shard
    payloads = [before[key][1][22:] for key in keys]
    assert all(len(payload) > 60 for payload in payloads)
    assert delete(copy, keys) == 2
    assert contents(copy) == {key: value for key, value in before.items() if key not in keys}
    names = {name for name in digests(copy) if name in files} - {"index.json"}
    assert set(files) - names == {*shard.tars, "index.json"}
    assert all(digests(copy)[name] == files[name] for name in names)
    everything = b"".join(path.read_bytes() for path in copy.rglob("*") if path.is_file())
    assert not any(payload in everything for payload in payloads)
    assert verify(copy, keys).faults == []
    assert_whole(copy)


def test_keys_in_lists_of_the_index_go_too(copy: Path) -> None:
    path = copy / "index.json"
    raw = json.loads(path.read_text())
    key, other = list(contents(copy))[:2]
    for split in raw["splits"].values():
        for entry in split:
            entry["below"] = [[key, 20.0], [other, 21.0]]
    path.write_text(json.dumps(raw))
    assert any(key in (fault.key or "") for fault in verify(copy, [key]).faults)
    delete(copy, [key])
    assert key not in path.read_text()
    assert other in path.read_text()
    assert verify(copy, [key]).faults == []


@pytest.mark.parametrize("name", ["skipped", "below"])
def test_a_key_that_is_only_listed_can_go(copy: Path, name: str) -> None:
    path = copy / "index.json"
    raw = json.loads(path.read_text())
    raw["splits"]["test"][0][name] = [["secret.png", "cannot be read"], ["other.png", "nor that"]]
    path.write_text(json.dumps(raw))
    before = contents(copy)
    (fault,) = verify(copy, ["secret.png"]).faults
    assert fault.fault == "still named in index.json; cdinfer shards delete removes it"
    with pytest.raises(ValueError, match=r"^no 'nowhere\.png' in .*shards': give keys"):
        delete(copy, ["secret.png", "nowhere.png"])
    assert delete(copy, ["secret.png"]) == 0
    assert "secret.png" not in path.read_text()
    assert "other.png" in path.read_text()
    assert verify(copy, ["secret.png"]).faults == []
    assert contents(copy) == before


def test_a_shard_and_a_split_may_become_empty(copy: Path) -> None:
    data = ShardDataset(copy, "val", None, whole=True)
    assert delete(copy, data.keys()) == 6
    assert read_index(copy).splits["val"] == (0, [])
    assert len(ShardDataset(copy, "val", None)) == 0
    assert list(copy.glob("val*")) == []
    assert_whole(copy)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves closing to Python
def test_changed_tars_open_with_stock_webdataset(copy: Path) -> None:
    keys = list(contents(copy))
    delete(copy, [keys[0]])
    relabel(copy, {keys[1]: "left", keys[2]: "right"})
    for shard in read_index(copy).splits["train"].shards:
        pairs = [webdataset.WebDataset(str(copy / name), shardshuffle=False) for name in shard.tars]
        names = [[sample["__key__"] for sample in pair] for pair in pairs]
        assert names[0] == names[1] == [f"{shard.name}-{i:04d}" for i in range(len(names[0]))]
        for name in shard.tars:
            with tarfile.open(copy / name) as tar:
                assert all(member.mtime == 0 for member in tar)


def test_a_reader_keeps_the_set_it_has_opened(copy: Path) -> None:
    data = ShardDataset(copy, "train", 32)
    old = data.__getitems__(list(range(20)))["planes"]["y"].clone()
    delete(copy, data.keys()[:5])
    assert (data.__getitems__(list(range(20)))["planes"]["y"] == old).all()
    assert len(ShardDataset(copy, "train", 32)) == 15


def test_a_damaged_block_cannot_be_rewritten(copy: Path) -> None:
    data = ShardDataset(copy, "train", 32)
    _, _, entry = data.reader.entries[0]
    path = copy / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[entry.offset] ^= 1
    path.write_bytes(content)
    files = digests(copy)
    with pytest.raises(ValueError, match=r"damaged block 0 at byte 512 of .*train-00000\.tar"):
        delete(copy, data.keys()[:1])
    assert digests(copy) == files


def test_tars_of_other_names_are_not_ours_to_remove(copy: Path) -> None:
    mine = ["notes-1.tar", "photos-2023.tar", "train-1.tar", "photos-00001.targets.tar"]
    for name in [*mine, "train-00000-7.tar", "val-00003.targets.tar"]:
        (copy / name).write_bytes(b"something")
    delete(copy, list(contents(copy))[:1])
    assert {path.name for path in copy.iterdir() if path.name in mine} == set(mine)
    assert_whole(copy)


def test_an_old_tar_that_cannot_be_removed_does_not_undo_the_change(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, *_ = before = contents(copy)

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refuse)
        message = (
            r"^the change was made, but '.*/(train|val)-00000\.t.*' could not be removed \(Op.*\)"
        )
        with pytest.raises(ValueError, match=rf"{message}: remove it$"):
            delete(copy, [key])
    assert contents(copy) == {k: value for k, value in before.items() if k != key}


# One at a time, at once or not at all


def test_a_change_reads_the_index_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, path_open = list[str](), Path.open

    def counted(path: Path, *args: Any, **options: Any) -> object:
        opened.append(path.name)
        return path_open(path, *args, **options)

    monkeypatch.setattr(Path, "open", counted)
    edit = Edit(copy)
    assert opened == ["index.json"]
    assert set(edit.splits) == set(edit.index.splits)


def test_two_changes_never_mix(copy: Path) -> None:
    key = next(iter(contents(copy)))
    with locked(copy):
        for change in (delete, relabel):
            with pytest.raises(ValueError, match=r"another cdinfer is writing '.*': wait for it"):
                change(copy, {key: "left"})
    assert delete(copy, [key]) == 1


def test_a_folder_without_a_set_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no shards in"):
        delete(tmp_path, ["a"])
    assert list(tmp_path.iterdir()) == []


def test_exporting_again_into_a_changed_set_is_refused(
    mixed_scenes: Path, tiny_codec: Path, copy: Path
) -> None:
    pictures, plan = find_pictures(mixed_scenes), Plan(block=3, per_shard=7)
    export(pictures, copy, tiny_codec, plan)
    delete(copy, list(contents(copy))[:1])
    with pytest.raises(ValueError, match="was changed after its export"):
        export(pictures, copy, tiny_codec, plan)


def killed(work: Callable[[], object], moment: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do ``work`` in a child that kills itself at a step that changes the disk."""
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL
    try:
        left = iter(range(moment, -1, -1))

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object) -> object:
                if next(left, 0) == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args)

            return call

        monkeypatch.setattr(os, "fsync", counted(os.fsync))
        monkeypatch.setattr(Path, "replace", counted(Path.replace))
        monkeypatch.setattr(Path, "unlink", counted(lambda path, missing_ok=False: os.unlink(path)))
        work()
        os._exit(0)
    except BaseException:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("change", [relabel, delete])
def test_a_killed_change_was_made_or_was_not(
    copy: Path, change: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(copy)
    keys = {key: ("right" if name == "left" else "left") for key, (name, _) in old.items()}
    wanted = {key: keys[key] for key in list(keys)[3:25:4]}  # of several shards
    states = []
    for moment in range(100):
        if not killed(lambda: change(copy, wanted), moment, monkeypatch):
            break
        states.append(contents(copy) == old)
        if not states[-1]:  # made, but for the tars it leaves behind
            assert leftovers(copy, read_index(copy))
            new = contents(copy)
            relabel(copy, {key: name for key, (name, _) in new.items()})  # changes nothing
            assert contents(copy) == new
            break
    assert states.count(True) > 6
    assert_whole(copy)
    new = contents(copy)
    if change is delete:
        assert new == {key: value for key, value in old.items() if key not in wanted}
    else:
        assert new == {key: (wanted.get(key, name), file) for key, (name, file) in old.items()}
