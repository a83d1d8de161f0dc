"""Counting what a program moves and multiplies, by hand and by the compiler's own counts."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.plan.aot import slice_devices
from simclr_jax.plan.chips import find_slice
from simclr_jax.plan.traffic import Collective, count, operations
from tests.helpers import hlo

# Small enough to count by hand. KIB is 1024 bytes: an f32[256] or bf16[4,128].
KIB = 1024
SMALL = """\
HloModule small, is_scheduled=true

%fused_slice (p0: f32[64,256], p1: s32[]) -> f32[256] {
  %p0 = f32[64,256]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,256]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,256}
  %flat = f32[256]{0} bitcast(%row)
  ROOT %sine = f32[256]{0} sine(%flat)
}

%fused_update (q0: f32[64,256], q1: f32[256], q2: s32[]) -> f32[64,256] {
  %q0 = f32[64,256]{1,0} parameter(0)
  %q1 = f32[256]{0} parameter(1)
  %q2 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  %new = f32[1,256]{1,0} bitcast(%q1)
  ROOT %in_place = f32[64,256]{1,0} dynamic-update-slice(%q0, %new, %q2, %zero.1)
}

%condition (c: (s32[], f32[256])) -> pred[] {
  %c = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %end = s32[]{:T(128)} constant(5)
  ROOT %again = pred[]{:S(6)} compare(%i, %end), direction=LT
}

%body (b: (s32[], f32[256])) -> (s32[], f32[256]) {
  %b = (s32[], f32[256]{0}) parameter(0)
  %j = s32[] get-tuple-element(%b), index=0
  %one = s32[] constant(1)
  %next = s32[]{:S(6)} add(%j, %one)
  %v = f32[256]{0} get-tuple-element(%b), index=1
  %w = f32[256]{0} all-reduce(%v), channel_id=7, to_apply=%sum
  ROOT %out = (s32[], f32[256]{0}) tuple(%next, %w)
}

ENTRY %main (x: f32[64,256], y: bf16[4,128], z: f32[256], k: s32[]) -> f32[64,256] {
  %x = f32[64,256]{1,0:T(8,128)} parameter(0)
  %y = bf16[4,128]{1,0:T(8,128)(2,1)} parameter(1)
  %z = f32[256]{0:T(256)} parameter(2)
  %k = s32[] parameter(3)
  %zero.2 = s32[] constant(0)
  %copy-start = (bf16[4,128]{1,0:T(8,128)(2,1)S(1)}, bf16[4,128]{1,0}, u32[]{:S(2)}) copy-start(%y)
  %copy-done = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  %square = bf16[4,128]{1,0:T(8,128)(2,1)} multiply(%copy-done, %copy-done)
  %slice-start = ((f32[64,256]{1,0}), f32[4,256]{1,0:S(1)}, u32[]{:S(2)}) slice-start(%x), \
slice={[0:4], [0:256]}
  %slice-done = f32[4,256]{1,0:S(1)} slice-done(%slice-start)
  %on_chip = f32[4,256]{1,0:S(1)} negate(%slice-done)
  %row.1 = f32[256]{0:S(1)} fusion(%x, %k), kind=kLoop, calls=%fused_slice
  %start = (s32[], f32[256]{0}) tuple(%zero.2, %z)
  %loop = (s32[], f32[256]{0}) while(%start), condition=%condition, body=%body
  %last = f32[256]{0} get-tuple-element(%loop), index=1
  ROOT %done = f32[64,256]{1,0} fusion(%x, %last, %k), kind=kLoop, \
output_to_operand_aliasing={{}: (0, {})}, calls=%fused_update
}
"""


def test_hbm_bytes_of_a_program_counted_by_hand():
    copied = 2 * KIB  # y is read, in tiles of 8 x 128; its copy lies in VMEM
    squared = 2 * KIB  # written; its operands lie in VMEM
    sliced = 4 * KIB  # 4 of 64 rows of x are read
    row = KIB + 4  # one row of x and k are read, the result lies in VMEM
    step = 4 + 2 * KIB  # i is read, v reduced into w
    test = 4 + 4  # i and the end are read
    updated = KIB + 4 + KIB  # one row and k are read, a row of x is written
    by_hand = copied + squared + sliced + row + 5 * (step + 4 + test) + updated
    assert count(SMALL).hbm_bytes == by_hand


def test_operations_are_what_moves_bytes_with_those_of_loops_in_all_their_runs():
    found = {o.instruction.name: (o.hbm_bytes, o.times) for o in operations(SMALL)}
    assert found == {
        "copy-start": (2 * KIB, 1),
        "square": (2 * KIB, 1),
        "slice-start": (4 * KIB, 1),
        "row.1": (KIB + 4, 1),
        "next": (5 * 8, 5),
        "w": (5 * 2 * KIB, 5),
        "again": (5 * 8, 5),
        "done": (2 * KIB + 4, 1),
    }


def test_a_transfer_in_a_loop_counts_as_often_as_it_runs():
    counts = count(SMALL)
    assert list(counts.collectives.values()) == [Collective("all-reduce", KIB, 5)]
    assert counts.by_kind() == {"all-reduce": {"count": 5, "bytes": 5 * KIB}}


def test_transfers_of_one_channel_in_two_loops_or_of_two_sizes_are_two():
    assert "%loop =" in SMALL
    again = (
        "%loop.2 = (s32[], f32[256]{0}) while(%start), condition=%condition, body=%body\n  %loop ="
    )
    assert count(SMALL.replace("%loop =", again)).by_kind()["all-reduce"]["count"] == 2 * 5
    line = "%w = f32[256]{0} all-reduce(%v), channel_id=7, to_apply=%sum"
    other = "%u = s32[] all-reduce(%j), channel_id=7, to_apply=%sum\n  "
    counts = count(SMALL.replace(line, other + line))
    assert counts.by_kind() == {"all-reduce": {"count": 2 * 5, "bytes": 5 * (KIB + 4)}}


def test_a_fusion_in_a_loop_counts_as_often_as_it_runs():
    assert count(SMALL).fusions == 2
    line = "%w = f32[256]{0} all-reduce(%v), channel_id=7, to_apply=%sum"
    fused = "%w = f32[256]{0} fusion(%v), kind=kLoop, calls=%fused_one"
    one = """\
