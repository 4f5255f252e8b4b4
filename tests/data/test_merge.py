import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from cdinfer.data.edit import STAGING, delete, leftovers
from cdinfer.data.export import Plan, export
from cdinfer.data.index import read_index
from cdinfer.data.layout import ImageSet, find_pictures
from cdinfer.data.lock import locked
from cdinfer.data.merge import append, merge
from cdinfer.data.reader import Reader
from tests.conftest import draw
from tests.data.test_edit import assert_whole, contents, digests, killed

PLAN = Plan(resize=40, block=3, per_shard=4)


def make(folder: Path, classes: str, first: int, count: int = 5) -> ImageSet:
    """Return pictures ``{class}/{number}.png`` of 48 x 64."""
    for i in range(first, first + count):
        path = folder / classes[i % len(classes)] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(48, 64, i)).save(path)
    return find_pictures(folder)


@pytest.fixture
def one(tiny_codec: Path, tmp_path: Path) -> Path:
    """A set of classes a and c."""
    export(make(tmp_path / "photos", "ac", 0, 9), tmp_path / "one", tiny_codec, PLAN)
    return tmp_path / "one"


@pytest.fixture
def two(tiny_codec: Path, tmp_path: Path) -> Path:
    """A set of classes b and c, other pictures."""
    export(make(tmp_path / "more", "bc", 20, 8), tmp_path / "two", tiny_codec, PLAN)
    return tmp_path / "two"


# Append


