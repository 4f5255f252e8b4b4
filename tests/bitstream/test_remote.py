import os
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from cdinfer.bitstream.remote import Remote, RemoteError, cache_folder, fetch, keep, locate, shown
from tests.bitstream.servers import Site, serve

#: No waiting in tests.
AT_ONCE = (0.0, 0.0, 0.0)
DATA = bytes(range(256)) * 16


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A server of ``data``, 4096 bytes."""
    (tmp_path / "data").write_bytes(DATA)
    with serve(tmp_path) as site:
        yield site


@pytest.fixture(params=["http", "http without ranges", "file", "pipe", "pipe {}"])
def url(request: pytest.FixtureRequest, site: Site) -> str:
    """Ways to the same folder."""
    site.ranges = request.param == "http"
    return {
        "file": f"file://{site.root}",
        "pipe": f"pipe:cat {site.root}",
        "pipe {}": f"pipe:cat {site.root}/{{}} | cat",
    }.get(request.param, site.url)


def read(url: str, start: int = 0, stop: int = 4096, size: int = 4096) -> bytes:
    remote = Remote(url, size, start, stop, AT_ONCE)
    try:
        return remote.read(stop - start)
    finally:
        remote.close()


def test_bytes_are_those_of_the_file(url: str) -> None:
    place = locate(url, "data")
    assert fetch(place, 4096, AT_ONCE) == DATA
    assert read(place) == DATA
    assert read(place, 1000, 3001) == DATA[1000:3001]


def test_what_lies_between_is_passed_over(url: str) -> None:
    remote = Remote(locate(url, "data"), 4096, 10, 4000, AT_ONCE)
    parts = [remote.read(5)]
    remote.skip_to(2000)
    parts.append(remote.read(1))
    assert remote.at == 2001
    remote.close()
    remote.close()
    assert parts == [DATA[10:15], DATA[2000:2001]]


def test_a_missing_file_is_one_line(url: str, capfd: pytest.CaptureFixture[str]) -> None:
    place = locate(url, "nothing")
    with pytest.raises(ValueError, match=r"^[^\n]*nothing[^\n]*$") as error:
        fetch(place, 4096, AT_ONCE)
    assert "check the" in str(error.value)


def test_another_length_is_named(site: Site) -> None:
    for url in (f"file://{site.root}", site.url):
        with pytest.raises(RemoteError, match=r"data: expected 5000 bytes, got 4096; copy the set"):
            read(locate(url, "data"), 0, 5000, size=5000)
    with pytest.raises(RemoteError, match=r"expected more than 4500 bytes, got 4096; copy the set"):
        read(locate(site.url, "data"), 4500, 5000, size=5000)
    with pytest.raises(RemoteError, match=r"broke off at byte 4096, 4 times in a row \(it ended"):
        read(f"pipe:cat {site.root}/data", 0, 5000, size=5000)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, ranges: bool) -> None:
    site.ranges, site.cuts = ranges, {"data": (1500, 1)}
    assert read(locate(site.url, "data")) == DATA
    assert site.asked == [("data", 0), ("data", 1500 if ranges else 0)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_connection_that_always_breaks_is_named_with_its_byte(site: Site, ranges: bool) -> None:
    site.ranges, site.cuts = ranges, {"data": (1500, 99)}
    place = locate(site.url, "data")
    with pytest.raises(
        ValueError, match=rf"^{place} broke off at byte 1500, 4 times in a row \(.+"
    ):
        read(place)
    assert len(site.asked) == 1 + len(AT_ONCE)


def test_a_server_that_falls_silent_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdinfer.bitstream.remote.TIMEOUT", 0.1)
    site.stalls, site.cuts = True, {"data": (1500, 1)}
    assert read(locate(site.url, "data")) == DATA
    assert site.asked == [("data", 0), ("data", 1500)]
    site.cuts = {"data": (1500, 99)}
    with pytest.raises(ValueError, match=r"broke off at byte 1500, 4 times in a row \(timed out\)"):
        read(locate(site.url, "data"))


def test_a_whole_file_that_broke_is_fetched_again(site: Site) -> None:
    site.cuts = {"data": (1500, 2)}
    assert fetch(locate(site.url, "data"), 4096, AT_ONCE) == DATA
    site.cuts = {"data": (1500, 9)}
    with pytest.raises(ValueError, match=r"broke off at byte 1500, .*only 1500 of 4096 bytes"):
        fetch(locate(site.url, "data"), 4096, AT_ONCE)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(site: Site, status: int) -> None:
    site.errors = {"data": (status, 2)}
    assert read(locate(site.url, "data")) == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(site: Site, status: int) -> None:
    site.errors = {"data": (status, 2)}
    with pytest.raises(RemoteError, match=rf"cannot read .*data: HTTP {status} .*; check the URL"):
        read(locate(site.url, "data"))
    assert len(site.asked) == 1


def test_nobody_listening_is_one_line(site: Site) -> None:
    with pytest.raises(ValueError, match=r"^http://127.0.0.1:9/data broke off at byte 0, 4 times"):
        read("http://127.0.0.1:9/data")


def test_a_failing_command_is_not_a_short_file(site: Site) -> None:
    with pytest.raises(ValueError, match=r"the command ended with status 3\)"):
        fetch(f"pipe:head -c 100 {site.root}/data; exit 3", 4096, AT_ONCE)


def test_a_file_too_large_is_refused_before_it_is_read(site: Site) -> None:
    with pytest.raises(ValueError, match=r"/data is larger than 4095 bytes"):
        fetch(locate(site.url, "data"), 4095, AT_ONCE)
    with pytest.raises(ValueError, match=r"is larger than 4096 bytes"):
        fetch("pipe:yes", 4096, AT_ONCE)


def test_names_are_quoted_where_they_go() -> None:
    assert locate("pipe:cat 'a b'/", "x y") == "pipe:cat 'a b'/'x y'"
    assert locate("https://host/set/?token=1#part", "x y") == "https://host/set/x%20y?token=1"
    assert locate("s3://bucket/set/", "train-00000.tar") == "s3://bucket/set/train-00000.tar"


def test_signatures_are_not_shown() -> None:
    assert shown("https://host/set?signature=secret") == "https://host/set"


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^cannot read gopher://host/data: .*check the URL$"):
        fetch("gopher://host/data", 10, AT_ONCE)


def test_the_server_of_these_tests_cuts(site: Site) -> None:
    site.cuts = {"data": (1500, 1)}
    with urlopen(f"{site.url}/data") as response:
        assert response.headers["Content-Length"] == "4096"
        assert len(response.read(4096)) == 1500


# The cache


def test_the_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDINFER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "cdinfer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "cdinfer"
    monkeypatch.setenv("CDINFER_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_files_appear_whole_and_nothing_else(tmp_path: Path) -> None:
    keep(tmp_path / "a" / "b", b"1")
    keep(tmp_path / "a" / "b", b"23")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]
    assert (tmp_path / "a" / "b").read_bytes() == b"23"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(ValueError, match=r"^cannot write to the cache .*; set CDINFER_CACHE"):
            keep(tmp_path / "a", b"1")
    finally:
        tmp_path.chmod(0o700)


def test_a_cache_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^cannot write to the cache .*; set CDINFER_CACHE"):
        keep(tmp_path / "file" / "a", b"1")
