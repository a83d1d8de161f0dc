"""ResNet: exact sizes, names, initialisation, types, limits and sharding."""

import functools
import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.tree import path_name
from simclr_jax.models.layers import Conv
from simclr_jax.models.resnet import STAGE_SIZES, ResidualBlock, ResNet, Stage

SK = 0.0625

# depth, width, sk_ratio, stem, trainable, moving: counts of the official code.
COUNTS = [
    (50, 1, 0, "imagenet", 23508032, 53120),
    (50, 1, SK, "imagenet", 35215584, 61824),
    (50, 2, 0, "imagenet", 93907072, 106240),
    (50, 2, SK, "imagenet", 140306048, 122816),
    (50, 3, 0, "imagenet", 211197120, 159360),
    (50, 3, SK, "imagenet", 315493600, 184000),
    (101, 1, 0, "imagenet", 42500160, 105344),
    (101, 1, SK, "imagenet", 64662304, 123840),
    (101, 2, 0, "imagenet", 169771136, 210688),
    (101, 2, SK, "imagenet", 257132224, 245760),
    (101, 3, 0, "imagenet", 381812928, 316032),
    (101, 3, SK, "imagenet", 578260288, 368416),
    (152, 1, 0, "imagenet", 58143808, 151424),
    (152, 1, SK, "imagenet", 88940896, 178688),
    (152, 2, 0, "imagenet", 232253568, 302848),
    (152, 2, SK, "imagenet", 353398528, 354368),
    (152, 3, 0, "imagenet", 522329280, 454272),
    (152, 3, SK, "imagenet", 794704160, 531200),
    (50, 4, 0, "imagenet", 375378176, 212480),
    (18, 1, 0, "cifar", 11173056, 9728),
    (34, 1, 0, "cifar", 21281216, 17152),
    (50, 1, 0, "cifar", 23500352, 53120),
    (18, 1, 0, "imagenet", 11180736, 9728),
    (18, 1, SK, "imagenet", 11199968, 9856),
    (34, 1, 0, "imagenet", 21288896, 17152),
    (34, 1, SK, "imagenet", 21308128, 17280),
]


def trace(encoder: ResNet):
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(lambda key: encoder.init(key, images, train=False), jax.random.key(0))


shapes: Callable[..., Any] = functools.cache(trace)


def paths(tree) -> dict:
    return {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def small(**kwargs) -> ResNet:
    return ResNet(**{"depth": 18, "width": 0.125, "stem": "cifar"} | kwargs)


def alive_variables(encoder: ResNet):
    """Random variables with which all branches take part: a zero scale would hide them."""
    rng = np.random.default_rng(0)

    def draw(path, x):
        if path_name(path).endswith("kernel"):
            return rng.normal(scale=np.prod(x.shape[:-1]) ** -0.5, size=x.shape).astype(x.dtype)
        offset = 0.5 if path_name(path).endswith(("scale", "var")) else 0
        return (offset + 0.2 * rng.uniform(size=x.shape)).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(encoder))


def images(rows: int):
    pixels = np.random.default_rng(1).uniform(size=(rows, 8, 8, 3))
    return jnp.asarray(pixels, jnp.float32)


def marks(depth, width, sk_ratio):
    """Deep networks take seconds to trace; one that is wide, too, is enough for every day."""
    more_of_the_same = width > 1 and (depth, width, sk_ratio) != (152, 3, SK)
    return [pytest.mark.reference, *[pytest.mark.thorough] * more_of_the_same] * (depth > 50)


@pytest.mark.parametrize(
    ("depth", "width", "sk_ratio", "stem", "trainable", "moving"),
    [pytest.param(*row, marks=marks(*row[:3])) for row in COUNTS],
)
def test_has_exactly_the_official_number_of_parameters(
    depth, width, sk_ratio, stem, trainable, moving
):
    variables = shapes(ResNet(depth, width, sk_ratio, stem))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == trainable
    assert sum(x.size for x in jax.tree.leaves(variables["batch_stats"])) == moving


def test_depth_200_is_depth_101_with_more_of_the_same_blocks():
    """No published count exists: stage 2 grows by 20 blocks, stage 3 by 13."""
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    small, large = (shapes(ResNet(depth))["params"] for depth in (101, 200))
    blocks = 20 * count(small["stage2"]["block1"]) + 13 * count(small["stage3"]["block1"])
    assert count(large) == count(small) + blocks


