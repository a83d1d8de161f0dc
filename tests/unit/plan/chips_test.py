"""Names of slices, both kinds, and what a device of each has."""

import pytest

from launch.tpu.catalog import TYPES
from simclr_jax.core.errors import UserError
from simclr_jax.plan.chips import CHIPS, GIB, USER_NAMES, find_slice


@pytest.mark.parametrize(
    ("name", "compiler_name", "num_chips", "num_devices"),
    [
        ("v5litepod-64", "v5e:8x8", 64, 64),
        ("v5e:8x8", "v5e:8x8", 64, 64),
        ("v6e-16", "v6e:4x4", 16, 16),
        ("v4-32", "v4:2x2x4", 16, 16),
        ("v5p-128", "v5p:4x4x4", 64, 64),
        ("v3-32", "v3:4x4", 16, 32),
        ("v2-8", "v2:2x2", 4, 8),
        ("tpu7x:2x2x1", "tpu7x:2x2x1", 4, 8),
        ("v5e:2x16", "v5e:2x16", 32, 32),
    ],
)
def test_both_kinds_of_names(name, compiler_name, num_chips, num_devices):
    found = find_slice(name)
    assert (found.name, found.num_chips, found.num_devices) == (
        compiler_name,
        num_chips,
        num_devices,
    )
    assert find_slice(name, 2).num_devices == 2 * num_devices


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("v5litepod-63", "Did you mean 'v5litepod-64'"),
        ("v5e-64", "Did you mean 'v5litepod-64'"),
        ("v5e:8x8x8", "v5e slices are v5e:1x1, v5e:2x2"),
        ("v5e:32x32", "v5e slices are"),
        ("v9:2x2", "Kinds of chips are v2, v3"),
        ("v4-31", "v4-32"),
        ("v5p-384", "others are named by their sides, like v5p:16x16x24"),
        ("v5p", "v5p slices are v5p:2x2x1"),
        ("v5e:0x4", "v5e"),
        ("", "Kinds of chips"),
    ],
)
def test_an_unknown_name_gets_those_that_are_near(name, cure):
    with pytest.raises(UserError, match=cure):
        find_slice(name)


def test_what_can_be_planned_can_be_launched():
    assert set(USER_NAMES) == set(TYPES)


def test_a_chip_of_two_devices_is_split_in_halves():
    slice_ = find_slice("v3:4x4")
    assert slice_.peak_flops == CHIPS["v3"].peak_flops / 2
    assert slice_.hbm_bandwidth == CHIPS["v3"].hbm_bandwidth / 2


@pytest.mark.parametrize("chip", CHIPS.values(), ids=str)
def test_a_device_may_use_its_share_of_the_chip_at_most(chip):
    share = chip.hbm_gib / chip.devices
    assert 0.9 * share < chip.usable_hbm_gib < share + 1
    assert find_slice(f"{chip.name}:{'x'.join(map(str, chip.shapes[-1]))}").usable_hbm_bytes == int(
        chip.usable_hbm_gib * GIB
    )