%fused_one (r: f32[256]) -> f32[256] {
  %r = f32[256]{0} parameter(0)
  ROOT %s = f32[256]{0} sine(%r)
}

"""
    assert line in SMALL
    text = SMALL.replace(line, fused).replace("%condition (c", f"{one}%condition (c")
    assert count(text).fusions == 2 + 5


def test_a_loop_of_unknown_length_is_named_and_counts_once():
    unknown = SMALL.replace("direction=LT", "direction=NE")
    assert count(unknown).unknown_loops == ("loop",)
    assert count(unknown).by_kind()["all-reduce"]["count"] == 1
    known = unknown.replace(
        "body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
    )
    assert count(known).by_kind()["all-reduce"]["count"] == 3


@pytest.mark.parametrize(
    ("start", "step", "end", "runs"),
    [(4, 1, 10, 6), (0, 2, 10, 5), (1, 1, 6, 5), (0, 2, 5, 3), (-3, 1, 2, 5), (7, 1, 5, 0)],
)
def test_a_loop_runs_from_its_start_by_its_step(start, step, end, runs):
    text = SMALL.replace("%zero.2 = s32[] constant(0)", f"%zero.2 = s32[] constant({start})")
    text = text.replace("%one = s32[] constant(1)", f"%one = s32[] constant({step})")
    text = text.replace("constant(5)", f"constant({end})")
    assert count(text).by_kind()["all-reduce"]["count"] == runs
    assert count(text).unknown_loops == ()


@pytest.mark.parametrize(
    ("line", "other"),
    [
        ("%zero.2 = s32[] constant(0)", "%zero.2 = s32[] bitcast(%k)"),
        ("%one = s32[] constant(1)", "%one = s32[] constant(0)"),
        ("%one = s32[] constant(1)", "%one = s32[] constant(-1)"),
        ("%one = s32[] constant(1)", "%one = s32[] convert(%j)"),
        ("add(%j, %one)", "multiply(%j, %one)"),
        ("add(%j, %one)", "add(%one, %one)"),
        ("%end = s32[]{:T(128)} constant(5)", "%end = s32[]{:T(128)} negate(%i)"),
        ("%i = s32[] get-tuple-element(%c), index=0", "%i = s32[] constant(0)"),
        ("%loop = (s32[], f32[256]{0}) while(%start)", "%loop = (s32[], f32[256]{0}) while(%x)"),
    ],
)
def test_a_loop_whose_start_step_or_end_is_not_there_is_unknown(line, other):
    assert line in SMALL
    assert count(SMALL.replace(line, other)).unknown_loops == ("loop",)


STARTS = """\
HloModule starts

