"""This machine's devices in the place of a slice."""

import jax
import psutil
import pytest

from simclr_jax.core.errors import UserError
from simclr_jax.plan.chips import find_slice
from simclr_jax.plan.here import find_here


def test_the_devices_share_the_memory_of_the_machine():
    here = find_here(1, None)
    assert here.num_devices == jax.local_device_count() == 8
    assert here.usable_hbm_bytes == psutil.virtual_memory().total // 8
    assert here.facts()["chip"]["memory"] == "RAM"


class Gpu:
    """Stands in for a device with memory of its own."""

    platform = "gpu"
    device_kind = "NVIDIA RTX"

    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


def test_a_gpu_has_what_jax_may_allocate(monkeypatch):
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu({"bytes_limit": 18 * 2**30})] * 2)
    here = find_here(1, None)
    assert (here.num_devices, here.usable_hbm_bytes) == (2, 18 * 2**30)
    assert here.facts()["chip"]["name"] == "NVIDIA RTX"
    assert "allocate" in here.facts()["chip"]["limit"]


@pytest.mark.parametrize(
    ("count", "price", "says"),
    [(2, None, "--num_slices=2 is for TPU slices"), (1, 2.5, "Leave --price out")],
)
def test_what_only_a_slice_has_is_refused(count, price, says):
    with pytest.raises(UserError, match=says):
        find_here(count, price)


@pytest.mark.parametrize("stats", [None, {}])
def test_a_gpu_whose_memory_is_unknown_is_refused(monkeypatch, stats):
    monkeypatch.setattr(jax, "local_devices", lambda: [Gpu(stats)])
    with pytest.raises(UserError, match="does not say how much memory NVIDIA RTX has"):
        find_here(1, None)


def test_devices_that_jax_cannot_use_are_an_error_in_words(monkeypatch):
    def refuse():
        raise RuntimeError("Unable to initialize backend")

    monkeypatch.setattr(jax, "local_devices", refuse)
    with pytest.raises(UserError, match="does another program"):
        find_here(1, None)


def test_whoever_misspells_it_learns_its_name():
    with pytest.raises(UserError, match="Did you mean 'here'"):
        find_slice("heer")