def test_names_blocks_and_layers_by_their_place():
    params = shapes(ResNet(50, sk_ratio=SK))["params"]
    assert {f"stem_conv{i}" for i in (1, 2, 3)} < params.keys()
    assert params["stage3"].keys() == {f"block{i}" for i in range(6)}
    ends = {"conv1", "norm1", "sk", "conv3", "norm3"}
    assert params["stage1"]["block0"].keys() == ends | {"shortcut_conv", "shortcut_norm"}
    assert params["stage1"]["block1"].keys() == ends
    plain = shapes(ResNet(50))["params"]
    assert plain["stage3"]["block0"]["conv2"]["kernel"].shape == (3, 3, 256, 256)
    assert {"stem_conv", "stem_norm"} < plain.keys()


def test_only_norms_hold_scales_and_biases():
    params = paths(shapes(ResNet(50, sk_ratio=SK))["params"])
    norms = {name for name in params if re.fullmatch(r".*norm[^/]*/(scale|bias)", name)}
    assert {name for name in params if not name.endswith("/kernel")} == norms


def test_selective_kernels_leave_basic_blocks_alone():
    params = paths(shapes(ResNet(34, sk_ratio=SK))["params"])
    assert not [name for name in params if "/sk/" in name]
    assert "stem_conv3/kernel" in params


def test_cifar_stem_replaces_the_stem_of_resnet_d():
    params = shapes(ResNet(50, sk_ratio=SK, stem="cifar"))["params"]
    assert params["stem_conv"]["kernel"].shape == (3, 3, 3, 64)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize(("bottleneck", "last"), [(False, "norm2"), (True, "norm3")])
def test_every_block_starts_as_its_shortcut_if_asked(bottleneck, last, zero):
    block = ResidualBlock(
        8,
        2,
        project=True,
        bottleneck=bottleneck,
        sk_ratio=SK,
        dtype="float32",
        kernel_init="lecun",
        zero_init_residual=zero,
    )

    @jax.jit
    def init_scales(key):
        params = paths(block.init(key, images(1), train=False)["params"])
        return {name: x for name, x in params.items() if name.endswith("scale")}

    scales = init_scales(jax.random.key(0))
    for name, value in scales.items():
        wanted = 0.0 if zero and name == f"{last}/scale" else 1.0
        np.testing.assert_array_equal(value, wanted, err_msg=name)
    assert f"{last}/scale" in scales
    assert "shortcut_norm/scale" in scales


@pytest.mark.parametrize(
    ("depth", "published", "classifier"),
    [(18, 11_689_512, 513_000), (34, 21_797_672, 513_000), (50, 25_557_032, 2_049_000)],
)
def test_torchvision_geometry_has_the_parameters_of_torchvision(depth, published, classifier):
    params = shapes(ResNet(depth, geometry="torchvision"))["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == published - classifier
    shortcut = {"shortcut_conv", "shortcut_norm"}
    assert (shortcut < params["stage1"]["block0"].keys()) == (depth == 50)
    assert shortcut < params["stage2"]["block0"].keys()


def test_torchvision_geometry_pads_the_max_pool_on_all_sides():
    encoder = ResNet(18, geometry="torchvision")
    variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes(encoder))
    rng = np.random.default_rng(0)
    variables["params"]["stem_conv"]["kernel"] += rng.normal(size=(7, 7, 3, 64))
    variables["params"]["stem_norm"]["scale"] += np.sqrt(1e-5)  # undoes epsilon

    @jax.jit
    def stem_and_stage1(x):
        _, state = encoder.apply(
            variables,
            x,
            train=False,
            capture_intermediates=lambda module, _: module.name in ("stem_conv", "stage1"),
            mutable=["intermediates"],
        )
        inner = state["intermediates"]
        return inner["stem_conv"]["__call__"][0], inner["stage1"]["__call__"][0]

    stem, stage1 = stem_and_stage1(jnp.asarray(rng.uniform(size=(1, 20, 20, 3)), jnp.float32))
    padded = np.pad(np.maximum(stem, 0), ((0, 0), (1, 1), (1, 1), (0, 0)))  # 10 pixels and two
    pooled = [
        padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
        for i in range(5)
        for j in range(5)
    ]
    # Identity shortcuts beside branches of zeros: stage 1 hands the pool on.
    want = np.stack(pooled, axis=1).reshape(1, 5, 5, 64)
    np.testing.assert_allclose(stage1, want, rtol=1e-6)


