"""The text transformer against a forward pass written from the papers, one text at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import DTypeLike

from simclr_jax.core.tree import path_name
from simclr_jax.models.text import TextTransformer
from tests.helpers import apply

WIDTH, DEPTH, HEADS, NUM_TOKENS, CONTEXT = 8, 2, 2, 11, 9
LENGTHS = jnp.asarray([3, 7, 1], jnp.int32)
TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, NUM_TOKENS, (3, 7)), jnp.int32)
SMALL = {"num_tokens": NUM_TOKENS, "context": CONTEXT, "width": WIDTH, "depth": DEPTH}


def text_tower(**settings):
    return TextTransformer(**SMALL, num_heads=HEADS, **settings)


def random_variables(tower, dtype: DTypeLike = np.float32):
    """Returns variables of which none is a zero or a one that would hide a term."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        values = rng.standard_normal(x.shape) * (x.shape[0] ** -0.5 if x.ndim > 1 else 0.2)
        return (values + path_name(path).endswith("scale")).astype(dtype)

    init = lambda: tower.init(jax.random.key(0), TOKENS, LENGTHS, train=False)
    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))


def layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p["bias"]


def heads_of(x):
    return np.split(x, HEADS, axis=-1)


def softmax_mean(q, keys, values):
    """What one query sees, head by head."""
    out = []
    for one, k, v in zip(heads_of(q), heads_of(keys), heads_of(values), strict=True):
        e = np.exp(k @ one / math.sqrt(WIDTH / HEADS))
        out.append(e / e.sum() @ v)
    return np.concatenate(out)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


ACTIVATIONS = {"gelu": gelu, "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x))}


def forward(p, text, *, causal, pool, activation):
    """Vaswani et al. 2017, Equation 1, with the order of Radford et al. 2021; no padding."""
    act = ACTIVATIONS[activation]
    x = p["embed"]["embedding"][text] + p["positions"][: len(text)]
    for i in range(DEPTH):
        block = p[f"block{i}"]
        q, k, v = np.split(linear(layer_norm(x, block["norm1"]), block["qkv"]), 3, axis=-1)
        seen = [i + 1 if causal else len(text) for i in range(len(text))]
        y = [softmax_mean(q[i], k[:s], v[:s]) for i, s in enumerate(seen)]
        x = x + linear(np.stack(y), block["out"])
        x = x + linear(act(linear(layer_norm(x, block["norm2"]), block["fc1"])), block["fc2"])
    x = layer_norm(x, p["norm"])
    return {"end": x[-1], "mean": x.mean(0)}[pool] if pool != "probe" else probed(x, p["pooling"])


def probed(x, p):
    """Zhai et al. 2021, Appendix: what a probe sees, then a perceptron (big_vision, MAPHead)."""
    k, v = np.split(linear(x, p["attention"]["kv"]), 2, axis=-1)
    seen = softmax_mean(linear(p["probe"][0], p["attention"]["q"]), k, v)
    y = linear(seen, p["attention"]["out"])
    return y + linear(gelu(linear(layer_norm(y, p["norm"]), p["fc1"])), p["fc2"])


@pytest.mark.parametrize(
    "settings",
    [
        {"causal": True, "pool": "end", "activation": "quick_gelu"},
        {"causal": True, "pool": "mean", "activation": "gelu"},
        {"causal": False, "pool": "end", "activation": "gelu"},
        {"causal": False, "pool": "probe", "activation": "quick_gelu"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_text_is_represented_as_in_the_papers_whatever_its_padding(settings):
    with jax.enable_x64(True):
        tower = text_tower(dtype="float64", **settings)
        variables = random_variables(tower, np.float64)
        got = jax.jit(lambda *x: tower.apply(variables, *x, train=False))(TOKENS, LENGTHS)
        got = np.asarray(got)
    rows = zip(np.asarray(TOKENS), np.asarray(LENGTHS), strict=True)
    want = np.stack([forward(variables["params"], x[:n], **settings) for x, n in rows])
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def test_blocks_computed_twice_give_the_same_gradient():
    def gradient(remat):
        tower = text_tower(remat=remat)
        loss = lambda v: jnp.sum(apply(tower, v, TOKENS, LENGTHS, train=True) ** 2)
        return jax.jit(jax.grad(loss))(random_variables(tower))

    got, want = gradient("blocks"), gradient("none")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


def test_dropout_makes_two_views_of_a_text_in_training_alone():
    tower = text_tower(dropout=0.3)
    variables = random_variables(tower)

    def view(train, **rngs):
        return np.asarray(tower.apply(variables, TOKENS, LENGTHS, train=train, rngs=rngs))

    keys = [jax.random.key(i) for i in range(2)]
    one, other = (view(True, dropout=key) for key in keys)
    assert np.abs(one - other).max() > 0.1
    np.testing.assert_array_equal(view(False, dropout=keys[0]), view(True))


def test_products_in_bfloat16_give_float32_representations():
    tower = text_tower(dtype="bfloat16", pool="probe")
    variables = random_variables(tower)
    out = jax.eval_shape(lambda v: tower.apply(v, TOKENS, LENGTHS, train=False), variables)
    assert out.dtype == jnp.float32


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"pool": "cls"}, r"text pool must be one of \['end', 'mean', 'probe'\], got 'cls'"),
        ({"num_heads": 3}, "num_heads must divide the width, 8, got 3"),
        ({"activation": "relu"}, r"text activation must be one of .*'gelu'"),
    ],
)
def test_names_settings_that_make_no_tower(fault, message):
    with pytest.raises(ValueError, match=message):
        TextTransformer(**SMALL | {"num_heads": HEADS} | fault)


def test_names_texts_longer_than_the_context():
    tower = text_tower()
    long = jnp.zeros((1, CONTEXT + 1), jnp.int32)
    with pytest.raises(ValueError, match="10 tokens are longer than text context=9"):
        jax.eval_shape(lambda: tower.init(jax.random.key(0), long, jnp.asarray([3]), train=False))
