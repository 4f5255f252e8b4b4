from pathlib import Path

import pytest

from cdinfer.data.layout import Item, find_pictures, hold_out, is_shards


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_lists(root: Path, **lists: str) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for name, text in lists.items():
        (root / "splits" / f"{name}.txt").write_text(text, "utf-8")


def keys(root: Path, splits: str | None = None) -> dict[str, list[str]]:
    found = find_pictures(root, splits).splits
    return {split: [item.key for item in items] for split, items in found.items()}


# Layouts


def test_folders_of_a_single_split_are_classes(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}/{i}.png" for name in ("dog", "cat") for i in range(20)))
    found = find_pictures(tmp_path)
    assert found.root == tmp_path
    assert found.classes == ["cat", "dog"]
    assert found.splits["test"] == []
    both = found.splits["train"] + found.splits["val"]
    assert sorted(both) == sorted(
        Item(f"{name}/{i}.png", label)
        for label, name in enumerate(("cat", "dog"))
        for i in range(20)
    )
    assert 0 < len(found.splits["val"]) < 10


def test_deeper_folders_belong_to_their_class(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/x/y/1.png", "train/dog/1.png", "val/dog/2.png")
    found = find_pictures(tmp_path)
    assert found.classes == ["cat", "dog"]
    assert found.splits["train"] == [Item("train/cat/x/y/1.png", 0), Item("train/dog/1.png", 1)]


def test_folders_named_after_splits_are_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/a/1.png", "train/b/2.png", "val/b/3.png", "test/a/4.png", "README.md")
    found = find_pictures(tmp_path)
    assert found.classes == ["a", "b"]
    assert found.splits == {
        "train": [Item("train/a/1.png", 0), Item("train/b/2.png", 1)],
        "val": [Item("val/b/3.png", 1)],
        "test": [Item("test/a/4.png", 0)],
    }


def test_flat_splits_are_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, "train/1.png", "train/2.png", "val/4.jpg", "test/3.png")
    found = find_pictures(tmp_path)
    assert found.classes == []
    assert found.splits["train"] == [Item("train/1.png", -1), Item("train/2.png", -1)]
    assert found.splits["test"] == [Item("test/3.png", -1)]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{i}.png" for i in range(30)))
    found = find_pictures(tmp_path)
    assert found.classes == []
    assert {item.label for items in found.splits.values() for item in items} == {-1}
    assert len(found.splits["train"]) + len(found.splits["val"]) == 30


def test_lists_come_before_folders(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png", "b/unlisted.png")
    write_lists(tmp_path, train="a/1.png\r\n\r\nb/1.png \n", val="b/2.png\n", test="./a/2.png")
    assert find_pictures(tmp_path).classes == ["a", "b"]
    assert keys(tmp_path) == {
        "train": ["a/1.png", "b/1.png"],
        "val": ["b/2.png"],
        "test": ["a/2.png"],
    }


def test_other_lists_are_chosen_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    write_lists(tmp_path, train="a/1.png\nb/1.png", test="a/2.png\nb/2.png")
    write_lists(tmp_path, train_blocked="a/1.png\na/2.png", test_blocked="b/1.png\nb/2.png")
    assert keys(tmp_path, "blocked")["test"] == ["b/1.png", "b/2.png"]
    assert keys(tmp_path)["test"] == ["a/2.png", "b/2.png"]


def test_only_an_index_makes_shards(tmp_path: Path) -> None:
    assert not is_shards(tmp_path)
    assert is_shards(touch(tmp_path, "index.json"))
    assert not is_shards(tmp_path / "index.json")


# Validation without a list or folder of its own


def test_pictures_keep_their_side_when_a_set_grows(tmp_path: Path) -> None:
    small = [Item(f"a/{i}.png", 0) for i in range(200)]
    train, val = hold_out(small)
    larger_train, larger_val = hold_out(small + [Item(f"b/{i}.png", 1) for i in range(300)])
    assert set(train) < set(larger_train)
    assert set(val) < set(larger_val)


def test_about_a_tenth_is_held_out() -> None:
    train, val = hold_out([Item(f"{i}.png", 0) for i in range(10_000)])
    assert len(train) + len(val) == 10_000
    assert abs(len(val) - 1000) < 5 * 30  # five standard deviations of a binomial


@pytest.mark.parametrize("start", range(0, 100, 7))
def test_of_few_pictures_both_sides_get_one(start: int) -> None:
    train, val = hold_out([Item(f"{start + i}.png", 0) for i in range(2)])
    assert (len(train), len(val)) == (1, 1)


def test_a_single_picture_is_for_training() -> None:
    for i in range(50):
        assert hold_out([Item(f"{i}.png", 0)]) == ([Item(f"{i}.png", 0)], [])


def test_a_name_that_is_no_text_has_a_side_too() -> None:
    odd = [Item(f"{i}\udcff.png", 0) for i in range(20)]  # bytes that are not UTF-8
    train, val = hold_out(odd)
    assert sorted(train + val) == sorted(odd)


# Mistakes


def test_a_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ValueError, match=r"no folder '.*fotos'; did you mean 'photos'\?"):
        find_pictures(tmp_path / "fotos")
    with pytest.raises(ValueError, match=r"no folder .*; check the path"):
        find_pictures(tmp_path / "x" / "fotos")


@pytest.mark.parametrize("names", [(), ("notes.txt",), (".hidden/1.png",), ("train/a/1.txt",)])
def test_a_folder_without_pictures_says_what_it_looked_for(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"no training pictures in .*expected files .* \.png"):
        find_pictures(touch(tmp_path, *names))


