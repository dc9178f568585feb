"""The C kernels: every instruction set of this CPU against float64, others under emulation, all under the sanitizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import UnsupportedError, UsageError
from edge.runtimes import kernels
from edge.runtimes.kernels.binding import ABI, Kernels, MLAShape, Pool

HERE = Path(__file__).parent
ISAS = ("portable", "avx2", "avx512vnni", "amx", "neon", "dotprod")


@pytest.fixture(scope="module")
def library() -> Kernels:
    return kernels.load()


@pytest.fixture(scope="module")
def pool(library: Kernels) -> Iterator[Pool]:
    with library.pool(2) as threads:
        yield threads


@pytest.fixture(scope="module", params=ISAS)
def isa(request: pytest.FixtureRequest, library: Kernels) -> Iterator[Kernels]:
    try:
        library.use(request.param)
    except UsageError:
        pytest.skip(f"this CPU has no {request.param}")
    assert library.isa == request.param
    yield library
    library.use(None)


def dense(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return q * np.repeat(scales.astype(np.float64), 32, 1)[:, : q.shape[1]]


def rounded(x: np.ndarray) -> np.ndarray:
    """Activations as a product sees them: int8 in groups of 32, each with the scale that its widest value needs."""
    tokens, columns = x.shape
    groups = np.zeros((tokens, -(-columns // 32), 32), np.float32)
    groups.reshape(tokens, -1)[:, :columns] = x
    scale = np.abs(groups).max(2, keepdims=True) / np.float32(127)
    inverse = np.float32(1) / np.where(scale > 0, scale, np.float32(1))
    whole: np.ndarray = (np.rint(groups * inverse) * scale.astype(np.float64)).reshape(tokens, -1)[:, :columns]
    return whole


def draw(random: np.random.Generator, tokens: int, columns: int) -> np.ndarray:
    """Normal inputs [tokens, columns], none of them on an edge between two int8 steps: which side such a one falls on is up to how
    an instruction set multiplies and adds, and a step is more than what is tolerated."""
    groups = np.zeros((tokens, -(-columns // 32), 32), np.float32)
    groups.reshape(tokens, -1)[:, :columns] = random.standard_normal((tokens, columns))
    step = np.abs(groups).max(2, keepdims=True) / 127
    place = np.abs(groups.astype(np.float64)) / np.where(step > 0, step, 1)
    groups = np.where(np.abs(place % 1 - 0.5) < 1e-3, groups + np.float32(0.01) * step, groups)
    return groups.reshape(tokens, -1)[:, :columns].astype(np.float32)


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 5e-6) -> None:
    assert np.abs(found - expected).max() <= tolerance * max(1e-30, float(np.abs(expected).max()))


bits = st.sampled_from([4, 8])
seeds = st.integers(0, 2**32 - 1)
tokens = st.sampled_from([1, 2, 3, 4, 7, 8, 9, 33, 65, 130])


@settings(max_examples=40, deadline=None)
@given(
    bits=bits, rows=st.integers(1, 90), columns=st.integers(1, 220), count=tokens, blocks=st.integers(1, 3), seed=seeds
)
def test_products(
    pool: Pool, isa: Kernels, bits: int, rows: int, columns: int, count: int, blocks: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    plain = [isa.quantize(bits, random.standard_normal((rows, columns))) for _ in range(blocks)]
    packed = np.concatenate([isa.pack_tiled(bits, *each) for each in plain])
    x = draw(random, count * blocks, columns).reshape(count, blocks, columns)
    found = isa.matmul(bits, rows, packed, x, pool, blocks)
    for block, each in enumerate(plain):
        close(found[:, block], rounded(x[:, block]) @ dense(*each).T)
        alone = isa.matmul(bits, rows, isa.pack_tiled(bits, *each), x[:, block])
        np.testing.assert_array_equal(alone, found[:, block])  # threads and neighbours change nothing


@settings(max_examples=40, deadline=None)
@given(
    bits=bits, width=st.integers(1, 300), hidden=st.integers(1, 300), count=tokens, zeros=st.sampled_from([0, 0.5, 0.9, 1]), seed=seeds
)  # fmt: skip
def test_what_is_zero_is_left_out_and_the_sum_is_the_same(
    pool: Pool, isa: Kernels, bits: int, width: int, hidden: int, count: int, zeros: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    q, scales = isa.quantize(bits, random.standard_normal((hidden, width)))
    packed = isa.pack_neurons(bits, q, scales)
    activations = np.where(random.random((count, hidden)) < zeros, 0, random.random((count, hidden)) ** 4 * 100)
    activations = activations.astype(np.float32)
    found, live = isa.sparse_down(bits, width, packed, activations, pool)
    assert live == np.count_nonzero(activations)
    close(found, activations.astype(np.float64) @ dense(q, scales), 2e-6)


@settings(max_examples=20, deadline=None)
@given(bits=bits, width=st.integers(1, 200), hidden=st.integers(1, 200), count=tokens, seed=seeds)
def test_the_whole_mlp(pool: Pool, isa: Kernels, bits: int, width: int, hidden: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    up = isa.quantize(bits, random.standard_normal((hidden, width)))
    down = isa.quantize(bits, random.standard_normal((hidden, width)))
    x = draw(random, count, width)
    found, live = isa.relu2_mlp(bits, hidden, isa.pack_tiled(bits, *up), isa.pack_neurons(bits, *down), x, pool)
    middle = np.maximum(rounded(x) @ dense(*up).T, 0) ** 2
    assert abs(live - np.count_nonzero(middle)) <= 1 + middle.size // 1000  # a sum of zero may round to either side
    close(found, middle @ dense(*down), 2e-5)


@settings(max_examples=40, deadline=None)
@given(
    width=st.sampled_from([1, 31, 64, 200, 513, 1100]), hidden=st.integers(1, 200), count=st.sampled_from([1, 1, 1, 2, 9, 70]),
    margin=st.sampled_from([np.inf, 2.0, 0.5, 0.0, -0.5]), seed=seeds,
)  # fmt: skip
def test_an_up_half_in_planes_is_exact_for_what_it_keeps(
    pool: Pool, isa: Kernels, width: int, hidden: int, count: int, margin: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    q, scales = isa.quantize(4, random.standard_normal((hidden, width)))
    down = isa.quantize(4, random.standard_normal((hidden, width)))
    x = draw(random, count, width)
    reach = (margin * np.sqrt(1.25 * (scales.astype(np.float64) ** 2).mean(1))).astype(np.float32)
    coarse, fine = isa.pack_planes(q, scales, reach)
    for back, given_ in zip(isa.unpack_planes(hidden, width, coarse, fine), (q, scales, reach), strict=True):
        np.testing.assert_array_equal(back, given_)
    found, live, read = isa.relu2_mlp_skip(hidden, coarse, fine, isa.pack_neurons(4, *down), x, pool)
    value = rounded(x) @ dense(q, scales).T
    if count > 1:  # nothing is left out
        assert read == count * hidden
        close(found, np.maximum(value, 0) ** 2 @ dense(*down), 2e-5)
        return
    edge = -reach * np.linalg.norm(x)
    estimate = rounded(x) @ dense((q >> 2) * 4 + 1.5, scales).T
    slack = 1e-5 * np.abs(value).max()
    sure, perhaps = estimate[0] >= edge + slack, estimate[0] >= edge - slack
    assert sure.sum() <= read <= perhaps.sum() and live <= read
    if (sure == perhaps).all():
        close(found, np.where(sure, np.maximum(value, 0) ** 2, 0) @ dense(*down), 2e-5)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 2500), columns=st.integers(1, 150), count=st.sampled_from([1, 1, 3]), seed=seeds)
def test_a_head_is_finer_where_it_matters(
    pool: Pool, isa: Kernels, rows: int, columns: int, count: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rows, columns)).astype(np.float32)
    first = isa.quantize(4, weights)
    second = isa.quantize(4, weights - dense(*first))
    assert ((dense(*first) + dense(*second) - weights) ** 2).mean() < 0.015**2  # some 8 bits of a deviation of 1
    x = draw(random, count, columns) * 3
    found = isa.head(rows, isa.pack_tiled(4, *first), isa.pack_tiled(4, *second), x, pool)
    coarse = rounded(x) @ dense(*first).T
    whole = coarse + rounded(x) @ dense(*second).T
    fine = np.abs(found - whole) <= 5e-6 * np.abs(whole).max()
    assert (fine | (np.abs(found - coarse) <= 5e-6 * np.abs(whole).max())).all()
    if count > 1:
        assert fine.all()
        return
    refined = np.unique(np.flatnonzero(fine[0]) // 16)
    assert coarse[0].argmax() // 16 in refined
    near = coarse[0] > coarse[0].max() - 10.9
    assert rows > 256 or fine[0, near].all()  # so few are all refined, if within reach


def attention(latent: int, rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Float64: rows [n, row], query [heads, row] to [heads, latent]."""
    scores = query.astype(np.float64) @ rows.astype(np.float64).T
    chances = np.exp(scores - scores.max(1, keepdims=True))
    mixed: np.ndarray = chances / chances.sum(1, keepdims=True) @ rows[:, :latent].astype(np.float64)
    return mixed


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 20), latent=st.integers(1, 70), rope=st.sampled_from([0, 2, 8]), position=st.integers(0, 400),
    count=st.sampled_from([1, 1, 2, 5, 40]), sharp=st.sampled_from([0.1, 1, 20]), seed=seeds,
)  # fmt: skip
def test_attention(
    pool: Pool, isa: Kernels, heads: int, latent: int, rope: int, position: int, count: int, sharp: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    cache = random.standard_normal((position + 3, latent + rope)).astype(np.float16)
    cache[position:] = np.nan  # beyond the position nothing is read
    own = random.standard_normal((count, latent + rope)).astype(np.float16)
    query = (sharp * random.standard_normal((count, heads, latent + rope))).astype(np.float32)
    found = isa.mla(latent, position, cache, own, query, pool)
    for token in range(count):
        close(found[token], attention(latent, np.concatenate((cache[:position], own[: token + 1])), query[token]), 5e-5)


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("width", [4, 8])
def test_a_layer_of_attention(pool: Pool, isa: Kernels, width: int, count: int) -> None:
    random = np.random.default_rng(3)
    shape = MLAShape(heads=5, nope=48, rope=8, value=40, latent=64)
    keys = [isa.quantize(width, random.standard_normal((64, 48)) / 7) for _ in range(5)]
    values = [isa.quantize(width, random.standard_normal((40, 64)) / 8) for _ in range(5)]
    projected = random.standard_normal((count, 5 * 56 + 72)).astype(np.float32)
    angles = random.random((count, 4))
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    cache = random.standard_normal((90, 72)).astype(np.float16)
    packed = [np.concatenate([isa.pack_tiled(width, *each) for each in every]) for every in (keys, values)]
    found, own = isa.mla_layer(shape, width, *packed, projected, (cos, sin), 1e-6, 70, cache, pool)

    plain, even, odd, latent, key_even, key_odd = np.split(projected.astype(np.float64), [240, 260, 280, 344, 348], 1)
    latent /= np.sqrt((latent**2).mean(1, keepdims=True) + 1e-6)
    rows = np.concatenate((latent, key_even * cos - key_odd * sin, key_odd * cos + key_even * sin), 1)
    np.testing.assert_allclose(own, rows, rtol=1e-3, atol=1e-6)
    for token in range(count):
        c, s = cos[token], sin[token]
        e, o = even[token].reshape(5, 4), odd[token].reshape(5, 4)
        absorbed = [
            rounded(plain[token : token + 1, 48 * head : 48 * head + 48].astype(np.float32)) @ dense(*keys[head]).T
            for head in range(5)
        ]
        query = np.concatenate((np.concatenate(absorbed), e * c - o * s, o * c + e * s), 1)
        mixed = attention(64, np.concatenate((cache[:70], own[: token + 1])), query).astype(np.float32)
        expected = np.concatenate([rounded(mixed[head : head + 1]) @ dense(*values[head]).T for head in range(5)], 1)[0]
        close(found[token], expected, 2e-2)  # a value between two steps may go to either


def test_not_a_number_stays_one(isa: Kernels, pool: Pool) -> None:
    random = np.random.default_rng(0)
    q, scales = isa.quantize(4, random.standard_normal((64, 64)))
    tiled, neurons = isa.pack_tiled(4, q, scales), isa.pack_neurons(4, q, scales)
    for poison in (np.nan, np.inf):
        for count in (1, 9):
            x = draw(random, count, 64)
            x[0, 40] = poison
            assert np.isnan(isa.matmul(4, 64, tiled, x, pool)[0]).all()
            assert np.isnan(isa.head(64, tiled, tiled, x, pool)[0]).all()
            y, _ = isa.relu2_mlp(4, 64, tiled, neurons, x, pool)
            assert np.isnan(y[0]).all() and np.isfinite(y[1:]).all()
            planes = isa.pack_planes(q, scales, np.zeros(64, np.float32))
            y, *_ = isa.relu2_mlp_skip(64, *planes, neurons, x, pool)
            assert np.isnan(y[0]).all() and np.isfinite(y[1:]).all()
            down, _ = isa.sparse_down(4, 64, neurons, x, pool)
            assert not np.isfinite(down[0]).any() and np.isfinite(down[1:]).all()
    own = random.standard_normal((1, 64)).astype(np.float16)
    query = np.full((1, 2, 64), np.nan, np.float32)
    assert np.isnan(isa.mla(64, 0, own, own, query)).all()


@settings(max_examples=30, deadline=None)
@given(bits=bits, rows=st.integers(1, 50), columns=st.integers(1, 150), seed=seeds)
def test_packing_loses_nothing(library: Kernels, bits: int, rows: int, columns: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    least = -8 if bits == 4 else -127
    q = random.integers(least, -least if bits == 8 else 8, (rows, columns)).astype(np.int8)
    scales = random.random((rows, -(-columns // 32))).astype(np.float16)
    for form in ("tiled", "neurons"):
        packed = getattr(library, f"pack_{form}")(bits, q, scales)
        back, same = getattr(library, f"unpack_{form}")(bits, rows, columns, packed)
        np.testing.assert_array_equal(back, q)
        np.testing.assert_array_equal(same, scales)
    ids = random.integers(0, rows, 5)
    np.testing.assert_array_equal(
        library.embed(bits, rows, columns, library.pack_tiled(bits, q, scales), ids),
        dense(q, scales)[ids].astype(np.float32),
    )


def test_quantizing_beats_the_widest_value_rule(library: Kernels) -> None:
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    groups = weights.reshape(64, 8, 32)
    extreme = np.take_along_axis(groups, np.abs(groups).argmax(2)[..., None], 2)
    scale = (extreme / -8).astype(np.float16).astype(np.float64)
    usual = np.clip(np.rint(groups / scale), -8, 7) * scale
    ours = dense(*library.quantize(4, weights))
    assert ((ours - weights) ** 2).mean() < 0.93 * ((usual.reshape(64, 256) - weights) ** 2).mean()
    fine = dense(*library.quantize(8, weights))
    assert np.abs(fine - weights).max() < 0.02
    odd = np.array([[0.0] * 32, [1e-40] * 32, [np.nan] * 32, [3.0] * 32])
    np.testing.assert_allclose(
        dense(*library.quantize(4, odd))[[0, 1, 3]], [[0.0] * 32, [0.0] * 32, [3.0] * 32], rtol=1e-3
    )


def test_the_norm_and_the_probe(library: Kernels, pool: Pool) -> None:
    x = np.random.default_rng(0).standard_normal((3, 37)).astype(np.float32)
    gain = np.linspace(1, 2, 37).astype(np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(1, keepdims=True) + 1e-5)
    close(library.rms_norm(x, 1e-5), expected)
    close(library.rms_norm(x, 1e-5, gain), expected * gain)
    data = np.random.default_rng(0).integers(0, 2**63, 8 * 1000, dtype=np.int64)
    assert library.read(data, pool) == np.bitwise_xor.reduce(data)


def test_refusals(library: Kernels) -> None:
    assert library.library.edge_kernels_abi_version() == ABI and library.version == "1.3"
    q, scales = library.quantize(4, np.ones((16, 32), np.float32))
    packed = library.pack_tiled(4, q, scales)
    with pytest.raises(UsageError, match="288 bytes are no packed 17 x 32"):
        library.matmul(4, 17, packed, np.ones((1, 32), np.float32))
    coarse, fine = library.pack_planes(q, scales, np.ones(16, np.float32))
    with pytest.raises(UsageError, match="224 and 2560 bytes are no planes of a 17 x 32 matrix"):
        library.relu2_mlp_skip(17, coarse, fine, packed, np.ones((1, 32), np.float32))
    for ids in ([16], [-1]):
        with pytest.raises(UsageError, match="refuse these sizes, bits or ids"):
            library.embed(4, 16, 32, packed, np.array(ids))
    with pytest.raises(UsageError, match="refuse these sizes"):
        library.quantize(5, np.ones((16, 32), np.float32))
    with pytest.raises(UsageError, match="cannot run kernels for sve9"):
        library.use("sve9")
    with pytest.raises(UnsupportedError, match="no kernels for x86_64-windows"):
        kernels.library("x86_64-windows")


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("size", [4e5, 1e6, 1e7, 1e38])
def test_large_weights_are_clipped_to_what_a_scale_reaches(library: Kernels, bits: int, size: float) -> None:
    weights = np.linspace(-size, size, 64, dtype=np.float32).reshape(2, 32)
    q, scales = library.quantize(bits, weights)
    assert np.isfinite(scales).all()
    reach = 65504 * (8 if bits == 4 else 127)
    near = np.clip(weights, -reach, reach)
    assert np.abs(dense(q, scales) - near).max() <= (0.08 if bits == 4 else 0.005) * np.abs(near).max()
