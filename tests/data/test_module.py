from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from cdinfer.data.export import Plan, export
from cdinfer.data.layout import find_pictures
from cdinfer.data.module import DataModule
from tests.conftest import draw, paint
from tests.data.masked import CLASSES, write_voc


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """11 training, 4 validation and 3 test pictures of 48 x 64."""
    return paint(tmp_path_factory.mktemp("scenes"), {"train": 11, "val": 4, "test": 3})


@pytest.fixture(scope="module")
def shards(scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    export(find_pictures(scenes), folder, tiny_codec, Plan(block=4, per_shard=6))
    return folder


@pytest.fixture(params=["pictures", "shards", "stream"])
def path(
    request: pytest.FixtureRequest,
    scenes: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))
    return {"pictures": str(scenes), "shards": str(shards)}.get(request.param, f"file://{shards}")


def inputs(batch: dict[str, Any]) -> Tensor:
    """What a network would read, as integers."""
    return batch["planes"]["y"] if "planes" in batch else (batch["image"] * 255).round().long()


def by_sample(data: DataModule, epoch: int) -> dict[int, Tensor]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return {
        int(index): x
        for batch in loader
        for index, x in zip(batch["index"], inputs(batch), strict=True)
    }


def test_pictures_give_images_and_shards_give_planes(scenes: Path, shards: Path) -> None:
    pictures = next(iter(DataModule(str(scenes), batch_size=4).val_dataloader()))
    assert pictures["image"].shape == (4, 3, 48, 64)
    latents = next(iter(DataModule(str(shards), batch_size=4).val_dataloader()))
    assert latents["planes"]["y"].shape == (4, 16, 6, 8)
    for batch in (pictures, latents):
        assert batch["size"].tolist() == [[48, 64]] * 4
        assert batch["label"].shape == batch["index"].shape == (4,)


def test_facts_about_the_set_are_known_before_any_batch(path: str) -> None:
    data = DataModule(path, crop=32)
    assert data.classes == ["a", "b"]
    assert data.lengths == {"train": 11, "val": 4, "test": 3}
    assert data.preprocessing == {"resize": None, "crop": 32}
    assert (data.stream is None) == ("image" in next(iter(data.val_dataloader())))


def test_training_sees_every_sample_in_whole_batches(path: str) -> None:
    loader = DataModule(path, batch_size=4).train_dataloader()
    batches = [batch["index"].tolist() for batch in loader]
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert len(loader) == 3
    assert {i for batch in batches for i in batch} == set(range(11))


def test_a_set_smaller_than_a_batch_is_one_batch(path: str) -> None:
    (batch,) = DataModule(path, batch_size=64).train_dataloader()
    assert sorted(batch["index"].tolist()) == list(range(11))


@pytest.mark.parametrize("split", ["val", "test"])
def test_validation_and_test_see_every_sample_once_in_order(path: str, split: str) -> None:
    data = DataModule(path, batch_size=2)
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    indices = [i for batch in loader for i in batch["index"].tolist()]
    assert indices == list(range(data.lengths[split]))


def shared(path: str, rank: int, world: int, **options: Any) -> DataModule:
    """The data of one of several processes."""
    data = DataModule(path, **options)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
    return data


def indices(loader: Iterable[dict[str, Any]]) -> list[int]:
    return [i for batch in loader for i in batch["index"].tolist()]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_validate_on_every_sample_once(path: str, world: int) -> None:
    shares = [indices(shared(path, rank, world).val_dataloader()) for rank in range(world)]
    assert sorted(i for share in shares for i in share) == list(range(4))
    assert all(shares)


def test_more_processes_than_validation_samples_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"5 processes cannot share 4 val samples: give --trainer"):
        shared(path, 0, 5).val_dataloader()