def test_appended_pictures_are_what_an_export_makes_of_them(
    one: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    pictures = make(tmp_path / "new", "ac", 50)
    before, files = contents(one), digests(one)
    index = append(one, pictures)
    assert sum(entry["count"] for split in index["splits"].values() for entry in split) == 5
    export(pictures, tmp_path / "alone", tiny_codec, PLAN)
    assert contents(one) == before | contents(tmp_path / "alone")
    assert all(digests(one)[name] == files[name] for name in files if name != "index.json")
    names = [shard.name for shard in read_index(one).splits["train"].shards]
    assert names == [f"train-{number:05d}" for number in range(len(names))]
    assert_whole(one)


def test_appending_keys_of_the_set_is_refused_before_anything_is_encoded(
    one: Path, tmp_path: Path
) -> None:
    files = digests(one)
    make(tmp_path / "new", "ac", 7)
    with pytest.raises(ValueError, match=r"^'a/8\.png' and 1 more of '.*new' would be .* twice: "):
        append(one, find_pictures(tmp_path / "new"))
    assert digests(one) == files
    delete(one, ["a/8.png", "c/7.png"])
    append(one, find_pictures(tmp_path / "new"))
    assert_whole(one)


def test_a_new_class_comes_with_pictures_only_on_request(one: Path, tmp_path: Path) -> None:
    pictures = make(tmp_path / "new", "abc", 50)
    with pytest.raises(ValueError, match=r"no class 'b' in '.*one'.*--new-classes adds"):
        append(one, pictures)
    append(one, pictures, new_classes=True)
    assert read_index(one).classes == ["a", "c", "b"]
    assert all(key.split("/")[0] == name for key, (name, _) in contents(one).items())
    flat = find_pictures(tmp_path / "new" / "a")
    with pytest.raises(ValueError, match=r"expected both labelled, or neither$"):
        append(one, flat)


def test_an_interrupted_append_goes_on_and_another_change_clears_it_away(
    one: Path, tmp_path: Path
) -> None:
    pictures, before = make(tmp_path / "new", "ac", 50, 9), contents(one)

    def stop(split: str, count: int) -> None:
        if split == "val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(one, pictures, progress=stop)
    (staging,) = leftovers(one, read_index(one))
    assert staging.name.startswith(STAGING)
    done = {path.name: path.stat().st_mtime_ns for path in staging.glob("train*.tar")}
    assert done
    assert contents(one) == before
    seen: dict[str, int] = {}

    def watch(split: str, count: int) -> None:
        times = {path.name: path.stat().st_mtime_ns for path in staging.glob("train*.tar")}
        assert times == done
        seen[split] = seen.get(split, 0) + count

    append(one, pictures, progress=watch)
    assert sum(seen.values()) == 9
    assert len(contents(one)) == 18
    assert_whole(one)
    with pytest.raises(KeyboardInterrupt):
        append(one, make(tmp_path / "last", "ac", 80, 9), progress=stop)
    delete(one, ["a/0.png"])
    assert_whole(one)


def test_an_append_on_another_device_starts_anew(one: Path, tmp_path: Path) -> None:
    pictures = make(tmp_path / "new", "ac", 50, 9)

    def stop(split: str, count: int) -> None:
        if split == "val":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        append(one, pictures, progress=stop)
    index = append(one, pictures, device="cpu:0")  # where there is no other
    assert index["encoder"]["device"] == "cpu:0"
    assert len(contents(one)) == 18
    assert_whole(one)


# Merge


def test_merged_sets_have_the_bits_and_class_names_of_both(one: Path, two: Path) -> None:
    before, other, files = contents(one), contents(two), digests(two)
    assert merge(one, [two]) == 8
    assert contents(one) == before | other
    assert read_index(one).classes == ["a", "c", "b"]
    assert digests(two) == files
    assert_whole(one)


def test_a_merge_into_a_new_folder_leaves_all_sets_alone(
    one: Path, two: Path, tmp_path: Path
) -> None:
    files = digests(one), digests(two)
    assert merge(one, [two], tmp_path / "both") == 8
    assert contents(tmp_path / "both") == contents(one) | contents(two)
    assert (digests(one), digests(two)) == files
    assert_whole(tmp_path / "both")
    with pytest.raises(ValueError, match=r"'.*both' exists: give -o a new folder"):
        merge(one, [two], tmp_path / "both")
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_what_was_changed_can_be_merged(one: Path, two: Path, tmp_path: Path) -> None:
    delete(two, list(contents(two))[:3])
    delete(one, list(contents(one))[:1])
    both = contents(one) | contents(two)
    merge(one, [two], tmp_path / "both")
    merge(one, [two])
    assert contents(one) == contents(tmp_path / "both") == both
    assert_whole(one)


def test_another_stream_is_refused_naming_both(
    one: Path, other_codec: Path, tmp_path: Path
) -> None:
    export(make(tmp_path / "more", "ac", 20), tmp_path / "other", other_codec, PLAN)
    streams = [read_index(root).stream for root in (one, tmp_path / "other")]
    assert streams[0] != streams[1]
    files = digests(one)
    message = r"holds stream {:08x} and '.*other' stream {:08x}: .* --codec".format(*streams)
    for target in (None, tmp_path / "both"):
        with pytest.raises(ValueError, match=message):
            merge(one, [tmp_path / "other"], target)
    assert digests(one) == files
    assert not (tmp_path / "both").exists()


def test_sets_that_do_not_belong_together_are_refused(
    one: Path, two: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    files = digests(one)
    export(find_pictures(tmp_path / "more"), tmp_path / "large", tiny_codec, Plan())
    export(find_pictures(tmp_path / "more" / "b"), tmp_path / "flat", tiny_codec, PLAN)
    with pytest.raises(ValueError, match=r"with resize 40 and '.*large' with resize None"):
        merge(one, [tmp_path / "large"])
    with pytest.raises(ValueError, match=r"'.*flat' has no classes and the other has: label it"):
        merge(one, [tmp_path / "flat"])
    with pytest.raises(ValueError, match=r"and 7 more of '.*two' would be in the set twice"):
        merge(one, [two, two])
    with pytest.raises(ValueError, match=r"no shards in"):
        merge(one, [tmp_path / "photos"])
    assert digests(one) == files


def test_a_damaged_set_is_not_copied(one: Path, two: Path) -> None:
    path = two / "train-00000.tar"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    before = contents(one)
    with pytest.raises(ValueError, match=r"damaged .*train-00000\.tar: its sha256 is not that"):
        merge(one, [two])
    assert contents(one) == before


def test_augmentations_are_those_proven_for_all(
    one: Path, two: Path, tiny_codec: Path, tmp_path: Path
) -> None:
    export(make(tmp_path / "last", "ac", 40), tmp_path / "three", tiny_codec, PLAN)
    proven = {"one": ["flip", "crop", "turn"], "two": ["crop", "turn"], "three": ["flip", "crop"]}
    for name, augmentations in proven.items():
        path = tmp_path / name / "index.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"augmentations": augmentations}))
    merge(one, [two, tmp_path / "three"])
    assert read_index(one).augmentations == ["crop"]


@pytest.mark.parametrize("new", [False, True])
def test_a_merge_and_another_change_never_mix(
    one: Path, two: Path, tmp_path: Path, new: bool
) -> None:
    with locked(one), pytest.raises(ValueError, match=r"another cdinfer is writing '.*one'"):
        merge(one, [two], tmp_path / "both" if new else None)
    with pytest.raises(ValueError, match="no shards in"):
        merge(tmp_path / "photos", [two], tmp_path / "both")
    assert not (tmp_path / "photos" / ".lock").exists()


def test_a_merge_into_a_new_folder_that_fails_leaves_nothing(
    one: Path, two: Path, tmp_path: Path
) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    names = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        merge(one, [two], tmp_path / "both", stop)
    assert set(tmp_path.iterdir()) == names


@pytest.mark.parametrize("new", [False, True])
def test_a_merge_reads_keys_once_before_it_copies(
    one: Path, two: Path, tmp_path: Path, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, targets = list[Path](), Reader.targets

    def counted(reader: Reader, number: int) -> list[tuple[int, str]]:
        read.append(reader.root)
        return targets(reader, number)

    blocks = {
        root: sum(len(s.blocks) for split in read_index(root).splits.values() for s in split.shards)
        for root in (one, two)
    }
    monkeypatch.setattr(Reader, "targets", counted)
    merge(one, [two], tmp_path / "both" if new else None)
    assert Counter(read) == {one: blocks[one], two: 2 * blocks[two]}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("new", [False, True])
def test_a_killed_merge_was_made_or_was_not(
    one: Path, two: Path, tmp_path: Path, new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, target = contents(one), tmp_path / "both" if new else None
    both, files = old | contents(two), digests(one)
    kills = 0
    for moment in range(0, 100, 3):
        if not killed(lambda: merge(one, [two], target), moment, monkeypatch):
            break
        kills += 1
        if target:
            assert not target.exists()
        elif contents(one) == both:  # made; nothing was left to be done
            break
        assert contents(one) == old
    assert kills > 3
    root = target or one
    assert contents(root) == both
    assert_whole(root)
    assert not target or digests(one) == files
