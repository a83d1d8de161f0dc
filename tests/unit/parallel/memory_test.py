"""A state that cannot fit is refused before anything of it is made."""

import jax
import jax.numpy as jnp
import psutil
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from simclr_jax.core.errors import UserError
from simclr_jax.parallel.memory import require_room
from simclr_jax.parallel.mesh import make_mesh


def kernel(rows, spec):
    sharding = NamedSharding(make_mesh(), spec)
    return {"kernel": jax.ShapeDtypeStruct((rows, 1024), jnp.float32, sharding=sharding)}


def test_a_state_is_measured_by_what_one_device_holds_of_it():
    rows = psutil.virtual_memory().total // 4096 // jax.local_device_count()
    require_room(kernel(rows // 2, P()))
    with pytest.raises(
        UserError, match=r"takes (\d+) GB .* cpu has \d+ GB.* kernel with \1 GB.*fsdp"
    ):
        require_room(kernel(2 * rows, P()))
    require_room(kernel(rows // 8 * 8 * 2, P(("data",))))


def test_a_bank_is_named_and_no_preset_advised_that_would_not_split_it():
    state = {"params": kernel(8, P()), "method_state": {"bank": kernel(10**8, P(("data",)))}}
    with pytest.raises(UserError, match=r"method_state/bank/kernel with 51 GB.*output_dim") as told:
        require_room(state)
    assert "fsdp" not in str(told.value)


def test_a_queue_is_named_with_its_key():
    state = {"method_state": {"queue": kernel(10**8, P())}}
    with pytest.raises(UserError, match=r"method_state/queue/.* 410 GB. Lower .*queue_size"):
        require_room(state)


def test_a_size_beyond_all_integers_of_64_bits_is_still_counted():
    with pytest.raises(UserError, match=r"takes [\d,]{12,} GB"):
        require_room(kernel(10**18, P()))
