"""ViT against a forward pass written from the papers, and what its options promise."""

import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import DTypeLike
from PIL import Image

from simclr_jax.core.tree import path_name
from simclr_jax.models import vit
from simclr_jax.models.ssl import SSLModel
from simclr_jax.models.transformer import Block
from simclr_jax.models.vit import SIZES, ViT
from simclr_jax.parallel.sharding import Layout, batch_sharding
from tests.helpers import apply

GOLDEN = Path(__file__).parents[2] / "golden"
WIDTH, DEPTH, HEADS = 16, 3, 2


@pytest.fixture(autouse=True)
def nano(monkeypatch):
    """A size that compiles in a second."""
    monkeypatch.setitem(SIZES, "nano", vit.Size(WIDTH, DEPTH, HEADS))


def shapes(encoder, size_px=8):
    images = jnp.zeros((1, size_px, size_px, 3))
    return jax.eval_shape(lambda: encoder.init(jax.random.key(0), images, train=False))


def random_variables(encoder, dtype: DTypeLike = np.float32):
    """Returns variables of which none is a zero or a one that would hide a term."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        values = rng.standard_normal(x.shape) * (x.shape[0] ** -0.5 if x.ndim > 1 else 0.2)
        return (values + path_name(path).endswith("scale")).astype(dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(encoder))


def images(*shape, seed=1):
    return np.random.default_rng(seed).uniform(size=(*shape, 3))


def compiled(fn, *args):
    return jax.jit(fn)(*args)


# The forward pass of a ViT, one image at a time, from Dosovitskiy et al. 2020, Eq. 1 to 4, with
# the positions of He et al. 2021.


def layer_norm(x, p):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p["scale"] + p["bias"]


def linear(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def attend(x, p, heads):
    width = x.shape[-1] // heads
    parts = np.split(linear(x, p["qkv"]), 3, axis=-1)
    out = []
    for h in range(heads):
        q, k, v = (part[:, h * width : (h + 1) * width] for part in parts)
        e = np.exp(q @ k.T / math.sqrt(width))
        out.append(e / e.sum(-1, keepdims=True) @ v)
    return linear(np.concatenate(out, -1), p["out"])


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def sincos(row, column, width):
    angles = lambda i: [i / 10_000 ** (j / (width // 4)) for j in range(width // 4)]
    rows, columns = angles(row), angles(column)
    return np.concatenate([np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)])


def bicubic(positions, rows, columns):
    """Pillow's bicubic filter, which widens where it shrinks, as in timm; float32."""
    resize = lambda x: Image.fromarray(x.astype(np.float32)).resize(
        (columns, rows), Image.Resampling.BICUBIC
    )
    return np.stack([np.asarray(resize(x)) for x in np.moveaxis(positions, -1, 0)], -1)


def forward(p, image, *, patch, heads=HEADS, pre_norm=False, keep=None, pool=None):
    rows, columns = image.shape[0] // patch, image.shape[1] // patch
    tokens = []
    for r in range(rows):
        for c in range(columns):
            pixels = image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            position = p["positions"][r, c] if "positions" in p else sincos(r, c, WIDTH)
            tokens.append(linear(pixels.reshape(-1), p["patches"]) + position)
    tokens = tokens if keep is None else [tokens[i] for i in keep]
    x = np.stack([p["class_token"], *tokens] if "class_token" in p else tokens)
    x = layer_norm(x, p["norm_pre"]) if pre_norm else x
    for i in range(DEPTH):
        block = p[f"block{i}"]
        x = x + attend(layer_norm(x, block["norm1"]), block, heads)
        y = gelu(linear(layer_norm(x, block["norm2"]), block["fc1"]))
        x = x + linear(y, block["fc2"])
    x = layer_norm(x, p["norm"])
    if pool is not None:
        return x, pool(x, p["pooling"], heads)
    return x, x[0] if "class_token" in p else x.mean(0)


