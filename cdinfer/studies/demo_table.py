"""The demo's rows as Markdown, for the terminal and for ``table.md``."""

from collections.abc import Sequence
from typing import Any


def tables(result: dict[str, Any]) -> str:
    """Return both tables and what to keep in mind about them; ``result`` is of ``demo.run``."""
    size = f"{result['height']} x {result['width']}"
    storage = result["storage"]
    largest = max(row["bytes"] for row in storage)
    first = [
        [
            row["stored_as"],
            f"{row['bytes']:,.0f}",
            f"{row['bpp']:.3f}",
            "exact" if row["psnr"] is None else f"{row['psnr']:.1f}",
            f"{largest / row['bytes']:.1f}x",
        ]
        for row in storage
    ]
    second = [
        [
            row["network"],
            row["reads"],
            f"{100 * row['top1']:.1f} %",
            f"{row['macs'] / 1e6:.1f}",
            f"{row['per_second']:,}",
        ]
        for row in result["networks"]
    ]
    crop = result["networks"][0]["crop"]
    chance = 100 / len(result["classes"])
    return "\n".join(
        [
            f"Bytes a picture, mean of {result['pictures']:,} of {size} pixels:",
            "",
            table(["stored as", "bytes", "bits/pixel", "PSNR, dB", "smaller"], first),
            "",
            notes(result),
            "",
            f"Networks, on {result['test_pictures']} test pictures, of which both see the "
            f"centre of {crop} x {crop} (chance: {chance:.1f} %):",
            "",
            table(["network", "reads", "top-1", "MMAC", "pictures/s"], second),
            "",
            "MMAC: million multiply-accumulates a picture. Storing it costs the encoder's "
            f"{result['encoder_macs'] / 1e6:.1f}, once;\nlooking at it the decoder's "
            f"{result['decoder_macs'] / 1e6:.1f}.",
            f"Pictures/s: from files on disk to classes, {result['threads']} thread(s).",
        ]
    )


def notes(result: dict[str, Any]) -> str:
    """Say what small pictures do to the figures."""
    rows = {row["stored_as"]: row["bytes"] for row in result["storage"]}
    header = rows[".cdi files"] - rows[".cdi without headers"]
    pixels = result["height"] * result["width"]
    share = header / rows[".cdi files"]
    large = header / (256 * 256 * rows[".cdi files"] / pixels)
    return (
        f"PSNR: on the test pictures. At this size the {header:.0f} bytes of header are "
        f"{100 * share:.0f} % of a .cdi file;\nat 256 x 256 pixels they would be "
        f"{100 * large:.1f} %. Shards store what files share once, and their\ncodec, too: "
        f"{result['codec_bytes']:,} bytes a set, not counted above."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up; the first is left-aligned.

    Example:
        >>> print(table(["name", "bytes"], [["a.png", "12"]]))
        | name  | bytes |
        |:------|------:|
        | a.png |    12 |
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = [":" + "-" * (widths[0] + 1), *("-" * (width + 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in [head, *rows]
    ]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "|".join(rule) + "|", *text[1:]])