ENTRY %main (x: f32[2,8]) -> f32[8,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %g = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), channel_id=1, dimensions={0}
  %gd = f32[8,8]{1,0} all-gather-done(%g)
  %r = f32[8,8]{1,0} all-reduce-start(%gd), channel_id=2, to_apply=%sum
  %rd = f32[8,8]{1,0} all-reduce-done(%r)
  %p = (f32[8,8]{1,0}, f32[8,8]{1,0}, u32[], u32[]) collective-permute-start(%rd), channel_id=3
  %pd = f32[8,8]{1,0} collective-permute-done(%p)
  ROOT %s = f32[2,8]{1,0} reduce-scatter(%pd), channel_id=4, dimensions={0}, to_apply=%sum
}
"""


def test_asynchronous_transfers_count_once_and_by_their_results():
    assert count(STARTS).by_kind() == {
        "all-gather": {"count": 1, "bytes": 256},
        "all-reduce": {"count": 1, "bytes": 256},
        "collective-permute": {"count": 1, "bytes": 256},
        "reduce-scatter": {"count": 1, "bytes": 64},
    }
    assert count(STARTS).hbm_bytes == (64 + 256) + 2 * 256 + 2 * 256 + (256 + 64)


SCATTER = """\
HloModule scatter

%all-reduce-scatter (input: f32[64,256]) -> f32[16,256] {
  %input = f32[64,256]{1,0} parameter(0)
  %all-reduce = f32[64,256]{1,0} all-reduce(%input), channel_id=1, to_apply=%sum
  %zero = u32[] constant(0)
  %id = u32[] partition-id()
  %rows = u32[] constant(16)
  %first = u32[] multiply(%id, %rows)
  ROOT %own = f32[16,256]{1,0} dynamic-slice(%all-reduce, %first, %zero), \
dynamic_slice_sizes={16,256}
}

ENTRY %main (x: f32[64,256]) -> f32[16,256] {
  %x = f32[64,256]{1,0} parameter(0)
  ROOT %fusion = f32[16,256]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_an_all_reduce_fused_with_a_slice_of_it_is_a_reduce_scatter():
    assert count(SCATTER).by_kind() == {"reduce-scatter": {"count": 1, "bytes": 16 * KIB}}
    assert count(SCATTER).hbm_bytes == (64 + 16) * KIB


def test_an_all_reduce_before_a_slice_of_it_is_whole():
    fused = SCATTER.split("ENTRY")[0].replace("%all-reduce-scatter", "ENTRY %main")
    assert count(fused).by_kind() == {"all-reduce": {"count": 1, "bytes": 64 * KIB}}


def of_cpu(fn, *arguments):
    return count(hlo(jax.jit(fn).lower(*arguments).compile()))


def test_products_of_a_loop_count_as_often_as_it_runs():
    x = jnp.ones((16, 16))
    scan = lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c @ x), None), x, length=7)[0]
    counts = of_cpu(scan, x)
    assert (counts.flops, counts.flops_once) == (7 * 2 * 16**3, 2 * 16**3)


CONVOLUTION = """\
HloModule convolution

ENTRY %main (x: f32[2,5,5,3], w: f32[3,3,3,8]) -> f32[2,3,3,8] {{
  %x = f32[2,5,5,3]{{3,2,1,0}} parameter(0)
  %w = f32[3,3,3,8]{{3,2,1,0}} parameter(1)
  ROOT %y = f32[2,3,3,8]{{3,2,1,0}} convolution(%x, %w), \
window={{size=3x3 stride=2x2 pad=1_1x1_1}}, dim_labels=b01f_01io->b01f{}
}}
"""


def test_products_with_padding_are_none():
    # Of the three windows along each side, the outer two have one pixel outside.
    flops = 2 * 2 * (2 + 3 + 2) ** 2 * 3 * 8
    assert count(CONVOLUTION.format("")).flops == flops
    assert count(CONVOLUTION.format("")).recomputed_flops == 0
    again = CONVOLUTION.format(', metadata={op_name="jit(f)/rematted_computation/conv"}')
    assert count(again).recomputed_flops == flops


GROUPED = """\
HloModule grouped

ENTRY %main (x: f32[{x}], w: f32[{w}]) -> f32[{y}] {{
  %x = f32[{x}]{{3,2,1,0}} parameter(0)
  %w = f32[{w}]{{3,2,1,0}} parameter(1)
  ROOT %y = f32[{y}]{{3,2,1,0}} convolution(%x, %w), window={{size=5x5}}, \
dim_labels=b01f_01io->b01f, {kind}_group_count={groups}
}}
"""