@pytest.mark.parametrize(("depth", "sk_ratio"), [(18, 0), (50, SK)])
def test_every_layer_is_told_how_to_start(depth, sk_ratio):
    """What it then does is tested layer by layer."""
    settings = {"kernel_init": "he_fan_out", "zero_init_residual": False}
    convolutions, blocks = set(), set()

    def note(call, args, kwargs, context):
        module = context.module
        if isinstance(module, Conv):
            convolutions.add((module.path, module.kernel_init))
        if isinstance(module, ResidualBlock):
            blocks.add((module.path, module.zero_init_residual))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        encoder = small(depth=depth, sk_ratio=sk_ratio, **settings)
        params = paths(trace(encoder)["params"])
    assert {start for _, start in convolutions} == {"he_fan_out"}
    assert len(convolutions) == sum(name.endswith("kernel") for name in params)
    assert {start for _, start in blocks} == {False}
    assert len(blocks) == sum(STAGE_SIZES[depth])


def test_fractional_width_truncates_channels():
    params = shapes(ResNet(18, width=0.3))["params"]
    assert params["stem_conv"]["kernel"].shape[-1] == 19
    assert params["stage4"]["block0"]["conv1"]["kernel"].shape[-1] == 153


def test_bfloat16_stays_close_to_float32():
    variables = alive_variables(small())

    @jax.jit
    def both(x):
        got, state = small(dtype="bfloat16").apply(
            variables,
            x,
            train=False,
            capture_intermediates=lambda module, _: module.name == "stage2",
            mutable=["intermediates"],
        )
        inner = state["intermediates"]["stage2"]["__call__"][0]
        return got, inner, small().apply(variables, x, train=False)

    got, inner, wanted = both(images(4))
    assert got.dtype == jnp.float32
    assert inner.dtype == jnp.bfloat16
    error = float(jnp.abs(got - wanted).max() / jnp.abs(wanted).max())
    assert 0 < error < 0.03


def test_bfloat16_keeps_parameters_and_statistics_in_float32():
    leaves = jax.tree.leaves(shapes(small(dtype="bfloat16")))
    assert all(x.dtype == jnp.float32 for x in leaves)


def test_inference_looks_at_one_image_at_a_time_and_training_does_not():
    encoder = small()
    variables = alive_variables(encoder)

    @jax.jit
    def both(x):
        trained, _ = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
        return encoder.apply(variables, x, train=False), trained

    inferred, trained = both(images(4))
    other_inferred, other_trained = both(images(4).at[1:].multiply(0.5))
    np.testing.assert_allclose(inferred[0], other_inferred[0], rtol=1e-5, atol=1e-6)
    assert float(jnp.abs(trained[0] - other_trained[0]).max()) > 0.1


@pytest.mark.parametrize("settings", [{}, {"depth": 50, "stem": "imagenet"}])
def test_layer_norm_keeps_the_layers_and_looks_at_one_image_at_a_time(settings):
    plain, encoder = small(**settings), small(**settings, norm="layer")
    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert paths(shapes(plain)["params"]).keys() == paths(shapes(encoder)["params"]).keys()
    assert count(shapes(plain)["params"]) == count(shapes(encoder)["params"])
    images = jax.random.uniform(jax.random.key(0), (3, 17, 17, 3))
    variables = alive_variables(encoder)
    assert variables.keys() == {"params"}
    apply = jax.jit(lambda images: encoder.apply(variables, images, train=True))
    np.testing.assert_allclose(apply(images)[0], apply(images.at[1:].set(0.5))[0], rtol=1e-5)


def test_eight_devices_share_one_batchnorm():
    encoder = small()
    variables = alive_variables(encoder)

    @jax.jit
    def step(x):
        z, updated = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
        return (z**2).mean(), updated["batch_stats"]

    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    # Brighter from device to device: local statistics would differ from global ones.
    x = images(16) * jnp.linspace(0.1, 1, 16).reshape(16, 1, 1, 1)
    loss, stats = step(x)
    sharded_loss, sharded_stats = step(jax.device_put(x, NamedSharding(mesh, P("data"))))
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-4)
    compare = lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    jax.tree.map(compare, sharded_stats, stats)


@pytest.mark.parametrize("sk_ratio", [0, SK])
def test_rematerialisation_changes_no_value(sk_ratio):
    def run(remat):
        stage = Stage(8, 2, 2, True, sk_ratio, "float64", True, remat, "lecun", True)
        init = jax.jit(lambda key: stage.init(key, images(4), train=True))
        variables = init(jax.random.key(0))
        params = jax.tree.map(lambda x: x + 0.1, variables["params"])  # no scale is zero

        def loss(params):
            inputs = {"params": params, "batch_stats": variables["batch_stats"]}
            y, updated = stage.apply(inputs, images(4), train=True, mutable=["batch_stats"])
            return (y**3).mean(), updated["batch_stats"]

        return variables, jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    with jax.enable_x64(True):
        plain_variables, plain = run("none")
        for remat in ("convs", "blocks"):
            variables, got = run(remat)
            jax.tree.map(np.testing.assert_array_equal, variables, plain_variables)
            compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
            jax.tree.map(compare, got, plain)


