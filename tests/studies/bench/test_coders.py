import numpy as np
import pytest

from cdinfer.bitstream import rans
from cdinfer.studies.bench import coders, peers


def draw_symbols(levels: int, count: int = 3) -> coders.Symbols:
    """Return ``(count, 5, 6, 7)`` symbols of which small ones are likelier."""
    rng = np.random.default_rng(levels)
    return np.minimum(rng.geometric(0.3, (count, 5, 6, 7)) - 1, levels - 1).astype(np.uint8)


@pytest.mark.parametrize("levels", [2, 7, 16, 40])
@pytest.mark.parametrize("name", coders.PEERS)
def test_every_peer_decodes_what_it_encoded(name: str, levels: int) -> None:
    if peers.find(coders.PEERS[name]) is None:
        pytest.skip("not installed")
    symbols = draw_symbols(levels)
    static = coders.fit_static(symbols)
    coder = coders.make_peer(name, static, symbols.shape[1:])
    assert coder is not None
    decoded = np.asarray(coder.decode(coder.encode(symbols)))
    assert decoded.shape == symbols.shape
    assert (decoded == symbols).all()


@pytest.mark.parametrize("name", [n for n in coders.PEERS if not n.startswith("zstd")])
def test_peers_with_our_tables_need_what_the_tables_say(name: str) -> None:
    if peers.find(coders.PEERS[name]) is None:
        pytest.skip("not installed")
    symbols = np.tile(draw_symbols(7, 1), (1, 1, 8, 8))
    static = coders.fit_static(symbols)
    coder = coders.make_peer(name, static, symbols.shape[1:])
    assert coder is not None
    (payload,) = coder.encode(symbols)
    ideal = float(rans.ideal_bits(symbols, static)[0] / 8)
    assert ideal < len(bytes(payload)) < 1.01 * ideal + 8


def test_static_tables_fit_the_symbols_they_were_counted_on() -> None:
    symbols = draw_symbols(7, 20)
    other = coders.fit_static(draw_symbols(7, 20)[:, ::-1])
    static = coders.fit_static(symbols)
    assert rans.ideal_bits(symbols, static).sum() <= rans.ideal_bits(symbols, other).sum()


def test_a_missing_peer_has_no_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find", lambda module: None)
    assert coders.make_peer("CompressAI", coders.fit_static(draw_symbols(3)), (5, 6, 7)) is None


def test_a_module_that_does_not_load_counts_as_missing() -> None:
    assert peers.find("cdinfer_has_no_such_peer") is None
