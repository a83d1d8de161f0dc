"""Compiling for TPU slices that are not there."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from simclr_jax.core.errors import UserError
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.plan import aot
from simclr_jax.plan.chips import GIB, find_slice

needs_libtpu = pytest.mark.plan("libtpu")


def test_without_the_compiler_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-tpu\.txt"):
        aot.slice_devices(find_slice("v5e:2x2"))


class Refused:
    """Stands in for a jitted function that the compiler refuses."""

    def __init__(self, message):
        self.message = message

    def lower(self, *arguments):
        return self

    def compile(self, options):
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("words", "gib"),
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (16.31G) "
            "exceeds available HBM (15.75G).",
            16.31,
        ),
        ("Ran out of memory in memory space hbm. Used 20.95G of 15.75G hbm. Exceeded ...", 20.95),
        ("Used 1.5T of 15.75G hbm.", 1536),
        ("in words of another version", None),
    ],
)
def test_a_step_that_does_not_fit_is_an_answer_with_the_compilers_number(words, gib):
    refused = aot.compile_step(Refused(f"RESOURCE_EXHAUSTED: {words}"))
    assert isinstance(refused, aot.TooLarge)
    assert words in refused.message
    assert refused.needed_bytes == (gib and pytest.approx(gib * GIB, abs=1))


def test_another_error_of_the_compiler_is_not_taken_for_one_of_size():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        aot.compile_step(Refused("INTERNAL: broken"))


class OnGpu:
    """Stands in for a jitted function, its argument and its device, compiled for a GPU."""

    shape = dtype = None
    platform = "gpu"
    product = """\
HloModule product

ENTRY %main (x: f32[4,8], y: f32[8,16]) -> f32[4,16] {
  %x = f32[4,8]{1,0} parameter(0)
  %y = f32[8,16]{1,0} parameter(1)
  %gemm = (f32[4,16]{1,0}, s8[64]{0}) custom-call(%x, %y), custom_call_target="__cublas$gemm", \
backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  ROOT %z = f32[4,16]{1,0} get-tuple-element(%gemm), index=0
}
"""

    @property
    def sharding(self):
        return self

    @property
    def device_set(self):
        return {self}

    def lower(self, *arguments):
        return self

    def compile(self, options):
        return self

    def as_text(self):
        return self.product

    def cost_analysis(self):
        return {"flops": -1.0, "bytes accessed": -1.0}  # it does not look into calls of libraries

    def memory_analysis(self):
        sizes = dict.fromkeys(("argument", "temp", "generated_code", "output", "alias"), 1)
        return SimpleNamespace(**{f"{kind}_size_in_bytes": n for kind, n in sizes.items()})


def test_on_a_gpu_only_what_stands_in_the_program_is_counted():
    program = aot.compile_step(OnGpu(), OnGpu())
    assert isinstance(program, aot.Program)
    assert program.flops == 2 * 4 * 8 * 16
    assert program.bytes_accessed is None
    assert program.hbm_bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def on_slice(name, count=1):
    devices = aot.slice_devices(find_slice(name, count))
    return NamedSharding(make_mesh(devices), PartitionSpec())


@needs_libtpu
@pytest.mark.parametrize(
    "name", ["v2:2x2", "v3-32", "v4-8", "v4-32", "v5e:1x1", "v5litepod-8", "v5p-16", "v6e-16"]
)
def test_devices_are_as_many_as_jax_shows_there(name):
    assert len(aot.slice_devices(find_slice(name))) == find_slice(name).num_devices


@needs_libtpu
def test_devices_of_several_slices_know_theirs():
    devices = aot.slice_devices(find_slice("v5e:2x2", 3))
    assert sorted({device.slice_index for device in devices}) == [0, 1, 2]


@needs_libtpu
def test_a_shape_that_the_compiler_refuses_gets_those_on_offer():
    with pytest.raises(UserError, match=r"refuses v5e:3x5.* v5e:4x4"):
        aot.slice_devices(find_slice("v5e:3x5"))


@needs_libtpu
def test_memory_of_a_program():
    x = jax.ShapeDtypeStruct((2**24,), jnp.float32, sharding=on_slice("v5e:2x2"))
    step = jax.jit(lambda x, y: (x + y, y.sum()), donate_argnums=0)
    program = aot.compile_step(step, x, x)
    assert isinstance(program, aot.Program)
    assert program.arguments_bytes == 2 * 2**26
    others = program.temporaries_bytes + program.code_bytes
    assert program.total_bytes == pytest.approx(2 * 2**26 + others, abs=2**16), "x is reused"
    assert program.hbm_bytes == pytest.approx(3 * 2**26, rel=1e-3), "two are read, one is written"


@needs_libtpu
@pytest.mark.parametrize("name", ["v2:2x2", "v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_the_memory_of_each_chip_is_what_the_compiler_says(name):
    slice_ = find_slice(name)
    x = jax.ShapeDtypeStruct((100 * 2**20, 1024), jnp.float32, sharding=on_slice(name))
    refused = aot.compile_step(jax.jit(lambda x: jnp.sort(x, axis=0) + 1), x)
    assert isinstance(refused, aot.TooLarge)
    assert refused.needed_bytes is not None
    assert refused.needed_bytes > slice_.usable_hbm_bytes
    assert f"{slice_.chip.usable_hbm_gib:.2f}G" in refused.message
