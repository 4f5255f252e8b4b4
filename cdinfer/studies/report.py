"""Rows -> CSV, Markdown, SVG curves and a page of one file; whatever the study."""

import base64
import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdinfer.bitstream.atomic import write_atomically
from cdinfer.studies.bd import Curve
from cdinfer.studies.demo_table import table
from cdinfer.studies.records import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Of each column its title, and the text of a row in it; ``None`` is shown as a dash.
Columns = Sequence[tuple[str, Callable[[Row], str | None]]]

#: A point of a picture: name, cost, quality, and whether nothing beats it.
Point = tuple[str, float, float, bool]

#: Characters that Markdown or HTML inside it would take for their own.
SPECIAL = str.maketrans({c: f"\\{c}" for c in "\\`*[]<>|&"} | {"\n": " "})


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of the same fields, with a head; null is an empty cell."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def cells(rows: Sequence[Row], columns: Columns) -> list[list[str]]:
    """Return the texts of a table, row by row."""
    return [[show(row) or "-" for _, show in columns] for row in rows]


def markdown(rows: Sequence[Row], columns: Columns) -> str:
    r"""Return a Markdown table in which no text is taken for markup.

    Example:
        >>> print(markdown([{"name": "<b>"}], [("name", lambda row: row["name"])]))
        | name  |
        |:------|
        | \<b\> |
    """
    texts = [[text.translate(SPECIAL) for text in row] for row in cells(rows, columns)]
    return table([title for title, _ in columns], texts)


def number(field: str, form: str) -> Callable[[Row], str | None]:
    """Return a column that shows a field, as in ``number("psnr", ".2f")``.

    Example:
        >>> number("gain", "+.1%")({"gain": -0.25})
        '-25.0%'
    """
    return lambda row: None if row[field] is None else format(row[field], form)


def draw_curves(curves: Mapping[str, Curve], ylabel: str, bold: Sequence[str]) -> bytes:
    """Return curves over bits per pixel (logarithmic) as an SVG file.

    Args:
        curves: name -> points ``(bpp, quality)``; empty ones are left out.
        ylabel: what the quality is, with its unit.
        bold: names of the curves to stand out.
    """

    def plot(axes: "Axes") -> None:
        for name, curve in curves.items():
            if curve:
                x, y = zip(*sorted(curve), strict=True)
                width = 2.4 if name in bold else 1.1
                axes.plot(x, y, marker="o", markersize=4, linewidth=width, label=name.lstrip("_"))
        axes.set_xscale("log")
        ticks = (0.05, 0.1, 0.2, 0.33, 0.5, 1, 2, 4)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("bits per pixel, whole files, mean over pictures")
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.3)
        if any(curves.values()):
            axes.legend()

    return _draw(plot)


def draw_front(points: Sequence[Point], xlabel: str, ylabel: str) -> bytes:
    """Return named points over a cost (logarithmic) as an SVG file; a line joins the best ones.

    Args:
        points: name, cost, quality, and whether nothing beats it.
        xlabel: what the cost is, with its unit.
        ylabel: what the quality is, with its unit.
    """
    from matplotlib.ticker import LogLocator

    def plot(axes: "Axes") -> None:
        best = sorted((cost, quality) for _, cost, quality, on_front in points if on_front)
        axes.plot(*zip(*best, strict=True), linewidth=1.1)
        for name, cost, quality, on_front in points:
            axes.plot(cost, quality, "o", markersize=5, color="C0" if on_front else "0.6")
            axes.annotate(
                name, (cost, quality), xytext=(4, 4), textcoords="offset points", fontsize=7
            )
        axes.set_xscale("log", subs=())
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda cost, _: f"{cost:,g}")
        axes.margins(x=0.2)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.grid(alpha=0.3)

    return _draw(plot)


def _draw(plot: "Callable[[Axes], None]") -> bytes:
    """Return what ``plot`` does to axes as an SVG file, the same bytes for the same picture."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context(
        {"svg.hashsalt": "cdinfer", "svg.fonttype": "none", "text.parse_math": False}
    ):
        figure = Figure(figsize=(7.5, 5), layout="constrained")
        FigureCanvasSVG(figure)
        plot(figure.subplots())
        file = io.BytesIO()
        none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=none)
    return file.getvalue()


def data_url(kind: str, data: bytes) -> str:
    """Return a URL that holds a file of a MIME type itself.

    Example:
        >>> data_url("image/png", b"123")
        'data:image/png;base64,MTIz'
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def write_page(path: Path, template: str, values: dict[str, Any]) -> None:
    """Write a page from a template beside this file; every value is escaped in it."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    pages = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    write_atomically(path, pages.get_template(template).render(values).encode())
