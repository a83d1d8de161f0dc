"""The mesh covers all devices, and a batch that it cannot split is refused."""

import jax
import pytest

from simclr_jax.parallel.mesh import check_batch_size, make_mesh


def test_covers_all_devices_with_one_automatic_axis():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"data": jax.device_count()}
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)


def test_takes_the_devices_it_is_given():
    assert make_mesh(jax.devices()[:2]).devices.size == 2


@pytest.mark.parametrize(
    ("batch_size", "cure"), [(100, "use 96 or 104"), (4, "use 8"), (0, "use 8")]
)
def test_names_batch_sizes_that_work(batch_size, cure):
    with pytest.raises(ValueError, match=f"batch_size={batch_size} .*8 devices.*{cure}"):
        check_batch_size(batch_size, make_mesh())


def test_one_image_has_no_negative():
    with pytest.raises(ValueError, match="2 images"):
        check_batch_size(1, make_mesh(jax.devices()[:1]))