@pytest.mark.parametrize("path", ["pictures", "shards"], indirect=True)
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 1), (1, 2), (2, 4)])
def test_training_goes_on_on_other_processes(path: str, before: int, after: int) -> None:
    size = {"batch_size": 4 // before}
    first = [shared(path, rank, before, **size) for rank in range(before)]
    seen = [next(iter(data.train_dataloader()))["index"].tolist() for data in first]
    state = first[0].state_dict()
    rest, lengths = [], set()
    for rank in range(after):
        data = shared(path, rank, after, **size)
        data.load_state_dict(state)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(0)
        rest.append(indices(loader))
        lengths.add((len(loader), len(rest[-1])))
    assert lengths == {(3, 8 // after)}  # the same steps
    together = [i for share in seen + rest for i in share]
    assert set(together) == set(range(11))
    assert len(together) - 11 < 4


def test_a_step_that_other_processes_cannot_share_is_refused(path: str) -> None:
    first = shared(path, 0, 2, batch_size=2)
    next(iter(first.train_dataloader()))
    second = shared(path, 0, 3, batch_size=2)
    second.load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="which 3 cannot share evenly: resume with --trainer"):
        second.train_dataloader()


def test_block_wise_order_keeps_to_the_blocks_of_shards(shards: Path, scenes: Path) -> None:
    loader = DataModule(str(shards), batch_size=11, shuffle="blocks").train_dataloader()
    assert list(loader.sampler.blocks) == [4, 2, 4, 1]  # blocks of 4, shards of 6
    assert sorted(indices(loader)) == list(range(11))
    with pytest.raises(ValueError, match=r"lie in no blocks: leave out --data\.shuffle"):
        DataModule(str(scenes), shuffle="blocks")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
def test_crops_do_not_depend_on_batches_or_workers(path: str) -> None:
    once = by_sample(DataModule(path, batch_size=4, crop=16), epoch=3)
    for options in ({"batch_size": 11}, {"batch_size": 3, "workers": 2}):
        again = by_sample(DataModule(path, crop=16, **options), epoch=3)
        assert again.keys() == once.keys()
        assert all(torch.equal(again[i], once[i]) for i in once)


def test_crops_depend_on_epoch_and_seed(path: str) -> None:
    once = by_sample(DataModule(path, crop=16), epoch=0)
    for other in (
        by_sample(DataModule(path, crop=16), epoch=1),
        by_sample(DataModule(path, crop=16, seed=1), epoch=0),
    ):
        assert any(not torch.equal(other[i], once[i]) for i in once)


class Remembering(LightningModule):
    """A model of one number that remembers the samples it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = list[list[Tensor]]()

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        self.seen[-1] += [batch["index"], inputs(batch)]
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
@pytest.mark.filterwarnings("ignore:The .*dataloader.* does not have many workers")
def test_lightning_tells_the_sampler_its_epoch(path: str) -> None:
    model = Remembering()
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(model, datamodule=DataModule(path, batch_size=11, crop=16))
    assert len(model.seen) == 3
    for epoch, (indices, x) in enumerate(model.seen):
        expected = by_sample(DataModule(path, batch_size=11, crop=16), epoch)
        assert indices.tolist() == list(expected)  # the order
        assert torch.equal(x, torch.stack(list(expected.values())))  # and the crops
    assert model.seen[0][0].tolist() != model.seen[1][0].tolist()


def test_whole_pictures_come_one_at_a_time(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for i in range(3):
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray(draw(20 + i, 30, i)).save(tmp_path / split / f"{i}.png")
    data = DataModule(str(tmp_path), crop=16, whole=True)
    sizes = [tuple(batch["image"].shape) for batch in data.val_dataloader()]
    assert sizes == [(1, 3, 20 + i, 30) for i in range(3)]
    assert next(iter(data.train_dataloader()))["image"].shape == (3, 3, 16, 16)


def test_calibration_sees_whole_pictures_from_all_over_the_set(tmp_path: Path) -> None:
    for i in range(300):
        Image.new("L", (9, 8), i % 256).save(tmp_path / f"{i:03}.png")
    data = DataModule(str(tmp_path), crop=4)
    batches = [(batch["image"] * 255).round() for batch in data.calibration_dataloader()]
    assert {tuple(image.shape) for image in batches} == {(1, 3, 8, 9)}
    assert 64 < len(batches) <= 128
    numbers = [int(item.key[:3]) for item in data.pictures.splits["train"]]
    step = len(numbers) // len(batches)
    assert [image[0, 0, 0, 0].item() for image in batches] == [n % 256 for n in numbers[::step]]


def test_pictures_of_different_sizes_need_a_crop(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(draw(20 + i, 30, i)).save(tmp_path / f"{i}.png")
    data = DataModule(str(tmp_path), batch_size=3)
    with pytest.raises(ValueError, match=r"got \d sizes: give --data\.crop, .*crop 2[01]"):
        list(data.train_dataloader())
    assert next(iter(DataModule(str(tmp_path), crop=16).train_dataloader()))["image"].shape[0] == 2


def test_a_missing_split_says_how_to_add_it(tmp_path: Path) -> None:
    for i in range(3):
        Image.fromarray(draw(20, 30, i)).save(tmp_path / f"{i}.png")
    with pytest.raises(ValueError, match=r"has no test pictures: add a folder test/ or a list"):
        DataModule(str(tmp_path)).test_dataloader()


def test_a_missing_split_of_shards_is_to_be_exported(equal: Path) -> None:
    remedy = r"has no test pictures: export it from pictures that have a split test$"
    with pytest.raises(ValueError, match=remedy):
        DataModule(str(equal), crop=32).test_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input": "original"}, r"holds latents, not pictures: .* the folder it was exported from"),
        ({"scale": (0.5, 1.5)}, r"can only be cropped: leave out --data\.scale, or train on pict"),
        ({"augment": "strong"}, r"can only be cropped: leave out --data\.augment, or train on pic"),
        ({"resize": 32}, r"give --resize to cdinfer export instead"),
        ({"splits": "blocked"}, r"give --splits to cdinfer export instead"),
        ({"crop": 0}, r"at least 1 pixel, got --data\.crop 0"),
    ],
)
def test_what_shards_cannot_do_is_refused(
    shards: Path, options: dict[str, Any], message: str
) -> None:
    for place in (str(shards), f"file://{shards}"):
        with pytest.raises(ValueError, match=message):
            DataModule(place, **options)


def test_an_interrupted_export_is_not_taken_for_pictures(tmp_path: Path, shards: Path) -> None:
    text = (shards / "index.json").read_text().replace('"complete":true', '"complete":false')
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(ValueError, match="was interrupted: run the same export again"):
        DataModule(str(tmp_path))


def test_a_missing_path_names_the_nearest(tmp_path: Path, scenes: Path) -> None:
    with pytest.raises(ValueError, match=rf"did you mean '{scenes.name}'"):
        DataModule(str(scenes) + "x")


def test_without_a_path_the_sample_set_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path))
    data = DataModule(batch_size=8)
    assert data.root.parent == tmp_path
    assert len(data.classes) > 5
    assert next(iter(data.test_dataloader()))["image"].shape == (8, 3, 64, 64)


def test_the_mosaics_are_the_sample_set_with_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path))
    data = DataModule(batch_size=8, crop=64, sample="seg")
    assert data.root.parent == tmp_path
    assert data.lengths == {"train": 400, "val": 40, "test": 40}
    assert len(data.classes) == len(data.palette) == 7
    assert next(iter(data.train_dataloader()))["mask"].shape == (8, 64, 64)


# Masks


@pytest.fixture(scope="module")
def masked_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 training, 3 validation and 2 test pictures with masks: odd, not square, small."""
    sizes = [(48, 64), (61, 45), (32, 32)]
    root = tmp_path_factory.mktemp("masked") / "scenes"
    return write_voc(root, {"train": 7, "val": 3, "test": 2}, sizes)


@pytest.fixture(scope="module")
def masked_shards(
    masked_scenes: Path, tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "shards"
    export(find_pictures(masked_scenes), folder, tiny_codec, Plan(block=3, per_shard=4))
    return folder


@pytest.fixture(params=["pictures", "shards", "stream"])
def masked_path(
    request: pytest.FixtureRequest,
    masked_scenes: Path,
    masked_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "cache"))
    places = {"pictures": str(masked_scenes), "shards": str(masked_shards)}
    return places.get(request.param, f"file://{masked_shards}")


def test_facts_about_masks_are_known_before_any_batch(masked_path: str, scenes: Path) -> None:
    data = DataModule(masked_path, crop=32)
    assert data.classes == list(CLASSES)
    assert data.palette == [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    assert data.ignore_index == 255
    assert data.masks is not None
    without = DataModule(str(scenes))
    assert (without.masks, without.palette, without.ignore_index) == (None, [], 255)


@pytest.mark.parametrize("reads", ["latents", "decoded"])
def test_training_gives_crops_of_masks(masked_path: str, reads: str) -> None:
    data = DataModule(masked_path, batch_size=7, crop=32, input=reads)
    if reads == "decoded" and data.sharded:
        with pytest.raises(ValueError, match="sizes and input decoded needs one"):
            list(data.train_dataloader())
        return
    (batch,) = data.train_dataloader()
    assert batch["mask"].dtype == torch.uint8
    assert batch["mask"].shape == (7, 32, 32)
    assert batch["label"].tolist() == [-1] * 7
    assert set(batch["mask"].unique().tolist()) <= {0, 1, 2, 255}


def test_whole_masks_are_those_of_the_files(masked_path: str, masked_scenes: Path) -> None:
    data = DataModule(masked_path, batch_size=4, crop=32, whole=True)
    loaders = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in loaders.items():
        masks = [batch["mask"] for batch in loader]
        files = sorted((masked_scenes / "SegmentationClass").glob(f"{split}-*"))
        assert sorted(mask[0].tolist() for mask in masks) == sorted(
            np.array(Image.open(file)).tolist() for file in files
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": (1.5, 0.5)}, r"as --data\.scale \[0\.5,1\.5\], got \[1\.5,0\.5\]$"),
        ({"scale": (0.0, 1.0)}, r"smallest and a largest factor"),
        ({"scale": (1.0, float("inf"))}, r"smallest and a largest factor"),
        ({"scale": (float("nan"), 1.0)}, r"smallest and a largest factor"),
        ({"scale": (0.5, 1.5), "crop": None}, r"--data\.scale gives .* give --data\.crop with it"),
        ({"augment": "strong"}, r"is for classes of whole pictures: for masks give --data\.scale"),
    ],
)
def test_what_pictures_with_masks_cannot_be_trained_with_is_refused(
    masked_scenes: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DataModule(str(masked_scenes), **{"crop": 16, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": "strong"}, r"--data\.augment strong gives .* give --data\.crop with it"),
        ({"augment": "strong", "crop": 16, "scale": (0.5, 1.5)}, r"by itself: drop --data\.scale"),
    ],
)
def test_what_pictures_cannot_be_trained_with_is_refused(
    scenes: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DataModule(str(scenes), **options)


@pytest.mark.parametrize("options", [{"scale": (0.5, 1.5)}, {"augment": "strong"}])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_augmentation_does_not_depend_on_batches_or_workers(
    scenes: Path, options: dict[str, Any]
) -> None:
    once = by_sample(DataModule(str(scenes), batch_size=4, crop=16, **options), epoch=3)
    more = {"batch_size": 3, "workers": 2, **options}
    again = by_sample(DataModule(str(scenes), crop=16, **more), epoch=3)
    assert all(torch.equal(again[i], once[i]) for i in once)
    plain = by_sample(DataModule(str(scenes), crop=16), epoch=3)
    assert any(not torch.equal(plain[i], once[i]) for i in once)
    data = DataModule(str(scenes), crop=16, whole=True, **options)
    assert next(iter(data.val_dataloader()))["image"].shape == (1, 3, 48, 64)


def test_the_name_tells_where_pictures_come_from(scenes: Path, monkeypatch) -> None:
    monkeypatch.chdir(scenes)
    assert DataModule(".").name == f"{scenes.parent.name}/{scenes.name}"