def seen_by(query, tokens, p, heads):
    """What one query sees among tokens, and the last product."""
    width, out = WIDTH // heads, []
    q, (k, v) = linear(query, p["q"]), np.split(linear(tokens, p["kv"]), 2, axis=-1)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        e = np.exp(k[:, part] @ q[part] / math.sqrt(width))
        out.append(e / e.sum() @ v[:, part])
    return linear(np.concatenate(out), p["out"])


def probed(tokens, p, heads):
    """Pooling of SigLIP's image tower: a probe, then a perceptron (big_vision, MAPHead)."""
    x = seen_by(p["probe"][0], tokens, p["attention"], heads)
    return x + linear(gelu(linear(layer_norm(x, p["norm"]), p["fc1"])), p["fc2"])


def seen_by_the_mean(tokens, p, heads):
    """Radford et al. 2021, Section 2.4: the mean as a query, among itself and the others."""
    mean = tokens.mean(0)
    return seen_by(mean, np.stack([mean, *tokens]), p["attention"], heads)


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"pool": "mean", "learned_positions": 12, "num_heads": 4}, {"heads": 4}),
        ({"pre_norm": True, "remat": "blocks"}, {"pre_norm": True}),
        ({"pool": "probe"}, {"pool": probed}),
        ({"pool": "mean_query"}, {"pool": seen_by_the_mean}),
    ],
)
def test_representation_and_gradient_are_those_of_the_paper(settings, options):
    pixels = images(2, 12, 12) if "learned_positions" in settings else images(2, 8, 12)
    rng = np.random.default_rng(2)
    with jax.enable_x64(True):
        encoder = ViT("nano", patch=4, dtype="float64", **settings)
        params = random_variables(encoder, np.float64)["params"]
        direction = jax.tree.map(lambda x: rng.standard_normal(x.shape), params)
        weights = rng.standard_normal((2, WIDTH))

        def total(params):
            out = apply(encoder, {"params": params}, jnp.asarray(pixels), train=True)
            return (out * weights).sum(), out

        (_, got), gradient = compiled(jax.value_and_grad(total, has_aux=True), params)
        got, gradient = jax.device_get((got, gradient))

    def want(params):
        return np.stack([forward(params, image, patch=4, **options)[1] for image in pixels])

    np.testing.assert_allclose(got, want(params), rtol=1e-9, atol=1e-9)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
    moved = [
        (weights * want(jax.tree.map(lambda x, d: x + h * d, params, direction))).sum()  # noqa: B023 - called at once
        for h in (1e-5, -1e-5)
    ]
    assert slope == pytest.approx((moved[0] - moved[1]) / 2e-5, rel=1e-6)


def test_only_the_kept_patches_are_encoded_and_in_their_order():
    encoder = ViT("nano", patch=4)
    variables, pixels = random_variables(encoder), images(2, 8, 12)
    keep = np.array([[4, 0, 3], [1, 5, 2]])
    apply = lambda v, x, keep: encoder.apply(v, x, train=False, keep=keep, method="tokens")
    got = compiled(apply, variables, pixels.astype(np.float32), keep)
    assert got.shape == (2, 1 + 3, WIDTH)
    for tokens, image, kept in zip(got, pixels, keep, strict=True):
        want, _ = forward(variables["params"], image, patch=4, keep=kept)
        np.testing.assert_allclose(tokens, want, rtol=1e-4, atol=1e-5)


def test_fixed_positions_are_those_of_the_official_mae():
    want = np.load(GOLDEN / "sincos_positions.npz")["embedding"]
    np.testing.assert_array_equal(want[0], 0)  # of the class token, which has none here
    got = vit.sincos_positions((3, 3), 16)
    np.testing.assert_allclose(got.reshape(9, 16), want[1:], atol=1e-6)


@pytest.mark.parametrize("grid", [(14, 14), (5, 9), (3, 2)])
def test_learned_positions_are_interpolated_as_pillow_does(grid):
    positions = images(6, 6).astype(np.float32)
    got = vit.resize_positions(jnp.asarray(positions), grid)
    np.testing.assert_allclose(got, bicubic(positions, *grid), atol=2e-6)


