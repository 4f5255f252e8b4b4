"""``cdinfer COMMAND``: find the command, import its module, run it.

Standard library alone, so that ``cdinfer --help`` answers at once.
"""

import io
import os
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module

#: Command -> (module with ``main(argv) -> int``, one line of help).
COMMANDS = {
    "demo": ("demo", "the whole story on pictures that come with the package, in minutes"),
    "train": ("train", "train a codec or a network: --task {codec,cls} [--bpp R] [--data PATH]"),
    "encode": ("encode", "pictures -> .cdi files"),
    "decode": ("decode", ".cdi files -> pictures"),
    "info": ("info", "what a .cdi file says about itself"),
    "export": ("export", "a labelled set of pictures -> shards of latents"),
    "shards": ("shards", "verify, relabel, delete, append or merge shards"),
    "eval": ("evaluate", "metrics of a trained run on its test pictures"),
    "predict": ("predict", ".cdi files, folders, shards or pictures -> classes or masks"),
    "study": ("study", "codecs compared on pictures: bytes against quality, as a page (study rd)"),
    "bench": ("bench", "speed and size against the peers, as ratios in one run"),
    "fit": ("lightning", "train from a YAML file (LightningCLI)"),
    "validate": ("lightning", "validate from a YAML file (LightningCLI)"),
    "test": ("lightning", "test from a YAML file (LightningCLI)"),
}


def usage() -> str:
    """Return the text of ``cdinfer --help``."""
    lines = [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cdinfer COMMAND ...",
            "",
            "Compress images once; classify straight from the bits.",
            "",
            *lines,
            "",
            "cdinfer COMMAND --help tells more.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    0; 1 if some of the files given failed; 2 for a mistake; 130 when interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    who = f"cdinfer {args[0]}" if args and args[0] in COMMANDS else "cdinfer"
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not be valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print(f"{who}: interrupted", file=sys.stderr)  # noqa: T201
        status = 130
    except BrokenPipeError:  # the reader of stdout has gone, as in `cdinfer info * | head`
        status = 141
    except (ValueError, OSError, MemoryError) as error:
        print(f"{who}: {describe(error)}", file=sys.stderr)  # noqa: T201
        status = 2
    try:
        sys.stdout.flush()
    except OSError:  # Python would try again at exit, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage())  # noqa: T201
        return 0
    if args[0] == "--version":
        from cdinfer import __version__

        print(f"cdinfer {__version__}")  # noqa: T201
        return 0
    name = args[0]
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    module = import_module(f"cdinfer.cli.{COMMANDS[name][0]}")
    return int(module.main(args if COMMANDS[name][0] == "lightning" else args[1:]))


def unknown(kind: str, word: str, known: Iterable[str]) -> ValueError:
    """Return the error for a word that is not among the known ones, with the nearest of them.

    Example:
        >>> unknown("bench", "lodaing", ["entropy", "loading"])
        ValueError("unknown bench 'lodaing'; did you mean 'loading'?")
    """
    import difflib

    close = difflib.get_close_matches(word, list(known), 1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"
    return ValueError(f"unknown {kind} '{word}'; {hint}")


def describe(error: Exception) -> str:
    """Return one line for a mistake of the user's or of the disk's."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return " ".join(str(error).split()) or "not enough memory for this"


if __name__ == "__main__":
    sys.exit(main())
