"""What goes on beside transfers, in programs whose order is written out."""

from simclr_jax.plan.overlap import overlap

PROGRAM = """\
HloModule order

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%body (t: (s32[], f32[8,8])) -> (s32[], f32[8,8]) {
  %t = (s32[], f32[8,8]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%t), index=0
  %v = f32[8,8]{1,0} get-tuple-element(%t), index=1
  %p = (f32[8,8]{1,0}, f32[8,8]{1,0}, u32[], u32[]) collective-permute-start(%v), channel_id=3
  %d = f32[8,8]{1,0} dot(%v, %v), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %pd = f32[8,8]{1,0} collective-permute-done(%p)
  ROOT %next = (s32[], f32[8,8]{1,0}) tuple(%k, %pd)
}

%condition (t: (s32[], f32[8,8])) -> pred[] {
  %t = (s32[], f32[8,8]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (x: f32[2,8], y: f32[8,8]) -> f32[8,8] {
  %x = f32[2,8]{1,0} parameter(0)
  %y = f32[8,8]{1,0} parameter(1)
  %g = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), channel_id=1, dimensions={0}
  %m = f32[8,8]{1,0} dot(%y, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %gd = f32[8,8]{1,0} all-gather-done(%g)
  %h = (f32[2,8]{1,0}, f32[8,8]{1,0}) all-gather-start(%x), channel_id=5, dimensions={0}
  %hd = f32[8,8]{1,0} all-gather-done(%h)
  %r = f32[8,8]{1,0} all-reduce(%m), channel_id=2, to_apply=%sum
  %zero = s32[] constant(0)
  %init = (s32[], f32[8,8]{1,0}) tuple(%zero, %r)
  %loop = (s32[], f32[8,8]{1,0}) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  ROOT %out = f32[8,8]{1,0} get-tuple-element(%loop), index=1
}
"""
PRODUCT = {"flops": 2 * 8**3, "hbm_bytes": 3 * 256}


def test_only_what_stands_between_beginning_and_end_goes_on_beside_a_transfer():
    assert overlap(PROGRAM)["all-gather"] == {"count": 1, "bytes": 256, **PRODUCT}


def test_a_transfer_of_one_instruction_has_nothing_beside_it():
    assert "all-reduce" not in overlap(PROGRAM)


def test_what_goes_on_in_a_loop_counts_as_often_as_it_runs():
    four_times = {name: 4 * n for name, n in PRODUCT.items()}
    assert overlap(PROGRAM)["collective-permute"] == {"count": 4, "bytes": 4 * 256, **four_times}
