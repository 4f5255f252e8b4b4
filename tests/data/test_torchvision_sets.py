import json
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision import datasets

from cdinfer.data.sources import find_source
from tests.data.pictures import jpeg, labels, pixels, write


@pytest.fixture
def eurosat(tmp_path: Path) -> Path:
    for i in range(12):
        name = ("Forest", "River", "SeaLake")[i % 3]
        write(tmp_path / "eurosat" / "2750" / name / f"{name}_{i}.jpg", jpeg(i))
    return tmp_path


@pytest.fixture
def food(tmp_path: Path) -> Path:
    meta = tmp_path / "food-101" / "meta"
    for split, numbers in (("train", range(6)), ("test", range(6, 8))):
        listed: dict[str, list[str]] = {"pizza": [], "ramen": []}
        for i in numbers:
            name = ("pizza", "ramen")[i % 2]
            write(tmp_path / "food-101" / "images" / name / f"{i}.jpg", jpeg(i))
            listed[name].append(f"{name}/{i}")
        write(meta / f"{split}.json", json.dumps(listed).encode())
    return tmp_path


def test_a_set_without_splits_is_labelled_by_torchvision(eurosat: Path) -> None:
    found = find_source(f"torchvision:EuroSAT:{eurosat}")
    assert found.classes == ["Forest", "River", "SeaLake"]
    theirs = datasets.EuroSAT(str(eurosat))
    ours = pixels(found)
    assert len(ours) == len(theirs) == 12
    mine = labels(found) | labels(found, "val")
    for (path, label), (image, _) in zip(theirs.samples, theirs, strict=True):
        key = Path(path).relative_to(eurosat).as_posix()
        assert mine[key] == theirs.classes[label]
        assert np.array_equal(ours[key], np.asarray(image))


def test_splits_are_those_of_torchvision(food: Path) -> None:
    found = find_source(f"torchvision:food101:{food}")
    assert found.classes == ["pizza", "ramen"]
    assert labels(found, "test") == {
        "food-101/images/pizza/6.jpg": "pizza",
        "food-101/images/ramen/7.jpg": "ramen",
    }
    assert len(found.splits["train"]) + len(found.splits["val"]) == 6
    assert 0 < len(found.splits["val"]) < 6
    one = find_source(f"torchvision:Food101,split=test:{food}")
    assert len(labels(one)) + len(labels(one, "val")) == 2


def test_pictures_that_are_no_files_come_from_torchvision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "FashionMNIST" / "raw"
    for name, count in (("train", 20), ("t10k", 5)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        numbers = np.arange(count, dtype=np.uint8) % 10
        head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        write(folder / f"{name}-images-idx3-ubyte", head + images.tobytes())
        head = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        write(folder / f"{name}-labels-idx1-ubyte", head + numbers.tobytes())
    found = find_source(f"torchvision:FashionMNIST:{tmp_path}")
    assert found.classes[9] == "Ankle boot"
    assert labels(found, "test")["test/0000001"] == "Trouser"
    assert np.array_equal(pixels(found)["test/0000004"], np.stack([images[4]] * 3, -1))


def forbid_network(*args: object, **options: object) -> None:
    raise URLError("Temporary failure in name resolution")


def test_download_happens_only_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"cannot read EuroSAT in '.*': it is not there; --downl"):
        find_source(f"torchvision:EuroSAT:{tmp_path}")
    monkeypatch.setattr("urllib.request.urlopen", forbid_network)
    with pytest.raises(
        ValueError, match=r"cannot read EuroSAT in .*Temporary failure.*; check the n"
    ):
        find_source(f"torchvision:EuroSAT:{tmp_path}", download=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:EuroSad:data", r"no data set 'EuroSad'; did you mean 'EuroSAT'\?"),
        ("torchvision:EuroSAT", r"torchvision:EuroSAT has no folder: give torchvision:EuroSAT:R"),
        ("torchvision::data", r"no data set '', such as EuroSAT"),
        ("torchvision:CIFAR10:data", r"torchvision unpickles CIFAR10, which could run"),
        ("torchvision:EuroSAT,small:data", r"expected an option like small=true"),
        ("torchvision:EuroSAT,small=true:data", r"cannot read EuroSAT in 'data': .*'small'"),
        ("torchvision:FakeData:data", r"FakeData finds no pictures in a folder: give a .* EuroSAT"),
        ("torchvision:VisionDataset:data", r"VisionDataset finds no pictures in a folder: give"),
        ("torchvision:VOCDetection:data", r"cannot read VOCDetection in 'data': it is not there"),
    ],
)
def test_a_data_set_that_cannot_be_had_is_one_line(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        find_source(source)
    assert "\n" not in str(caught.value)
