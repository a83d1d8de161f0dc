"""Losses of two towers: golden numbers, limits, memory, and what devices send each other.

The golden files of `golden/multimodal` were checked against ClipLoss and SigLipLoss of open_clip
3.3.0; `duplicates` are formulas.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from simclr_jax.losses.two_towers import pair_metrics, sigmoid_pairs, symmetric_info_nce
from simclr_jax.parallel.mesh import make_mesh
from tests.helpers import hlo, temporary_bytes

GOLDEN = Path(__file__).parents[2] / "golden/multimodal"
MESH = make_mesh()
BY_ROWS, EVERYWHERE = (jax.NamedSharding(MESH, spec) for spec in (P(MESH.axis_names), P()))
PLACES = {
    "one device": lambda x: x,
    # What eight devices do not divide lies on each of them.
    "eight": lambda x: jax.device_put(x, EVERYWHERE if len(x) % 8 else BY_ROWS),
}
places = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)


def golden(name):
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: jnp.asarray(array) for key, array in arrays.items()}


def close(got, want, name=""):
    assert got.dtype == np.float64, name
    atol = 1e-10 * max(1.0, float(np.abs(want).max()))
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=atol, err_msg=name)


def random_pairs(n, d=8):
    first, second = np.random.default_rng(0).normal(size=(2, n, d)).astype(np.float32)
    return first, second + first


def info_nce(tile=None, duplicates="ignore"):
    def loss(first, second, log_scale, ids=None):
        settings = {"ids": ids, "duplicates": duplicates, "tile": tile}
        halves = symmetric_info_nce(first, second, log_scale=log_scale, **settings)
        return halves.loss, halves

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def sigmoid(**settings):
    def loss(first, second, log_scale, bias, ids=None):
        return sigmoid_pairs(first, second, log_scale=log_scale, bias=bias, ids=ids, **settings)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))


def check_info_nce(got, numbers, case):
    (loss, halves), grads = got
    close(loss, numbers[f"{case}/loss"])
    close(halves.first_to_second, numbers[f"{case}/loss_image_to_text"])
    close(halves.second_to_first, numbers[f"{case}/loss_text_to_image"])
    for name, grad in zip(("image", "text", "log_scale"), grads, strict=True):
        close(grad, numbers[f"{case}/grad_{name}"], name)


@pytest.mark.usefixtures("float64")
@places
@pytest.mark.parametrize(
    ("case", "tile"), [("small", 3), ("main", 5), ("main", 12), ("hot", 7), ("cold", None)]
)
def test_info_nce_and_its_gradients_are_those_of_clip(place, case, tile):
    numbers = golden("clip")
    rows = (place(numbers[f"clip/{case}/{tower}"]) for tower in ("image", "text"))
    got = info_nce(tile)(*rows, numbers[f"clip/{case}/log_scale"])
    check_info_nce(got, numbers, f"clip/{case}")


@pytest.mark.usefixtures("float64")
@places
@pytest.mark.parametrize("duplicates", ["plain", "multi_positive", "ignore"])
def test_duplicates_count_as_asked(place, duplicates):
    numbers = golden("clip")
    image, text, ids = (place(numbers[f"duplicates/{x}"]) for x in ("image", "text", "text_id"))
    got = info_nce(5, duplicates)(image, text, numbers["duplicates/log_scale"], ids)
    check_info_nce(got, numbers, f"duplicates/{duplicates}")


def test_info_nce_is_exact_at_the_largest_scale_in_float32():
    numbers = golden("clip")
    image, text = (numbers[f"clip/hot/{tower}"] for tower in ("image", "text"))
    (loss, _), grads = info_nce(7)(image, text, numbers["clip/hot/log_scale"])
    np.testing.assert_allclose(loss, numbers["clip/hot/loss"], rtol=1e-5)
    for name, grad in zip(("image", "text", "log_scale"), grads, strict=True):
        want = numbers[f"clip/hot/grad_{name}"]
        np.testing.assert_allclose(grad, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("tile", [1, 5, 99])
def test_is_log_of_pairs_when_all_rows_are_equal(tile):
    rows = jnp.ones((8, 4))
    halves = symmetric_info_nce(rows, 3 * rows, log_scale=jnp.float32(1), tile=tile)
    np.testing.assert_allclose(halves, [np.log(8)] * 3, rtol=1e-6)


def test_without_other_texts_nothing_is_left_to_tell_apart():
    first, second = random_pairs(6)
    same = jnp.zeros(6, jnp.int32)
    (loss, _), grads = info_nce(4)(first, second, jnp.float32(2.0), same)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    for grad in grads:
        np.testing.assert_allclose(grad, np.zeros(grad.shape), atol=1e-6)


def test_info_nce_takes_memory_of_the_rows_and_not_of_their_square():
    temporaries = []
    for n in (256, 512, 1024):
        rows = jnp.zeros((n, 8))
        compiled = info_nce(64).lower(rows, rows, jnp.float32(1)).compile()
        temporaries.append(temporary_bytes(compiled))
        assert f"[{n},{n}]" not in hlo(compiled)
    small, middle, large = temporaries
    assert large - middle < 2.2 * (middle - small)
    assert large < 4 * 1024**2 / 4, "a quarter of all similarities"


def collectives(text):
    return re.findall(r" (all-\w+|collective-permute|reduce-scatter)(?:-start)?\(", text)


def test_info_nce_sends_nothing_within_its_loops():
    first, second = (jax.device_put(x, BY_ROWS) for x in random_pairs(64))
    ids = jax.device_put(jnp.arange(64), BY_ROWS)
    text = hlo(info_nce(16).lower(first, second, jnp.float32(1), ids).compile())
    entry = text[text.index("\nENTRY ") :]  # the bodies of loops come before it
    assert 0 < len(collectives(text)) == len(collectives(entry))
    assert "f32[1,8,16]" in text, "each device compares its own rows with a tile"
    assert "f32[8,8,16]" not in text, "a device compares rows that are not its own"


@pytest.mark.usefixtures("float64")
@places
@pytest.mark.parametrize("exchange", ["ring", "gather"])
@pytest.mark.parametrize(("case", "tile"), [("small", 3), ("main", 2), ("trained", None)])
def test_sigmoid_loss_and_its_gradients_are_those_of_siglip(place, exchange, case, tile):
    numbers = golden("siglip")
    rows = (place(numbers[f"siglip/{case}/{tower}"]) for tower in ("image", "text"))
    scalars = (numbers[f"siglip/{case}/{name}"] for name in ("log_scale", "bias"))
    loss, grads = sigmoid(exchange=exchange, tile=tile)(*rows, *scalars)
    close(loss, numbers[f"siglip/{case}/loss"])
    for name, grad in zip(("image", "text", "log_scale", "bias"), grads, strict=True):
        close(grad, numbers[f"siglip/{case}/grad_{name}"], name)


@pytest.mark.usefixtures("float64")
@places
@pytest.mark.parametrize("exchange", ["ring", "gather"])
def test_equal_texts_are_pairs_of_the_sigmoid_loss(place, exchange):
    numbers = golden("clip")
    image, text, ids = (place(numbers[f"duplicates/{x}"]) for x in ("image", "text", "text_id"))
    scalars = (jnp.log(jnp.asarray(10.0)), jnp.asarray(-10.0))
    loss, grads = sigmoid(exchange=exchange, tile=2)(image, text, *scalars, ids)
    close(loss, numbers["duplicates/siglip/loss"])
    for name, grad in zip(("image", "text", "log_scale", "bias"), grads, strict=True):
        close(grad, numbers[f"duplicates/siglip/grad_{name}"], name)


def test_the_ring_passes_rows_on_and_gathers_none():
    rows = [jax.device_put(x, BY_ROWS) for x in random_pairs(64)]
    sent = {}
    for exchange in ("ring", "gather"):
        lowered = sigmoid(exchange=exchange).lower(*rows, jnp.float32(1), jnp.float32(0))
        sent[exchange] = set(collectives(lowered.compile().as_text()))
    assert sent["ring"] & {"collective-permute", "all-gather"} == {"collective-permute"}
    assert sent["gather"] & {"collective-permute", "all-gather"} == {"all-gather"}


def test_metrics_are_the_means_of_all_cosines():
    first, second = random_pairs(12)
    ids = jnp.asarray([0, 1, 1, 3, 4, 5, 6, 1, 8, 9, 4, 11], jnp.int32)
    got = pair_metrics(jnp.asarray(first), jnp.asarray(second), ids)
    unit = [np.float64(x) / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    cosines = unit[0] @ unit[1].T
    want = {
        "positive_cosine": np.diag(cosines).mean(),
        "negative_cosine": cosines[~np.eye(12, dtype=bool)].mean(),
        "modality_gap": np.linalg.norm(unit[0].mean(axis=0) - unit[1].mean(axis=0)),
        "duplicates": 3 / 12,
    }
    assert {*got} == {*want}
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"duplicates": "drop"}, r"duplicates must be one of .*'ignore'.* got 'drop'"),
        ({"tile": 0}, "tile=0; it must be at least 1"),
    ],
)
def test_names_what_info_nce_cannot_do(fault, message):
    with pytest.raises(ValueError, match=message):
        symmetric_info_nce(*map(jnp.asarray, random_pairs(4)), log_scale=jnp.float32(1), **fault)


def test_names_an_unknown_exchange():
    first, second = map(jnp.asarray, random_pairs(4))
    scalars = {"log_scale": jnp.float32(1), "bias": jnp.float32(0)}
    with pytest.raises(ValueError, match=r"exchange must be one of .* got 'star'"):
        sigmoid_pairs(first, second, exchange="star", **scalars)