@pytest.mark.parametrize(
    ("kind", "groups", "x", "w", "y"),
    [
        # Each of 6 outputs sees 2 of 4 images, with both of their features.
        ("batch", 2, (4, 5, 5, 2), (5, 5, 2, 6), (2, 1, 1, 6)),
        # Each of 6 outputs sees 4 images, with 1 of their 2 features.
        ("feature", 2, (4, 5, 5, 2), (5, 5, 1, 6), (4, 1, 1, 6)),
        # As in the gradient of a depthwise kernel: each of 6 outputs sees 1 of 6.
        ("batch", 6, (6, 5, 5, 4), (5, 5, 4, 6), (1, 1, 1, 6)),
    ],
)
def test_products_of_groups(kind, groups, x, w, y):
    images, features = (x[0] // groups, x[3]) if kind == "batch" else (x[0], x[3] // groups)
    shapes = {name: ",".join(map(str, s)) for name, s in (("x", x), ("w", w), ("y", y))}
    text = GROUPED.format(kind=kind, groups=groups, **shapes)
    assert count(text).flops == 2 * 6 * images * features * 5 * 5
    lay = ("NHWC", "HWIO", "NHWC")
    given = {f"{kind}_group_count": groups, "dimension_numbers": lay}
    fn = lambda x, w: jax.lax.conv_general_dilated(x, w, (1, 1), "VALID", **given)
    lowered = jax.jit(fn).lower(jnp.ones(x), jnp.ones(w))
    assert lowered.out_info.shape == y
    assert count(text).flops == (lowered.cost_analysis() or {})["flops"]


# As XLA compiles a convolution, a product and their gradients for an H100, shortened.
ON_GPU = """\
HloModule gradients, is_scheduled=true

ENTRY %main (x: f32[8,10,10,16], k: f32[32,3,3,16], w: f32[2048,64]) -> f32[2048,64] {
  %x = f32[8,10,10,16]{3,2,1,0} parameter(0)
  %k = f32[32,3,3,16]{3,2,1,0} parameter(1)
  %w = f32[2048,64]{1,0} parameter(2)
  %conv = (f32[8,8,8,32]{3,2,1,0}, u8[512]{0}) custom-call(%x, %k), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = f32[8,8,8,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %flat = f32[8,2048]{1,0} bitcast(%y)
  %gemm = (f32[8,64]{1,0}, s8[4194304]{0}) custom-call(%flat, %w), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %z = f32[8,64]{1,0} get-tuple-element(%gemm), index=0
  %conv-bw-filter = (f32[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %conv-bw-input = (f32[8,10,10,16]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %gemm.1 = (f32[2048,64]{1,0}, s8[4194304]{0}) custom-call(%flat, %z), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"beta":0,\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["0"],"rhs_contracting_dimensions":["0"]}}}
  ROOT %dw = f32[2048,64]{1,0} get-tuple-element(%gemm.1), index=0
}
"""


def test_libraries_of_a_gpu_multiply_what_their_calls_say():
    counts = count(ON_GPU)
    assert counts.flops == 3 * (2 * 8 * 8 * 8 * 32 * 16 * 3 * 3) + 2 * (2 * 8 * 2048 * 64)
    x, k, y, w, z = (4 * n for n in (8 * 10 * 10 * 16, 32 * 9 * 16, 8 * 2048, 2048 * 64, 8 * 64))
    assert counts.hbm_bytes == 3 * (x + k + y) + 2 * (y + w + z), "without their room to work in"

    def convolved(x, k):
        lay = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=lay)

    def gradients(x, k, y):
        return convolved(x, k), jax.vjp(convolved, x, k)[1](y)

    shapes = [jnp.ones(shape) for shape in ((8, 10, 10, 16), (3, 3, 16, 32), (8, 8, 8, 32))]
    analysis = jax.jit(gradients).lower(*shapes).cost_analysis() or {}
    assert counts.flops == analysis["flops"] + 2 * (2 * 8 * 2048 * 64)


# As XLA compiles both gradients of a convolution with stride 2 for an H100, shortened.
STRIDED_ON_GPU = """\
HloModule gradients, is_scheduled=true

ENTRY %main (x: f32[8,12,12,16], k: f32[32,3,3,16], y: f32[8,6,6,32]) -> f32[8,12,12,16] {
  %x = f32[8,12,12,16]{3,2,1,0} parameter(0)
  %k = f32[32,3,3,16]{3,2,1,0} parameter(1)
  %y = f32[8,6,6,32]{3,2,1,0} parameter(2)
  %conv-bw-filter = (f32[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), \
window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %conv-bw-input = (f32[8,12,12,16]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), \
window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  ROOT %dx = f32[8,12,12,16]{3,2,1,0} get-tuple-element(%conv-bw-input), index=0
}
"""