@pytest.mark.parametrize(
    ("names", "stray"),
    [
        (("a/1.png", "b/2.png", "stray.png"), "stray.png"),
        (("train/a/1.png", "train/stray.png", "test/a/2.png"), "train/stray.png"),
        (("train/a/1.png", "test/stray.png"), "test/stray.png"),
    ],
)
def test_a_picture_outside_the_class_folders_is_named(
    tmp_path: Path, names: tuple[str, ...], stray: str
) -> None:
    with pytest.raises(ValueError, match=rf"'{tmp_path / stray}' lies outside .* move it"):
        find_pictures(touch(tmp_path, *names))


@pytest.mark.parametrize("other", ["valid", "car"])
def test_pictures_beside_the_splits_are_not_silently_left_out(tmp_path: Path, other: str) -> None:
    touch(tmp_path, "train/a/1.png", f"{other}/a/2.png", "masks/notes.txt", ".cache/a/3.png")
    with pytest.raises(ValueError, match=rf"{other}' holds pictures beside .*; rename it"):
        find_pictures(tmp_path)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("a/1.png\na/9.png", r"train\.txt names 'a/9\.png', which is not in .*: correct the list"),
        ("a/1.png\na", r"train\.txt names 'a', which is not in"),
        ("../secret.png", r"train\.txt names '\.\./secret\.png': expected a path inside"),
        ("a/../../x.png", r"expected a path inside"),
        ("/etc/passwd", r"train\.txt names '/etc/passwd': expected a path inside"),
        ("a/1.png\na/2.png\n./a/1.png", r"names 'a/1\.png' 2 times: expected each picture once"),
        ("\n \n", r"train\.txt is empty: expected a path on each line"),
        ("a/1.png\nb/1.png", r"train\.txt and .*test\.txt both name 'b/1\.png'"),
    ],
)
def test_a_bad_list_is_named_with_its_line(tmp_path: Path, train: str, message: str) -> None:
    touch(tmp_path / "set", "a/1.png", "a/2.png", "b/1.png")
    touch(tmp_path, "secret.png")
    write_lists(tmp_path / "set", train=train, test="b/1.png")
    with pytest.raises(ValueError, match=message):
        find_pictures(tmp_path / "set")


def test_lists_for_validation_and_testing_have_no_picture_in_common(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    write_lists(tmp_path, train="a/1.png", val="b/1.png\na/2.png", test="b/1.png")
    with pytest.raises(ValueError, match=r"val\.txt and .*test\.txt both name 'b/1\.png'"):
        find_pictures(tmp_path)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    write_lists(tmp_path, train="")
    (tmp_path / "splits" / "train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"train\.txt is not text in UTF-8"):
        find_pictures(tmp_path)


def test_lists_of_another_name_are_not_overlooked(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    write_lists(tmp_path, train_blocked="a/1.png", test_blocked="a/1.png")
    with pytest.raises(ValueError, match=r"no .*splits/train\.txt: give --splits blocked$"):
        find_pictures(tmp_path)
    with pytest.raises(ValueError, match=r"no .*train_random\.txt: give --splits blocked$"):
        find_pictures(tmp_path, "random")


def test_a_test_list_alone_is_not_enough(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    write_lists(tmp_path, test="a/1.png")
    with pytest.raises(ValueError, match=r"no .*train\.txt: write one"):
        find_pictures(tmp_path)


def test_splits_without_lists_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    with pytest.raises(ValueError, match=r"no .*train_blocked\.txt: give no --splits here"):
        find_pictures(tmp_path, "blocked")


# Lists of other people's sets


def test_minc_2500_is_read_with_one_of_its_five_splits(tmp_path: Path) -> None:
    names = [f"images/{name}/{name}_00000{i}.jpg" for name in ("brick", "water") for i in range(4)]
    touch(tmp_path, *names, "categories.txt")
    (tmp_path / "labels").mkdir()
    for number, (train, val, test) in {1: ([0, 1], [2], [3]), 2: ([2, 3], [0], [1])}.items():
        for word, chosen in (("train", train), ("validate", val), ("test", test)):
            lines = [names[base + i] for base in (0, 4) for i in chosen]
            (tmp_path / "labels" / f"{word}{number}.txt").write_text("\n".join(lines))
    assert find_pictures(tmp_path, "2").classes == ["brick", "water"]
    assert keys(tmp_path, "2") == {
        "train": [names[2], names[3], names[6], names[7]],
        "val": [names[0], names[4]],
        "test": [names[1], names[5]],
    }
    assert [item.label for item in find_pictures(tmp_path, "1").splits["val"]] == [0, 1]
    with pytest.raises(ValueError, match=r"no .*labels/train\.txt: give --splits 1 or --splits 2$"):
        find_pictures(tmp_path)


def test_resisc45_is_read_by_its_lists_of_names(tmp_path: Path) -> None:
    folder = "NWPU-RESISC45"
    names = [f"{name}_00{i}.jpg" for name in ("airplane", "storage_tank") for i in range(3)]
    touch(tmp_path, *(f"{folder}/{name[:-8]}/{name}" for name in names))
    for split, numbers in {"train": (0, 3), "val": (1, 4), "test": (2, 5)}.items():
        text = "\n".join(names[i] for i in numbers)
        (tmp_path / f"resisc45-{split}.txt").write_text(text)
    assert find_pictures(tmp_path).classes == ["airplane", "storage_tank"]
    assert keys(tmp_path)["test"] == [
        f"{folder}/airplane/airplane_002.jpg",
        f"{folder}/storage_tank/storage_tank_002.jpg",
    ]
    assert find_pictures(tmp_path / folder).classes == ["airplane", "storage_tank"]
    (tmp_path / "resisc45-val.txt").write_text("ship_001.jpg")
    with pytest.raises(ValueError, match=r"resisc45-val\.txt names '.*ship/ship_001\.jpg', which"):
        find_pictures(tmp_path)
