import base64
import csv
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

from cdinfer.studies import report

HOSTILE = '<b>&"x"</b>|$_{1}$'
CURVES = {"jpeg": [(0.2, 24.0), (1.0, 32.0)], HOSTILE: [(0.3, 30.0)], "empty": []}


def test_csv_is_read_back_by_the_standard_library(tmp_path: Path) -> None:
    rows = [{"name": 'a,"b"\n', "psnr": 30.5}, {"name": "é", "psnr": None}]
    report.write_csv(tmp_path / "x.csv", rows)
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert read == [{"name": 'a,"b"\n', "psnr": "30.5"}, {"name": "é", "psnr": ""}]
    report.write_csv(tmp_path / "x.csv", [])
    assert (tmp_path / "x.csv").read_text() == "\n"


def test_markdown_takes_no_text_for_markup() -> None:
    columns = [("name", lambda row: row["name"]), ("dB", report.number("psnr", ".2f"))]
    text = report.markdown(
        [{"name": "<b>|`x`&\n", "psnr": 30.456}, {"name": "y", "psnr": None}], columns
    )
    first, second = text.splitlines()[2:]
    assert first == r"| \<b\>\|\`x\`\&  | 30.46 |"
    assert re.split(r" +\| +", second.strip("| ")) == ["y", "-"]


def test_svg_is_xml_that_says_the_names_and_refers_to_nothing_outside() -> None:
    file = report.draw_curves(CURVES, "PSNR, dB", ["jpeg"])
    root = ET.fromstring(file)
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"jpeg", HOSTILE, "PSNR, dB", "0.33"} <= set(texts)
    assert "empty" not in texts
    links = [v for element in root.iter() for k, v in element.attrib.items() if "href" in k]
    assert links
    assert all(link.startswith("#") for link in links)
    assert b"url(http" not in file


def test_svg_is_the_same_each_time() -> None:
    assert report.draw_curves(CURVES, "x", []) == report.draw_curves(CURVES, "x", [])


def test_a_data_url_holds_the_file() -> None:
    url = report.data_url("image/png", b"\x89PNG")
    assert base64.b64decode(url.removeprefix("data:image/png;base64,")) == b"\x89PNG"


class Page(HTMLParser):
    """What a browser sees: elements with attributes, and text."""

    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def urls(self) -> list[str]:
        named = {"src", "href", "srcset", "action", "data", "poster"}
        return [v or "" for _, attrs in self.elements for k, v in attrs.items() if k in named]


def test_every_value_on_a_page_is_escaped(tmp_path: Path) -> None:
    values = {
        "folder": HOSTILE, "pictures": 1, "notes": [HOSTILE], "figures": [], "crop": 224,
        "sections": [{"title": HOSTILE, "head": [HOSTILE], "rows": [[HOSTILE]]}],
        "comparisons": [{"picture": HOSTILE, "num_bytes": 1, "bpp": 1.0, "views": [
            {"codec": HOSTILE, "said": [HOSTILE], "image": 'data:"><script>'}]}],
        "settings": [(HOSTILE, HOSTILE)],
    }  # fmt: skip
    report.write_page(tmp_path / "x.html", "rd.html.jinja", values)
    page = Page((tmp_path / "x.html").read_text("utf-8"))
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1
    assert tags.count("b") == 1
    assert sum(HOSTILE in text for text in page.text) >= 10
    assert page.urls() == ['data:"><script>']