def test_gradients_with_a_stride_multiply_what_the_convolution_does():
    along = 6 * 3 - 1  # the first of 6 windows begins before the image
    assert count(STRIDED_ON_GPU).flops == 2 * (2 * 8 * 16 * 32 * along**2)


needs_libtpu = pytest.mark.plan("libtpu")


@pytest.fixture(params=["v3:2x2", "v4:2x2x1", "v5e:2x2"])
def compile_for_tpu(request):
    mesh = make_mesh(slice_devices(find_slice(request.param)))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def compile_(fn, *shapes):
        arguments = [jax.ShapeDtypeStruct(*shape, sharding=everywhere) for shape in shapes]
        return jax.jit(fn).lower(*arguments).compile()

    return compile_


@needs_libtpu
def test_a_product_too_large_for_vmem_moves_its_operands_and_its_result(compile_for_tpu):
    n = 16384
    fn = lambda x, w: jax.nn.relu(x @ w)
    compiled = compile_for_tpu(fn, ((n, n), jnp.bfloat16), ((n, n), jnp.bfloat16))
    counts = count(compiled.as_text())
    assert counts.hbm_bytes == 3 * 2 * n**2
    assert counts.flops == 2 * n**3
    assert counts.flops == pytest.approx(compiled.cost_analysis()["flops"], rel=1e-3)


@needs_libtpu
@pytest.mark.parametrize(("start", "step", "end", "runs"), [(4, 1, 10, 6), (0, 2, 10, 5)])
def test_a_loop_on_a_tpu_runs_from_its_start_by_its_step(compile_for_tpu, start, step, end, runs):
    body = lambda s: (s[0] + step, jnp.tanh(s[1] @ s[1]))
    fn = lambda x: jax.lax.while_loop(lambda s: s[0] < end, body, (start, x))
    counts = count(compile_for_tpu(fn, ((1024, 1024), jnp.float32)).as_text())
    assert counts.unknown_loops == ()
    assert (counts.flops, counts.flops_once) == (runs * 2 * 1024**3, 2 * 1024**3)


@needs_libtpu
def test_a_product_that_passes_shards_around_counts_once():
    mesh = make_mesh(slice_devices(find_slice("v5e:2x4")), fsdp=8)
    rows, columns = NamedSharding(mesh, PartitionSpec("fsdp")), PartitionSpec(None, "fsdp")
    x = jax.ShapeDtypeStruct((131072, 2048), jnp.bfloat16, sharding=rows)
    w = jax.ShapeDtypeStruct((2048, 8192), jnp.bfloat16, sharding=NamedSharding(mesh, columns))
    product = jax.jit(lambda x, w: jnp.tanh(x @ w), out_shardings=rows)
    counts = count(hlo(product.lower(x, w).compile()))
    assert counts.flops == 2 * 131072 * 2048 * 8192 // 8
    # XLA sends w around both ways: a shard at first, then two in each of the four turns of a loop
    # that it unrolls by two.
    shard = 2 * w.size // 8
    assert counts.unknown_loops == ()
    assert counts.by_kind() == {"collective-permute": {"count": 9, "bytes": 9 * shard}}


@needs_libtpu
def test_the_gradient_of_sharded_parameters_is_scattered():
    mesh = make_mesh(slice_devices(find_slice("v5e:2x2")), fsdp=4)
    rows, columns = (NamedSharding(mesh, PartitionSpec(*s)) for s in (("fsdp",), (None, "fsdp")))
    x = jax.ShapeDtypeStruct((131072, 2048), jnp.bfloat16, sharding=rows)
    w = jax.ShapeDtypeStruct((2048, 8192), jnp.bfloat16, sharding=columns)
    loss = lambda w, x: jnp.sum(jnp.tanh(x @ w).astype(jnp.float32))
    step = jax.jit(jax.grad(loss), out_shardings=columns)
    kinds = count(hlo(step.lower(w, x).compile())).by_kind()
    assert kinds["reduce-scatter"] == {"count": 1, "bytes": 2 * w.size // 4}
    assert "all-reduce" not in kinds


@needs_libtpu
def test_a_loop_on_a_tpu_counts_as_often_as_it_runs(compile_for_tpu):
    fn = lambda x: jax.lax.scan(lambda c, _: (jnp.tanh(c @ x), None), x, length=5)[0]
    counts = count(compile_for_tpu(fn, ((1024, 1024), jnp.float32)).as_text())
    assert counts.unknown_loops == ()
    assert (counts.flops, counts.flops_once) == (5 * 2 * 1024**3, 2 * 1024**3)
