"""The mesh covers all devices, and a batch that it cannot split is refused."""

import dataclasses

import jax
import pytest

from simclr_jax.parallel.mesh import check_batch_size, make_mesh


def test_covers_all_devices_with_automatic_axes():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"slice": 1, "data": 8, "fsdp": 1}
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_takes_the_devices_it_is_given():
    assert make_mesh(jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize(("wanted", "got"), [(4, 4), (8, 8), (6, 2), (16, 8), (3, 1)])
def test_shares_arrays_among_as_many_devices_as_divide_the_mesh(wanted, got):
    assert dict(make_mesh(fsdp=wanted).shape) == {"slice": 1, "data": 8 // got, "fsdp": got}


@dataclasses.dataclass(frozen=True, order=True)
class Device:
    slice_index: int
    process_index: int
    id: int


def test_devices_that_share_arrays_are_in_one_slice_and_those_of_a_process_are_neighbours():
    devices = [Device(s, 2 * s + p, n) for n in (1, 0) for p in (1, 0) for s in (1, 0)]
    mesh = make_mesh(devices, fsdp=2)
    assert dict(mesh.shape) == {"slice": 2, "data": 2, "fsdp": 2}
    assert [*mesh.devices.flat] == sorted(devices)


@pytest.mark.parametrize("slices", [(0, 0, 1), (0, 0, 1, 2, 2, 2)])
def test_refuses_slices_of_different_sizes(slices):
    devices = [Device(s, s, n) for n, s in enumerate(slices)]
    with pytest.raises(ValueError, match=f"{len(slices)} devices in . slices of different sizes"):
        make_mesh(devices)


@pytest.mark.parametrize(
    ("batch_size", "cure"), [(100, "use 96 or 104"), (4, "use 8"), (0, "use 8")]
)
def test_names_batch_sizes_that_work(batch_size, cure):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} .*8 devices.*{cure}"):
        check_batch_size(batch_size, make_mesh())


@pytest.mark.parametrize("batch_size", [1, 0, -5])
def test_one_image_has_no_negative(batch_size):
    with pytest.raises(ValueError, match=r"2 examples.*; use 2\."):
        check_batch_size(batch_size, make_mesh(jax.devices()[:1]))