def test_rematerialisation_stores_less():
    def stored(remat):
        encoder = small(depth=50, remat=remat)
        variables = shapes(encoder)

        def residuals(variables, x):
            apply = lambda params: encoder.apply(
                variables | {"params": params}, x, train=True, mutable=["batch_stats"]
            )
            return jax.vjp(apply, variables["params"])[1]

        sizes = [x.size for x in jax.tree.leaves(jax.eval_shape(residuals, variables, images(64)))]
        return sum(sizes)

    assert stored("blocks") < 0.5 * stored("convs") < 0.4 * stored("none")


@pytest.mark.parametrize(("stem", "smallest"), [("imagenet", 17), ("cifar", 5)])
def test_smallest_image_keeps_2x2_pixels_before_the_last_stage(stem, smallest):
    encoder = ResNet(18, width=0.125, stem=stem)

    def stage3(key):
        x = jnp.zeros((1, smallest, smallest, 3))
        _, state = encoder.init_with_output(
            key,
            x,
            train=False,
            capture_intermediates=lambda module, _: module.name == "stage3",
            mutable=["params", "batch_stats", "intermediates"],
        )
        return state["intermediates"]["stage3"]["__call__"][0]

    assert jax.eval_shape(stage3, jax.random.key(0)).shape[1:3] == (2, 2)


@pytest.mark.parametrize(
    ("stem", "shape", "message"),
    [
        ("imagenet", (1, 16, 64, 3), r"16x64 px.*at least 17 px.*stem='cifar'.* 5 px"),
        ("cifar", (1, 4, 4, 3), r"4x4 px.*stem='cifar'.*at least 5 px"),
    ],
)
def test_names_the_size_that_the_stem_cannot_take(stem, shape, message):
    with pytest.raises(ValueError, match=message):
        ResNet(18, stem=stem).init(jax.random.key(0), jnp.zeros(shape), train=False)


def test_images_are_normalised_with_the_mean_and_deviation_that_are_set():
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.5, 2.0)
    plain = ResNet(18, width=0.125, stem="cifar")
    images = np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)
    variables = jax.jit(lambda: plain.init(jax.random.key(0), jnp.asarray(images), train=False))()
    normalised = jnp.asarray((images - np.array(mean, np.float32)) / np.array(std, np.float32))
    encode = lambda encoder, x: jax.jit(lambda x: encoder.apply(variables, x, train=False))(x)
    got = encode(plain.clone(input_mean=mean, input_std=std), jnp.asarray(images))
    np.testing.assert_allclose(got, encode(plain, normalised), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 51}, r"\[18, 34, 50, 101, 152, 200\], got 51"),
        ({"width": 0}, "1/32 or larger.*got 0"),
        ({"width": -1}, "1/32 or larger.*got -1"),
        ({"width": float("nan")}, "1/32 or larger.*got nan"),
        ({"sk_ratio": -0.5}, r"\[0, 1\].*got -0.5"),
        ({"stem": "svhn"}, r"\['imagenet', 'cifar'\], got 'svhn'"),
        ({"geometry": "timm"}, r"\['official', 'torchvision'\], got 'timm'"),
        ({"remat": "all"}, r"remat must be one of \['none', 'convs', 'blocks'\], got 'all'"),
        ({"kernel_init": "he"}, r"kernel_init must be one of \['lecun', 'he_fan_out'\], got 'he'"),
        ({"input_std": (1.0, 0.0, 1.0)}, r"input_std must be positive, got \(1.0, 0.0, 1.0\)"),
        ({"norm": "group"}, r"norm must be one of \['batch', 'layer'\], got 'group'"),
        ({"norm": "layer", "sk_ratio": SK}, r"norm='layer' is for sk_ratio=0.*sk_ratio=0.0625"),
        ({"geometry": "torchvision", "stem": "imagenet"}, r"width=1.*got width=0.125"),
        ({"geometry": "torchvision", "width": 1}, r"stem='imagenet'.*stem='cifar'. Others need"),
        (
            {"geometry": "torchvision", "width": 1, "stem": "imagenet", "sk_ratio": SK},
            r"sk_ratio=0 .*sk_ratio=0.0625",
        ),
    ],
)
def test_names_the_bad_argument(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small(**kwargs)
