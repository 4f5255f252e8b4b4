"""``cdinfer demo``: the whole story on pictures that come with the package, in minutes.

    pictures --codec--> shards -> a network on latents, one on originals -> table and picture

Each step runs the command it shows. A finished step is kept and found again, so an interrupted
demo goes on where it was, and a second one only measures.

    OUT/latents/, originals/            runs, as ``cdinfer train`` leaves them
    OUT/data/shards/, data/cdi/         the set ``cdinfer export`` writes, and its .cdi files
    OUT/table.md, picture.png           what was found
    OUT/demo.json                       the same for programs, and what ``--json`` prints:
                                        the fields of ``cdinfer.studies.demo.run``; ``steps``,
                                        name -> ``seconds, kept``; ``files``
"""

import argparse
import contextlib
import functools
import io
import json
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cdinfer.studies.demo import Places

Say = Callable[[str], None]


class Budget(NamedTuple):
    """How much is trained, and on what.

    Attributes:
        network_steps: of either network, 32 pictures each, rounded to whole epochs.
        pictures: ``{train,val,test}/CLASS/NAME.png``, grey, 64 x 64; the sample set by default.
    """

    network_steps: int = 720
    pictures: Path | None = None


class Step(NamedTuple):
    """One command of the story.

    Attributes:
        title: what it is good for.
        folder: what it fills.
        command: the words after ``cdinfer``.
        reads: files and folders that, with the command, determine the result.
    """

    title: str
    folder: Path
    command: list[str]
    reads: list[Path]


def parser() -> argparse.ArgumentParser:
    """Return the parser."""
    parse = argparse.ArgumentParser(
        "cdinfer demo",
        allow_abbrev=False,
        description="Store pictures that come with the package as bitstreams, train two small "
        "networks, on bits and on pictures, and compare: about two minutes on two cores. "
        "Interrupted, it goes on.",
        epilog="example: cdinfer demo",
    )
    parse.add_argument("--out", default="runs/demo", help="folder (default: runs/demo)")
    parse.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    return parse


def main(argv: list[str]) -> int:
    """Run the demo and return the exit status."""
    args = parser().parse_args(argv)

    def say(text: str) -> None:
        if not args.json:
            print(text, flush=True)

    say("Store pictures as small bitstreams, once; then tell what is on them from the bits.\n")
    result = tell(Path(args.out), say)
    if args.json:
        print(json.dumps(result))
    return 0


