"""What ``cdinfer study rd`` leaves behind, made from its rows.

OUT/pictures.csv  means.csv  equal_bytes.csv  equal_rates.csv  bd_rate.csv
OUT/rd.md         the same for people
OUT/psnr.svg  ms_ssim.svg
OUT/rd.html       all of it and crops to look at, in one file that asks nothing of the network
OUT/records/      what was measured, for the next time
"""

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies import rd_tables, report
from cdinfer.studies.bd import BD_POINTS, decibel
from cdinfer.studies.rd_crops import CROP, Comparison
from cdinfer.studies.rd_points import Point
from cdinfer.studies.records import Row
from cdinfer.studies.report import Columns, number

TABLES = ("pictures", "means", "equal_bytes", "equal_rates", "bd_rate")

NOTES = (
    "Rates are bytes of whole files, headers included. PSNR, SSIM and MS-SSIM are of 8-bit RGB "
    "(data range 1 on [0, 1]), one number a picture, then the mean over pictures; pictures that "
    "came back exactly have no PSNR. Worst: mean over the worst 5 % of the pictures.",
    "Times: from a float tensor in memory to a file in memory and back, one thread, median over "
    "pictures of one call each.",
    "Between its points a curve is linear in the logarithm of the rate; nothing is read outside "
    f"them. BD-rate: PCHIP, curves of at least {BD_POINTS} points, MS-SSIM in dB.",
)


class Tables(NamedTuple):
    """All rows of the study; see ``rd.run`` and ``rd_tables`` for their fields."""

    pictures: list[Row]
    means: list[Row]
    equal_bytes: list[Row]
    equal_rates: list[Row]
    bd_rate: list[Row]


def tabulate(rows: list[Row], points: Sequence[Point], anchor: str) -> Tables:
    """Return the tables of what ``rd.run`` measured.

    Args:
        rows: of pictures.
        points: what was measured.
        anchor: the curve that BD-rates are relative to.
    """
    means = rd_tables.means(rows)
    ours = list(dict.fromkeys(point.curve for point in points if point.learned))
    return Tables(
        rows,
        means,
        rd_tables.at_equal_bytes(means, ours),
        rd_tables.at_rates(means),
        rd_tables.bd_rates(means, anchor),
    )


def text(tables: Tables) -> str:
    """Return the tables, but for single pictures, as Markdown."""
    parts = [
        f"## {title}\n\n{report.markdown(rows, columns)}"
        for title, rows, columns in _sections(tables)
    ]
    return "\n\n".join([*parts, *NOTES]) + "\n"