def test_images_of_other_sizes_use_interpolated_positions():
    encoder = ViT("nano", patch=4, learned_positions=24)
    variables, pixels = random_variables(encoder), images(1, 12, 8)
    assert variables["params"]["positions"].shape == (6, 6, WIDTH)
    got = compiled(functools.partial(encoder.apply, train=False), variables, pixels)
    positions = bicubic(variables["params"]["positions"], 3, 2)
    _, want = forward(variables["params"] | {"positions": positions}, pixels[0], patch=4)
    np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "patch", "count"),
    [("s", 16, 21_665_664), ("b", 16, 85_798_656), ("b", 32, 87_455_232), ("l", 16, 303_301_632)],
)
def test_has_the_parameters_of_the_published_networks(size, patch, count):
    """Of timm's vit_SIZE_patchN_224 without its classifier."""
    tree = shapes(ViT(size, patch, learned_positions=224), 224)
    class_token_position = SIZES[size].width  # which is a part of the token here
    assert sum(x.size for x in jax.tree.leaves(tree)) + class_token_position == count


def test_names_of_parameters_say_what_optimizers_leave_alone():
    names = {path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(shapes(ViT("nano", 4)))}
    block = {"norm1/scale", "norm1/bias", "norm2/scale", "norm2/bias"}
    block |= {f"{layer}/{leaf}" for layer in ("qkv", "out", "fc1", "fc2") for leaf in ("kernel",)}
    block |= {f"{layer}/bias" for layer in ("qkv", "out", "fc1", "fc2")}
    rest = {"class_token", "patches/kernel", "patches/bias", "norm/scale", "norm/bias"}
    blocks = {f"block{i}/{name}" for i in range(DEPTH) for name in block}
    assert names == {f"params/{name}" for name in rest | blocks}


def test_bfloat16_keeps_parameters_norms_softmax_and_representation_in_float32():
    plain, half = (ViT("nano", 4, dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables, pixels = random_variables(plain), images(4, 8, 8).astype(np.float32)
    assert {x.dtype for x in jax.tree.leaves(shapes(half))} == {jnp.dtype("float32")}
    apply = functools.partial(half.apply, train=False)
    got = compiled(apply, variables, pixels)
    want = compiled(functools.partial(plain.apply, train=False), variables, pixels)
    assert got.dtype == jnp.float32
    assert 1e-4 < np.abs(got - want).max() / np.abs(want).max() < 0.05
    kinds = {"exp": set(), "rsqrt": set(), "erfc": set()}
    for eqn in equations(jax.make_jaxpr(apply)(variables, pixels).jaxpr):
        if eqn.primitive.name in kinds:
            kinds[eqn.primitive.name].add(str(eqn.invars[0].aval.dtype))
    assert kinds == {"exp": {"float32"}, "rsqrt": {"float32"}, "erfc": {"bfloat16"}}


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from equations(value.jaxpr)


def test_an_image_loses_a_branch_as_often_as_said_and_the_mean_stays():
    rate, n = 0.3, 4000
    block = Block(num_heads=1, drop_path=rate, dtype="float32")
    x = jnp.asarray(np.tile(images(1, 2, seed=3)[..., :1], (n, 1, 4)), jnp.float32)
    variables = jax.eval_shape(lambda: block.init(jax.random.key(0), x[:1], False))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda v: rng.standard_normal(v.shape).astype("f4"), variables)
    variables["params"]["fc2"] = jax.tree.map(np.zeros_like, variables["params"]["fc2"])
    added = lambda train, **rngs: apply(block, variables, x, train, rngs=rngs) - x
    branch = np.asarray(added(False)[0])
    assert np.abs(branch).min() > 1e-3
    np.testing.assert_array_equal(added(True)[0], branch)  # no key, nothing is drawn
    drawn = np.asarray(added(True, dropout=jax.random.key(1)))
    factors = drawn / branch
    kept = factors[:, 0, 0] > 0.5
    np.testing.assert_allclose(factors[kept], 1 / (1 - rate), rtol=2e-3)
    np.testing.assert_array_equal(factors[~kept], 0)
    assert kept.mean() == pytest.approx(1 - rate, abs=4 * math.sqrt(rate * (1 - rate) / n))


def test_the_chance_to_lose_a_branch_grows_with_depth(monkeypatch):
    rates = []
    dropout = vit.nn.Dropout
    monkeypatch.setattr(vit.nn, "Dropout", lambda r, **k: rates.append(r) or dropout(r, **k))
    shapes(ViT("nano", 4, drop_path=0.2))
    assert rates == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])


