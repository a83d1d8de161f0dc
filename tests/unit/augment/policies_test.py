"""Policies on whole batches: shapes, keys, sharding, evaluation views, bad arguments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.augment import policies
from simclr_jax.core.types import Cuts

SIZE = 24


def make_batch(num_views: int, num_images: int = 16) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    shape = (num_images, num_views, SIZE, SIZE, 3)
    sizes = rng.integers(SIZE // 2, SIZE + 1, (num_images, num_views, 2), dtype=np.int32)
    cuts = rng.integers(0, 256, shape, dtype=np.uint8)
    return {"image": jnp.asarray(cuts), "size": jnp.asarray(sizes)}


def cuts(policy: policies.Policy) -> Cuts:
    """Returns the only size of view that a policy has."""
    assert isinstance(policy.cuts, Cuts)
    return policy.cuts


@pytest.fixture(scope="module")
def batch():
    return make_batch(num_views=2)


@pytest.fixture(scope="module")
def simclr():
    return jax.jit(policies.simclr(size=SIZE).augment)


@pytest.fixture(scope="module")
def views(simclr, batch):
    return np.asarray(simclr(jax.random.key(0), batch))


def test_gives_two_views_in_the_unit_range(views):
    assert views.shape == (16, 2, SIZE, SIZE, 3)
    assert views.dtype == np.float32
    assert views.min() >= 0
    assert views.max() <= 1


def test_bfloat16_moves_pixels_by_a_few_grey_levels(batch, views):
    augment = jax.jit(policies.simclr(size=SIZE, dtype=jnp.bfloat16).augment)
    rounded = augment(jax.random.key(0), batch)
    assert rounded.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(rounded, np.float32) - views)
    assert difference.mean() < 1 / 255
    assert np.quantile(difference, 0.999) < 8 / 255  # hue jumps where colours are nearly grey


def test_one_key_gives_one_result_and_another_key_another(simclr, batch, views):
    np.testing.assert_array_equal(simclr(jax.random.key(0), batch), views)
    assert np.abs(simclr(jax.random.key(1), batch) - views).max(axis=(1, 2, 3, 4)).min() > 0.1


def test_every_image_and_view_has_its_own_draw(simclr, batch):
    same = {name: jnp.broadcast_to(rows[:1, :1], rows.shape) for name, rows in batch.items()}
    rows = np.asarray(simclr(jax.random.key(0), same)).reshape(32, -1)
    # One in ten keeps colours and sharpness (0.2 * 0.8 * 0.5), and can only be mirrored or not.
    assert len(np.unique(rows.round(3), axis=0)) >= 28


def test_a_row_depends_on_its_own_image_and_index_only(simclr, batch, views):
    changed = {**batch, "image": batch["image"].at[1:].set(0)}
    np.testing.assert_array_equal(simclr(jax.random.key(0), changed)[0], views[0])


def test_sees_nothing_outside_the_valid_size(simclr, batch, views):
    row, column = np.indices((SIZE, SIZE))
    height, width = np.moveaxis(np.asarray(batch["size"]), -1, 0)[..., None, None]
    outside = ((row >= height) | (column >= width))[..., None]
    changed = {**batch, "image": jnp.where(outside, 255 - batch["image"], batch["image"])}
    assert outside.any()
    np.testing.assert_array_equal(simclr(jax.random.key(0), changed), views)


def test_eight_devices_agree_with_one_and_do_not_communicate(simclr, batch, views):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(batch, NamedSharding(mesh, P("data")))
    compiled = simclr.lower(jax.random.key(0), sharded).compile()
    got = compiled(jax.random.key(0), sharded)
    assert got.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), got.ndim)
    np.testing.assert_allclose(got, views, rtol=0, atol=5e-6)
    hlo = compiled.as_text()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in hlo


@pytest.fixture(scope="module")
def finetune():
    return jax.jit(policies.finetune(size=8).augment)


def test_finetune_is_one_crop_with_unchanged_colours(finetune):
    flat = jnp.broadcast_to(jnp.array([10, 100, 200], jnp.uint8), (2000, 1, 8, 8, 3))
    got = finetune(jax.random.key(0), {"image": flat, "size": jnp.full((2000, 1, 2), 6)})
    assert got.shape == (2000, 1, 8, 8, 3)
    want = np.broadcast_to(np.array([10, 100, 200]) / 255, got.shape)
    np.testing.assert_allclose(got, want, atol=1e-6)


def brighter_right(num_images: int) -> dict[str, jax.Array]:
    """Images that grow brighter from left to right, whatever the crop."""
    ramp = jnp.arange(8, dtype=jnp.uint8)[:, None] * 32
    ramp = jnp.broadcast_to(ramp, (num_images, 1, 8, 8, 3))
    return {"image": ramp, "size": jnp.full((num_images, 1, 2), 8)}


def test_mirrors_half_of_the_views(finetune):
    views = np.asarray(finetune(jax.random.key(0), brighter_right(2000)))
    mirrored = views[..., 0, 0] > views[..., -1, 0]
    assert abs(mirrored[:, 0, 0].mean() - 0.5) < 0.045  # 4 standard errors


def test_does_not_mirror_when_told_not_to():
    augment = jax.jit(policies.finetune(size=8, flip=False).augment)
    views = np.asarray(augment(jax.random.key(0), brighter_right(200)))
    assert (views[..., 0, 0] < views[..., -1, 0]).all()


def test_color_strength_zero_leaves_the_colours_alone():
    flat = jnp.broadcast_to(jnp.array([10, 100, 200], jnp.uint8), (64, 2, 16, 16, 3))
    augment = jax.jit(policies.simclr(size=16, color_strength=0.0, blur=False).augment)
    got = augment(jax.random.key(0), {"image": flat, "size": jnp.full((64, 2, 2), 16)})
    want = np.broadcast_to(np.array([10, 100, 200]) / 255, got.shape)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_simclr_cifar_is_half_the_strength_and_no_blur(batch):
    trace = lambda policy: str(jax.make_jaxpr(policy.augment)(jax.random.key(0), batch))
    got = trace(policies.simclr_cifar(size=SIZE))
    assert got == trace(policies.simclr(size=SIZE, color_strength=0.5, blur=False))
    assert got != trace(policies.simclr(size=SIZE, color_strength=1.0, blur=False))


def evaluate(image: np.ndarray, *, size: int) -> np.ndarray:
    """The evaluation view of one image; what it does not show of the canvas is white."""
    policy = policies.evaluation(size=size)
    (box,) = cuts(policy).boxes(np.random.Philox(0), image.shape[:2])
    y, x, height, width = box
    canvas = np.full((1, 1, 64, 64, 3), 255, np.uint8)
    canvas[0, 0, :height, :width] = image[y : y + height, x : x + width]
    batch = {"image": jnp.asarray(canvas), "size": jnp.array([[[height, width]]])}
    views = jax.jit(policy.augment)(jax.random.key(0), batch)
    assert views.shape == (1, 1, size, size, 3)
    return np.asarray(views[0, 0])


def test_evaluation_up_to_32_px_returns_the_pixels(golden, check):
    got = evaluate(golden["noise/uint8"], size=32)
    np.testing.assert_allclose(got, golden["noise/uint8"] / 255, rtol=1.2e-7)  # one rounding
    check(got.transpose(2, 0, 1), "noise/eval_nocrop_32", 1e-6)


@pytest.mark.parametrize("name", ["smooth", "noise"])
def test_evaluation_above_32_px_matches_the_official_code(golden, check, name):
    got = evaluate(golden[f"{name}/uint8"], size=64)
    check(got.transpose(2, 0, 1), f"{name}/eval_64", 1e-3)


def test_evaluation_up_to_32_px_resizes_the_whole_image(golden):
    image = golden["smooth/uint8"]
    cubic = jax.image.resize(image / np.float32(255), (32, 32, 3), "cubic", antialias=False)
    np.testing.assert_allclose(evaluate(image, size=32), jnp.clip(cubic, 0, 1), atol=1e-5)


@pytest.mark.parametrize("name", sorted(policies.POLICIES.keys() - {"audio", "texts"}))
def test_names_a_size_that_is_not_positive(name):
    with pytest.raises(ValueError, match="size=0 must be a positive number of pixels"):
        policies.POLICIES[name](size=0)


@pytest.mark.parametrize("name", ["simclr", "simclr_cifar", "finetune"])
@pytest.mark.parametrize("areas", [(0.0, 1.0), (-0.1, 1.0), (0.08, 1.5), (0.5, 0.4)])
def test_names_impossible_areas(name, areas):
    message = rf"min_area={areas[0]} and max_area={areas[1]} must be .* in \(0, 1\]"
    with pytest.raises(ValueError, match=message):
        policies.POLICIES[name](size=32, min_area=areas[0], max_area=areas[1])


def test_names_the_known_samplers():
    with pytest.raises(ValueError, match=r"crop_sampler='pil' .* one of \['tf', 'area'\]"):
        policies.simclr(size=32, crop_sampler="pil")


def test_a_sampler_that_draws_no_small_crop_is_not_asked_for_one():
    with pytest.raises(ValueError, match=r"max_area=0.1: .* use crop_sampler='area'"):
        policies.simclr(size=32, min_area=0.05, max_area=0.1)
    policies.simclr(size=32, min_area=0.05, max_area=0.1, crop_sampler="area")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("simclr", {"color_strength": 0.0, "blur": False}),
        ("simclr_cifar", {"color_strength": 0.0}),
        ("finetune", {}),
    ],
)
def test_cuts_as_its_sampler_does(name, settings):
    whole = {"min_area": 1.0, "crop_sampler": "area", "flip": False}
    policy = policies.POLICIES[name](size=SIZE, **whole, **settings)
    boxes = cuts(policy).boxes(np.random.Philox(key=0), (32, 48))
    # No crop of that area has an aspect ratio of 3 : 2, so that all are the central one.
    np.testing.assert_array_equal(boxes, [[0, 2, 32, 43]] * cuts(policy).num_views)


@pytest.mark.parametrize("strength", [-0.1, 1.26])
def test_names_the_limit_of_the_color_strength(strength):
    with pytest.raises(ValueError, match=rf"color_strength={strength} .* 0 .* and 1.25"):
        policies.simclr(size=32, color_strength=strength)


@pytest.mark.parametrize("name", ["simclr", "single"])
def test_hue_alone_moves_if_the_other_colours_may_not(monkeypatch, name):
    """Red stays red without it, and with it goes everywhere on the circle."""
    monkeypatch.setattr(policies.color, "WIDTHS", (0.0, 0.0, 0.0, 0.2))
    red = jnp.broadcast_to(jnp.array([255, 0, 0], jnp.uint8), (64, 2, 16, 16, 3))
    given = {"image": red, "size": jnp.full((64, 2, 2), 16)}

    def reddest(hue):
        settings = {"color_strength": 1.0, "jitter_probability": 1.0, "hue": hue, "blur": False}
        policy = policies.POLICIES[name](size=16, **settings)
        seen = jax.jit(policy.augment)(jax.random.key(0), given)[:, 0, 0, 0]
        colored = seen[np.ptp(seen, axis=1) > 0.1]
        return np.bincount(np.argmax(colored, axis=1), minlength=3) / len(colored)

    np.testing.assert_array_equal(reddest(0.0), [1, 0, 0])
    assert (reddest(0.5) > 0.15).all()


def test_names_the_known_jitters():
    with pytest.raises(ValueError, match=r"jitter='v3' is unknown; it must be 'v2' .* or 'v1'"):
        policies.simclr(size=32, jitter="v3")


def test_refuses_a_blur_that_would_do_nothing():
    with pytest.raises(ValueError, match="blur does nothing to views of size=19"):
        policies.simclr(size=19)


def test_names_images_that_are_not_bytes():
    batch = {"image": jnp.zeros((2, 1, 8, 8, 3)), "size": jnp.full((2, 1, 2), 8)}
    with pytest.raises(ValueError, match=r"uint8 images .* got float32 \[2, 1, 8, 8, 3\]"):
        policies.evaluation(size=8).augment(jax.random.key(0), batch)


def test_an_image_has_its_own_crops_and_one_generator_gives_them_again():
    draw = cuts(policies.simclr(size=SIZE)).boxes
    first = draw(np.random.Philox(1), (300, 400))
    np.testing.assert_array_equal(first, draw(np.random.Philox(1), (300, 400)))
    assert first.shape == (2, 4)
    assert (first[0] != first[1]).any()
    assert (first != draw(np.random.Philox(2), (300, 400))).any()


def test_crops_are_as_large_as_the_policy_asks():
    draw = cuts(policies.finetune(size=8, min_area=0.9)).boxes
    _, _, height, width = np.concatenate([draw(np.random.Philox(i), (60, 60)) for i in range(99)]).T
    assert (height * width).min() >= 0.9 * 60 * 60


def test_the_second_view_of_byol_alone_is_solarised_and_seldom_blurred():
    dark = np.full((64, 2, 24, 24, 3), 255, np.uint8)
    dark[..., ::2, :, :] = 0  # stripes, which a blur takes the contrast from
    batch = {"image": jnp.asarray(dark), "size": jnp.full((64, 2, 2), 24, jnp.int32)}
    policy = policies.byol(size=24, color_strength=0.0, flip=False)
    views = np.asarray(jax.jit(policy.augment)(jax.random.key(0), batch))
    inverted = views.mean(axis=(2, 3, 4)) < 0.25  # white is black, and black stays black
    contrast = np.abs(views[:, :, 11, 12, 0] - views[:, :, 12, 12, 0])
    assert not inverted[:, 0].any()
    assert 5 <= inverted[:, 1].sum() <= 25  # 64 draws of 0.2
    assert (contrast[:, 0] < 1).mean() > 0.6  # a sigma below 0.3 changes nothing
    assert (contrast[~inverted[:, 1], 1] < 1).mean() < 0.3


@pytest.fixture(scope="module")
def several_sizes():
    return policies.multi_crop(size=24, local_size=20, num_local=3, solarize=(0.0, 1.0))


def test_multi_crop_cuts_two_large_parts_and_several_small_ones_of_each_image(several_sizes):
    bits = [np.random.Philox(i) for i in range(99)]
    drawn = [[cuts.boxes(b, (300, 400)) for b in bits] for cuts in several_sizes.cuts]
    assert [(cuts.size, cuts.num_views) for cuts in several_sizes.cuts] == [(24, 2), (20, 3)]
    large, small = (np.prod(np.concatenate(boxes)[:, 2:], axis=1) / 120_000 for boxes in drawn)
    assert (len(large), len(small)) == (2 * 99, 3 * 99)
    assert 0.13 < large.min() < 0.25
    assert 0.9 < large.max() <= 1
    assert 0.045 < small.min() < 0.07
    assert 0.12 < small.max() < 0.15


def test_multi_crop_gives_a_tuple_of_views_and_each_group_its_own_draws(several_sizes):
    sizes = [(2, 24), (3, 20)]
    flat = np.full((32, 3, 24, 24, 3), 255, np.uint8)
    batch = {
        "image": tuple(jnp.asarray(flat[:, :v, :s, :s]) for v, s in sizes),
        "size": tuple(jnp.full((32, v, 2), s, jnp.int32) for v, s in sizes),
    }
    large, small = jax.jit(several_sizes.augment)(jax.random.key(0), batch)
    assert (large.shape, small.shape) == ((32, 2, 24, 24, 3), (32, 3, 20, 20, 3))
    brightness = lambda views: np.asarray(views)[:, :, 0, 0].max(axis=-1)
    # White under a factor of 0.2 to 1.8 stays white in half of the cases; solarised, it is dark.
    assert brightness(large)[:, 0].mean() > 0.6 > 0.4 > brightness(large)[:, 1].mean()
    assert brightness(small).mean() > 0.6
    first, second = brightness(large)[:, 0], brightness(small)[:, 0]
    assert np.abs(first - second).max() > 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"local_size": 32}, "local_size=32 is larger than size=24"),
        ({"local_size": 16}, r"local_blur does nothing .* local_size=16: .* Use local_blur=0, "),
        ({"size": 19, "local_size": 8, "local_blur": 0.0}, r"Use blur=\(0.0,0.0\), or"),
        ({"local_min_area": 0.2}, "local_min_area=0.2 and local_max_area=0.14 must be fractions"),
        ({"crop_sampler": "tf", "local_max_area": 0.1}, "local_max_area=0.1: crop_sampler='tf'"),
        ({"blur": (0.5, 1.5)}, r"blur=\(0.5, 1.5\) and solarize"),
        ({"jitter": (0.4, 0.4, 1.2, 0.1)}, r"four numbers in \[0, 0.8\]"),
    ],
)
def test_multi_crop_names_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        policies.multi_crop(**{"size": 24, "local_size": 20, **settings})