def write(
    out: Path,
    tables: Tables,
    points: Sequence[Point],
    comparisons: Sequence[Comparison],
    folder: Path,
) -> None:
    """Write all files of the module's list; each whole or not at all.

    Args:
        out: the folder, made if missing.
        tables: of :func:`tabulate`.
        points: what was measured.
        comparisons: of ``rd_crops.compare``.
        folder: the pictures; only its name is told.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        report.write_csv(out / f"{name}.csv", getattr(tables, name))
    write_atomically(out / "rd.md", text(tables).encode())
    ours = [point.curve for point in points if point.learned]
    psnr = rd_tables.curves(tables.means, "psnr")
    ms_ssim = {
        codec: [(rate, decibel(value)) for rate, value in curve if value < 1]
        for codec, curve in rd_tables.curves(tables.means, "ms_ssim").items()
    }
    figures = {
        "psnr": report.draw_curves(psnr, "PSNR of RGB, dB", ours),
        "ms_ssim": report.draw_curves(ms_ssim, "MS-SSIM of RGB, -10 log10(1 - MS-SSIM), dB", ours),
    }
    for name, figure in figures.items():
        write_atomically(out / f"{name}.svg", figure)
    values: dict[str, Any] = {
        "folder": folder.resolve().name.encode("utf-8", "backslashreplace").decode(),
        "pictures": len({row["picture"] for row in tables.pictures}),
        "notes": NOTES,
        "figures": [report.data_url("image/svg+xml", figure) for figure in figures.values()],
        "sections": [
            {
                "title": title,
                "head": [head for head, _ in columns],
                "rows": report.cells(rows, columns),
            }
            for title, rows, columns in _sections(tables)
        ],
        "crop": CROP,
        "comparisons": [
            comparison._asdict() | {"views": [_view(row) for row in comparison.views]}
            for comparison in comparisons
        ],
        "settings": [
            (f"{point.curve} {point.setting}", json.dumps(point.settings)) for point in points
        ],
    }
    report.write_page(out / "rd.html", "rd.html.jinja", values)


def _sections(tables: Tables) -> list[tuple[str, list[Row], Columns]]:
    """Return title, rows and columns of the tables for people; those without rows are left out."""
    sections: list[tuple[str, list[Row], Columns]] = [
        ("Ours, and the others at our bytes", tables.equal_bytes, EQUAL_BYTES),
        ("Curves read at equal rates: PSNR, dB / MS-SSIM", _wide(tables.equal_rates), RATES),
        ("Bits for the same quality, against the anchor", tables.bd_rate, BD_RATE),
        ("Every setting", tables.means, MEANS),
    ]
    return [section for section in sections if section[1]]


def _wide(equal_rates: Sequence[Row]) -> list[Row]:
    """Return a row a codec of rows a codec and rate."""
    wide: dict[str, Row] = {}
    for row in equal_rates:
        psnr, ms_ssim = number("psnr", ".2f")(row), number("ms_ssim", ".4f")(row)
        both = None if psnr is None else f"{psnr} / {ms_ssim or '-'}"
        wide.setdefault(row["codec"], {"codec": row["codec"]})[f"{row['bpp']:g}"] = both
    return list(wide.values())


def _view(row: Row) -> Row:
    """Return what the page shows of a crop."""
    said = [
        None if row["setting"] is None else str(row["setting"]),
        None if row["bytes"] is None else f"{row['bytes']:,} bytes",
        None if row["psnr"] is None else f"{row['psnr']:.2f} dB",
        None if row["ms_ssim"] is None else f"MS-SSIM {row['ms_ssim']:.4f}",
    ]
    image = None if row["image"] is None else f"data:image/webp;base64,{row['image']}"
    return {"codec": row["codec"], "said": [s for s in said if s is not None], "image": image}


RATES: Columns = [
    ("codec", itemgetter("codec")),
    *((f"{rate:g} bpp", itemgetter(f"{rate:g}")) for rate in rd_tables.RATES),
]

EQUAL_BYTES: Columns = [
    ("codec", lambda row: f"{row['codec']} {row['setting']}"),
    ("bpp", number("bpp", ".4f")),
    ("PSNR", number("psnr", ".2f")),
    ("MS-SSIM", number("ms_ssim", ".4f")),
    ("rival", itemgetter("rival")),
    ("its PSNR", number("rival_psnr", ".2f")),
    ("its MS-SSIM", number("rival_ms_ssim", ".4f")),
    ("dB more", number("psnr_gain", "+.2f")),
    ("MS-SSIM more", number("ms_ssim_gain", "+.4f")),
    ("bytes at equal PSNR", number("bytes_at_psnr", "+.1%")),
    ("at equal MS-SSIM", number("bytes_at_ms_ssim", "+.1%")),
]

BD_RATE: Columns = [
    ("codec", itemgetter("codec")),
    ("anchor", itemgetter("anchor")),
    ("BD-rate, PSNR", number("bd_psnr", "+.1%")),
    ("BD-rate, MS-SSIM", number("bd_ms_ssim", "+.1%")),
]

MEANS: Columns = [
    ("codec", lambda row: f"{row['codec']} {row['setting']}"),
    ("pictures", number("pictures", "d")),
    ("bpp", number("bpp", ".4f")),
    ("worst", number("bpp_worst", ".4f")),
    ("PSNR", number("psnr", ".2f")),
    ("worst", number("psnr_worst", ".2f")),
    ("SSIM", number("ssim", ".4f")),
    ("worst", number("ssim_worst", ".4f")),
    ("MS-SSIM", number("ms_ssim", ".4f")),
    ("worst", number("ms_ssim_worst", ".4f")),
    ("encode, ms", number("encode_ms", ".1f")),
    ("decode, ms", number("decode_ms", ".1f")),
]