def test_frozen_patches_get_no_gradient_and_the_rest_does():
    encoder = ViT("nano", 4, freeze_patches=True)
    variables, pixels = random_variables(encoder), jnp.asarray(images(2, 8, 8), jnp.float32)
    weights = images(2, WIDTH)[..., 0].astype(np.float32)  # a mere sum of a LayerNorm is constant
    total = lambda v: (apply(encoder, v, pixels, train=True) * weights).sum()
    gradients = compiled(jax.grad(total), variables)["params"]
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.any(gradient) == (not path_name(path).startswith("patches/")), path_name(path)
    assert SSLModel(encoder).frozen_params == ("encoder/(patches/.*)",)
    assert SSLModel(ViT("nano", 4)).frozen_params == ()


def test_rematerialisation_stores_the_input_of_each_block_alone():
    def stored(remat):
        encoder = ViT("nano", 4, remat=remat)

        def residuals(variables, x):
            return jax.vjp(lambda v: encoder.apply(v, x, train=True), variables)[1]

        pixels = jax.ShapeDtypeStruct((64, 32, 32, 3), jnp.float32)
        kept = jax.eval_shape(residuals, shapes(encoder), pixels)
        return sum(x.size for x in jax.tree.leaves(kept))

    assert stored("blocks") < 0.2 * stored("none")


def test_eight_devices_compute_what_one_does_dropped_paths_too():
    encoder = ViT("nano", 4, drop_path=0.5)
    variables, pixels = random_variables(encoder), images(16, 8, 8).astype(np.float32)
    weights = images(16, WIDTH)[..., 0].astype(np.float32)

    def total(variables, pixels, weights):
        rngs = {"dropout": jax.random.key(0)}
        return (encoder.apply(variables, pixels, train=True, rngs=rngs) * weights).sum()

    results = []
    for devices, layout in ((jax.devices()[:1], Layout()), (None, Layout("fsdp", fsdp=4))):
        mesh = layout.mesh(devices)
        rows = batch_sharding(mesh)
        placed = jax.device_put((variables, pixels, weights), (None, rows, rows))
        results.append(jax.device_get(compiled(jax.value_and_grad(total), *placed)))
    for one, eight in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(eight, one, rtol=2e-4, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "xl"}, r"size must be one of \['tiny', 's', 'b', 'l'.*got 'xl'"),
        ({"patch": 0}, r"patch must be at least 1 px .* got 0"),
        ({"num_heads": 3}, r"num_heads must divide .* 16, got 3"),
        ({"learned_positions": 30}, r"multiple of patch=4, got 30"),
        ({"pool": "max"}, r"pool must be one of \['token', 'mean', .*\], got 'max'"),
        ({"drop_path": 1.0}, r"drop_path must lie in \[0, 1\), got 1.0"),
        ({"remat": "convs"}, r"remat must be one of \['none', 'blocks'\], got 'convs'"),
    ],
)
def test_names_the_bad_argument(settings, message):
    with pytest.raises(ValueError, match=message):
        ViT(**{"size": "nano", "patch": 4} | settings)


@pytest.mark.parametrize(
    ("size", "fits"), [((33, 32), "32x32"), ((8, 40), "16x32"), ((225, 239), "224x240")]
)
def test_says_which_images_can_be_cut_into_patches(size, fits):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} px .* 16x16 px; use {fits} px"):
        vit.patchify(jnp.zeros((1, *size, 3)), 16)
