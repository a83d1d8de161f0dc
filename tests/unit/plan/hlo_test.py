"""Reading the text of compiled programs."""

import math

import jax
import jax.numpy as jnp
import pytest

from simclr_jax.plan.hlo import Array, parse
from tests.helpers import hlo

TEXT = """\
HloModule small, is_scheduled=true

%body.1 (p.0: (s32[], f32[4])) -> pred[] {
  %p.0 = (s32[]{:T(128)}, /*index=1*/f32[4]{0:T(128)S(1)}) parameter(0)
  ROOT %end = pred[]{:T(512)S(6)} constant(true)
}

ENTRY %main.2_spmd (x.1: bf16[8,128]) -> (bf16[8,128], ()) {
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="x (of a test)"}
  %s = ((bf16[8,128]{1,0}), bf16[2,128]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) slice-start(%x.1), \
slice={[0:2], [0:128]}
  ROOT %t = (bf16[8,128]{1,0}, ()) tuple(%x.1, /*index=1*/%s), calls=%a, branches={%b, %c}
}
"""


def test_names_shapes_and_memory():
    computations, entry = parse(TEXT)
    assert (list(computations), entry) == (["body.1", "main.2_spmd"], "main.2_spmd")
    state = computations["body.1"].instructions["p.0"]
    assert state.parts == ((Array("s32", (), ":T(128)"),), (Array("f32", (4,), "0:T(128)S(1)"),))
    assert (computations["body.1"].root.name, state.arrays[1].nbytes) == ("end", 16)
    main = computations["main.2_spmd"]
    assert [array.hbm_bytes for array in main.instructions["s"].arrays] == [2048, 0, 0]
    assert (main.root.operands, main.root.parts[1]) == (("x.1", "s"), ())
    assert (main.root.called("calls"), main.root.called("branches")) == (["a"], ["b", "c"])
    assert main.users["x.1"] == [main.instructions["s"], main.root]
    assert main.parameters[0].name == "x.1"


COPIES = """\
HloModule copies

ENTRY %main (x: (s32[], f32[])) -> s32[] {
  %x = (s32[], f32[]) parameter(0)
  %first = s32[] get-tuple-element(%x), index=0
  %copied = s32[]{:S(6)} copy(%first)
  %pair = (s32[], s32[]) tuple(%copied, %copied)
  %other = s32[] get-tuple-element(%pair), index=1
  %minus = s32[] constant(-4)
  %four = s32[] copy(%minus)
  %half = f32[] constant(0.5)
  ROOT %sum = s32[] add(%other, %four)
}
"""


def test_sees_through_copies():
    computations, entry = parse(COPIES)
    main = computations[entry]
    values = {name: main.integer(name) for name in ("four", "half", "sum", "elsewhere")}
    assert values == {"four": -4, "half": None, "sum": None, "elsewhere": None}
    assert [main.element(name) for name in ("copied", "other", "four")] == [0, None, None]


@pytest.mark.parametrize(
    ("dtype", "nbytes"),
    [("pred", 3), ("s4", 1), ("bf16", 6), ("f8e4m3fn", 3), ("c64", 24), ("token", 0)],
)
def test_bytes_of_an_element(dtype, nbytes):
    assert Array(dtype, (3,)).nbytes == nbytes


@pytest.mark.parametrize(
    ("shape", "layout", "padded"),
    [
        ((5, 3), "1,0:T(8,128)", (8, 128)),
        ((5, 3), "0,1:T(8,128)(2,1)", (128, 8)),
        ((2, 130, 9), "2,1,0:T(8,128)S(1)", (2, 136, 128)),
        ((9,), "0:T(128)", (128,)),
        ((5, 3), "1,0", (5, 3)),
    ],
)
def test_whole_tiles(shape, layout, padded):
    assert Array("bf16", shape, layout).padded_bytes == 2 * math.prod(padded)
    assert Array("bf16", shape, layout).in_hbm == ("S(1)" not in layout)


def test_reads_what_this_jax_prints():
    def fn(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c) @ c, None), x, length=3)[0]

    computations, entry = parse(hlo(jax.jit(fn).lower(jnp.ones((8, 8))).compile()))
    assert computations[entry].parameters[0].arrays[0].shape == (8, 8)
    opcodes = {i.opcode for c in computations.values() for i in c.instructions.values()}
    assert {"while", "parameter", "fusion"} <= opcodes


def test_refuses_other_text():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")
