"""Copies and images that look the same, found without comparing all with all."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from simclr_jax.data import duplicates
from simclr_jax.data.duplicates import perceptual_hashes, same_groups, similar_groups


def scene(seed, side=128):
    """A picture with structure at all scales, as a photograph has."""
    rng = np.random.default_rng(seed)
    out = np.zeros((side, side, 3))
    for power in range(2, 6):
        coarse = Image.fromarray(rng.integers(0, 256, (2**power, 2**power, 3), np.uint8))
        out += np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), float) / 2**power
    out -= out.min()
    return Image.fromarray((out / out.max() * 255).astype(np.uint8))


def thumbnail(image):
    return np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BILINEAR))


def stored(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


CHANGES = {
    "stored anew": lambda image: stored(image, 30),
    "half as large": lambda image: stored(image.resize((64, 64)), 80),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.05),
    "grey": lambda image: image.convert("L"),
}


def lists(groups):
    return [group.tolist() for group in groups]


def test_equal_numbers_are_grouped_in_the_order_of_the_first():
    values = np.array([7, 3, 7, 5, 3, 7], np.uint64)
    assert lists(same_groups(values)) == [[0, 2, 5], [1, 4]]
    assert same_groups(values[:2]) == []


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_picture_is_found_and_no_other(change):
    scenes = [scene(i) for i in range(30)]
    changed = [change(image) for image in scenes[:10]]
    groups = lists(similar_groups(np.stack([*map(thumbnail, scenes + changed)])))
    assert groups == [[i, 30 + i] for i in range(10)]


def test_chains_become_one_group_whatever_their_order():
    image = scene(0)
    files = [stored(image, quality) for quality in (90, 60, 40, 30)]
    pictures = [thumbnail(one) for one in (files[2], scene(1), files[0], files[3], files[1])]
    assert lists(similar_groups(np.stack(pictures))) == [[0, 2, 3, 4]]


def test_hashes_are_those_of_the_cosine_transform_written_out():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (16, 16), np.uint8)
    k, n = np.meshgrid(np.arange(8), np.arange(16), indexing="ij")
    basis = np.cos(np.pi * k * (2 * n + 1) / 32)
    low = (basis @ picture.astype(float) @ basis.T).reshape(-1)
    bits = low > np.median(low[1:])
    expected = int("".join("1" if bit else "0" for bit in bits), 2)
    assert int(perceptual_hashes(picture[None])[0]) == expected


def test_all_pairs_of_three_bits_are_candidates():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, 200, np.uint64)
    flips = [rng.choice(64, 3, replace=False) for _ in base]
    near = base.copy()
    for i, bits in enumerate(flips):
        for bit in bits:
            near[i] ^= np.uint64(1 << int(bit))
    hashes = np.concatenate([base, near])
    met = set()
    bands = duplicates.BANDS
    for half in duplicates.itertools.combinations(range(bands), bands - duplicates.MAX_BITS):
        for a, b in duplicates._neighbours(hashes, sum(map(duplicates._mask, half))):
            met |= {tuple(sorted(pair)) for pair in zip(a.tolist(), b.tolist(), strict=True)}
    assert met == {(i, 200 + i) for i in range(200)}


def test_nothing_is_found_in_noise_or_in_no_images():
    noise = np.random.default_rng(0).integers(0, 256, (500, 16, 16), np.uint8)
    assert similar_groups(noise) == []
    assert similar_groups(noise[:1]) == []
    assert similar_groups(noise[:0]) == []
