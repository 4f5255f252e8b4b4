"""``cdinfer export SRC DST``: a labelled set of pictures -> shards of latents."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cdinfer.__main__ import describe
from cdinfer.cli.files import add_codec_flag, add_precision_flag, decibels
from cdinfer.cli.progress import bar


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer export",
        allow_abbrev=False,
        description="Compress a set of pictures into shards of latents that training reads.",
        epilog="example: cdinfer export photos/ shards/ --bpp 0.33 --resize 256",
    )
    parse.add_argument("src", help="folder: class folders, train/ and test/, or lists of pictures "
                       "(splits/train.txt, MINC-2500, RESISC45); list.csv: path,label[,split]; "
                       "webdataset tars: 'train-{000..146}.tar'; torchvision:NAME:ROOT, as "
                       "torchvision:EuroSAT:data/")  # fmt: skip
    parse.add_argument("dst", help="folder for the shards; an interrupted export is continued")
    add_codec_flag(parse)
    parse.add_argument("--bpp", type=float, help="nominal rate of a codec given by name")
    parse.add_argument("--resize", type=int, metavar="N", help="short side to N, aspect kept")
    parse.add_argument("--splits", metavar="NAME", help="use the lists splits/train_NAME.txt ...")
    parse.add_argument("--download", action="store_true", help="let torchvision fetch its data set")
    parse.add_argument("--block", type=int, default=512, help="bitstreams in a block (512); 1: "
                       "one sample a key, for other webdataset readers")  # fmt: skip
    parse.add_argument("--per-shard", type=int, default=8192, help="pictures in a shard (8192)")
    add_precision_flag(parse)
    parse.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to encode")
    parse.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1); each "
                       "makes whole shards, so N changes no byte, and more than there are shards "
                       "(see --per-shard) do not help; the cores are shared")  # fmt: skip
    parse.add_argument("--verify", action="store_true", help="decode each block, and compare, "
                       "before it is written")  # fmt: skip
    parse.add_argument("--min-psnr", type=decibels, metavar="DB", help="list pictures whose "
                       "reconstruction is worse than this")  # fmt: skip
    parse.add_argument("--drop", action="store_true", help="leave them out of the set")
    parse.add_argument("--on-error", choices=("stop", "skip"), default="stop",
                       help="what to do with a picture that cannot be read")  # fmt: skip
    parse.add_argument("--json", action="store_true", help="print one JSON object")
    return parse


def main(argv: list[str]) -> int:
    """Export and return the exit status."""
    args = parser().parse_args(argv)
    for name in ("resize", "block", "per_shard", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"expected --{name.replace('_', '-')} of at least 1, got {value}")
    if args.drop and args.min_psnr is None:
        raise ValueError("--drop leaves out what --min-psnr finds: give --min-psnr 28, say")
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.data.encoding import Plan
    from cdinfer.data.export import export
    from cdinfer.data.sources import find_source

    target = Path(args.dst)
    codec = find_codec(args.codec, args.bpp)
    pictures = find_source(args.src, args.splits, args.download)
    total = sum(map(len, pictures.splits.values()))
    plan = Plan(args.resize, args.block, args.per_shard, args.precision, args.min_psnr, args.drop)
    skip = args.on_error == "skip"
    with bar("encoding", total, args.json) as advance:
        try:
            index = export(
                pictures, target, codec, plan, args.device, skip,
                lambda split, count: advance(count, split),
                args.workers, args.verify,
            )  # fmt: skip
        except OSError as error:
            raise ValueError(
                f"cannot write {describe(error)}; make room or choose another DST: the same "
                "command goes on where this one stopped"
            ) from error
    name_left_out("export", index, pictures.root)
    summary = summarise(index, target)
    print(json.dumps(summary) if args.json else report(summary))
    return 0


def name_left_out(command: str, index: dict[str, Any], root: Path) -> None:
    """Say on stderr which pictures are not in a set, or are below its floor.

    Args:
        command: ``export`` or ``shards``.
        index: of the set, or of what was appended to one.
        root: where the keys of the pictures start from.
    """
    for key, reason in _listed(index, "skipped"):
        print(f"cdinfer {command}: left out {root / key}: {reason}", file=sys.stderr)
    floor = index["floor"]
    verb = "left out" if floor["drop"] else "kept"
    for key, psnr in _listed(index, "below"):
        print(
            f"cdinfer {command}: {verb} {root / key}: {psnr:.2f} dB, below {floor['min_psnr']:g}",
            file=sys.stderr,
        )


def count_left_out(index: dict[str, Any]) -> dict[str, int]:
    """Return how many pictures could not be read, and how many the floor left out."""
    return {
        "skipped": len(_listed(index, "skipped")),
        "dropped": len(_listed(index, "below")) if index["floor"]["drop"] else 0,
    }


def _listed(index: dict[str, Any], field: str) -> list[list[Any]]:
    """Return key and reason of the ``skipped`` pictures, or key and PSNR of those ``below``."""
    return [item for split in index["splits"].values() for shard in split for item in shard[field]]


def summarise(index: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return counts and bytes of a set: before, after, and what each part takes.

    Before and after are the pictures alone; masks, as files and as members of tars, are not in it.
    """
    shards = [shard for split in index["splits"].values() for shard in split]
    before = sum(shard["source_bytes"] for shard in shards)
    payload = sum(shard["payload"] for shard in shards)
    tars = sum(shard["bytes"] + shard["targets_bytes"] for shard in shards)
    masks = sum(shard.get("masks_bytes", 0) for shard in shards)
    after = tars - masks + (folder / "index.json").stat().st_size
    codec = sum(file.stat().st_size for file in (folder / "codec").iterdir())
    return {
        "set": str(folder),
        "pictures": sum(shard["count"] for shard in shards),
        **count_left_out(index),
        "below_floor": _listed(index, "below"),
        "bytes_before": before,
        "bytes_after": after,
        "bytes_masks": masks,
        "bytes_codec": codec,
        "factor": before / after,
        "factor_with_codec": before / (after + codec),
        "overhead": after / payload - 1,
    }


def report(summary: dict[str, Any]) -> str:
    """Return the summary for a person."""
    left_out = summary["skipped"] + summary["dropped"]
    skipped = f" ({left_out} left out)" if left_out else ""
    masks = [f"masks   {summary['bytes_masks']:>13,} bytes"] if summary["bytes_masks"] else []
    return "\n".join(
        [
            f"{summary['pictures']} pictures{skipped} -> {summary['set']}",
            f"before  {summary['bytes_before']:>13,} bytes",
            f"after   {summary['bytes_after']:>13,} bytes  {summary['factor']:.2f}x smaller "
            f"(payload + {100 * summary['overhead']:.2f} %)",
            *masks,
            f"codec/  {summary['bytes_codec']:>13,} bytes  "
            f"{summary['factor_with_codec']:.2f}x smaller with it",
        ]
    )