def tell(out: Path, say: Say, budget: Budget | None = None) -> dict[str, Any]:
    """Run all steps, ``say`` what they do, and return what ``--json`` prints.

    Raises:
        ValueError: if ``out`` holds something that is in the way.
    """
    from cdinfer.data.images import find_images
    from cdinfer.data.sample import sample_set
    from cdinfer.studies import demo, demo_picture, demo_steps
    from cdinfer.studies.demo_table import tables

    start = time.perf_counter()
    budget = Budget() if budget is None else budget
    pictures = sample_set() if budget.pictures is None else budget.pictures
    places = demo.Places(
        pictures=pictures,
        shards=out / "data" / "shards",
        files=out / "data" / "cdi",
        latents=out / "latents",
        originals=out / "originals",
    )
    names = ", ".join(sorted(path.name for path in (pictures / "test").iterdir()))
    say(f"1/5  Pictures: {len(find_images(pictures)):,} small grey ones of {names}.")
    say(f"     They come with the package and lie in {pictures}")
    done = {}
    for number, step in enumerate(plan(places, budget), 2):
        say(f"\n{number}/5  {step.title}\n{show(step.command)}")
        key = demo_steps.make_key(step.command, *step.reads)
        finished = demo_steps.once(step.folder, key, functools.partial(_work, step, places))
        done[step.folder.name] = finished._asdict()
        kept = "kept from an earlier run, which took" if finished.kept else "done in"
        say(f"     {kept} {finished.seconds:.0f} s")
    say("\n5/5  Measure: classify every test picture from its file on disk, and weigh the files.\n")
    result = demo.run(places)
    table, picture = out / "table.md", out / "picture.png"
    table.write_text(f"{tables(result)}\n", "utf-8")
    demo_picture.draw(places, picture)
    result |= {"steps": done, "files": {"table": str(table), "picture": str(picture)}}
    (out / "demo.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    say(f"{tables(result)}\n\nThe table is in {table}. Now look at {picture}")
    say(f"\n{time.perf_counter() - start:.0f} s in all. What to type next:\n{suggestions(places)}")
    return result


def plan(places: "Places", budget: Budget) -> list[Step]:
    """Return the steps between pictures and measuring."""
    from cdinfer.codecs.zoo import find_codec
    from cdinfer.data.images import find_images

    pictures = [] if budget.pictures is None else ["--data", str(budget.pictures)]
    export = ["export", str(places.pictures), str(places.shards), "--bpp", "0.33"]
    recipe = ["--data.crop", "48"]
    batches = len(find_images(places.pictures / "train")) / 32
    recipe += ["--trainer.max_epochs", str(max(1, round(budget.network_steps / batches)))]
    latents = ["train", "--task", "cls", "--data", str(places.shards)]
    latents += ["--model.net.width", "0.25", *recipe]
    originals = ["train", "--task", "cls", *pictures, "--model.input", "original"]
    originals += ["--model.pixel_net.width", "0.21", "--data.memory", "64", *recipe]
    return [
        Step(
            "Compress all pictures, once. From here on nobody needs the pixels.",
            places.shards.parent,
            export,
            [places.pictures, find_codec("cae", 0.33)],
        ),
        Step(
            "Train a network on the latents inside the bitstreams; nothing is decoded to pixels.",
            places.latents,
            [*latents, *_save_to(places.latents)],
            [places.shards],
        ),
        Step(
            "Train a network of like cost on the original pictures, to compare.",
            places.originals,
            [*originals, *_save_to(places.originals)],
            [places.pictures],
        ),
    ]


def show(command: list[str]) -> str:
    """Return a command as a person may type it, on lines of moderate length."""
    first, *options = shlex.join(["cdinfer", *command]).replace(" --", "\n--").split("\n")
    lines = [f"     $ {first}"]
    for option in options:
        if len(lines[-1]) + len(option) > 94:
            lines[-1] += " \\"
            lines.append("      ")
        lines[-1] += f" {option}"
    return "\n".join(lines)


def suggestions(places: "Places") -> str:
    """Return commands that go on from here."""
    test = places.files / "test"
    first = min(test.rglob("*.cdi"))
    told = [
        ("labels from bits", f"predict {places.latents} {test}"),
        ("what it confuses", f"eval {places.latents}"),
        ("look at a bitstream", f"decode {first} -o {first.stem}.png"),
        ("your own pictures", "export PHOTOS SHARDS --bpp 0.33"),
        ("your own codec", "train --task codec --bpp 0.33 --data FOLDER_OF_PHOTOS"),
    ]
    return "\n".join(f"  {why:<20} cdinfer {command}" for why, command in told)


def _save_to(folder: Path) -> list[str]:
    logger = "--trainer.logger"
    return [f"{logger}.save_dir", str(folder.parent), f"{logger}.name", folder.name]


def _work(step: Step, places: "Places") -> None:
    if step.command[0] == "export":
        _export(step.command, places)
    else:
        _train(step)


def _train(step: Step) -> None:
    """Run ``cdinfer train`` with a progress bar of our own."""
    from cdinfer.cli import lightning, train

    bar = {"class_path": "cdinfer.studies.demo_bar.DemoBar"}
    best = {"filename": "best", "monitor": "val/top1", "mode": "max"}
    keep = {"class_path": "SaveBest", "init_args": best}
    args = ["fit", *train.expand(step.command[1:]), "--trainer.enable_model_summary", "false"]
    args += ["--trainer.enable_progress_bar", "false"]
    args += [f"--trainer.callbacks={json.dumps([keep, bar])}"]
    lightning.run(args, quiet=True)


def _export(command: list[str], places: "Places") -> None:
    """Run ``cdinfer export``, then copy each picture's file out of the shards."""
    from cdinfer.cli import export
    from cdinfer.data.shards import ShardDataset

    with contextlib.redirect_stdout(io.StringIO()):
        export.main([*command[1:], "--json"])
    for split in ("train", "val", "test"):
        data = ShardDataset(places.shards, split, None)
        for index, key in enumerate(data.keys()):
            path = places.files / Path(key).with_suffix(".cdi")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data.file(index))
