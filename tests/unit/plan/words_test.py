"""What operations are called, and the traffic of the parts that they belong to."""

import pytest

from simclr_jax.plan.hlo import parse
from simclr_jax.plan.traffic import operations
from simclr_jax.plan.words import by_part, in_words

PROGRAM = """\
HloModule jit_train_step

ENTRY %main (x: f32[8,4]) -> f32[8,4] {{
  ROOT %y = f32[8,4]{{1,0}} {line}
}}
"""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            'convolution(%x, %x), metadata={op_name="jit(train_step)/transpose(jvp(SSLModel))/'
            'encoder/stem/conv_general_dilated" source_line=3}',
            ("conv_general_dilated", "backward", "SSLModel/encoder/stem", "f32[8,4]"),
        ),
        (
            'fusion(%x), kind=kLoop, calls=%f, metadata={op_name="jit(train_step)/'
            'jvp(SSLModel)/encoder/norm/add"}',
            ("add and what is fused with it", "forward", "SSLModel/encoder/norm", "f32[8,4]"),
        ),
        ('sine(%x), metadata={op_name="jit(train_step)/sin"}', ("sin", "-", "-", "f32[8,4]")),
        ("copy(%x)", ("copy", "-", "-", "f32[8,4]")),
    ],
)
def test_an_operation_in_words(line, words):
    computations, entry = parse(PROGRAM.format(line=line))
    assert in_words(computations[entry].root) == words


PARTS = """\
HloModule jit_train_step

ENTRY %main (x: f32[4,64], w: f32[4,64]) -> f32[4,64] {
  %x = f32[4,64]{1,0} parameter(0), metadata={op_name="state.params['encoder']['kernel']"}
  %w = f32[4,64]{1,0} parameter(1)
  %one = f32[4,64]{1,0:S(1)} sine(%x), metadata={op_name="jit(train_step)/jvp(SSLModel)/encoder/\
encoder.maps/stage1/block0/sin"}
  %out-start = (f32[4,64]{1,0}, f32[4,64]{1,0:S(1)}, u32[]{:S(2)}) copy-start(%one)
  %out-done = f32[4,64]{1,0} copy-done(%out-start)
  %two = f32[4,64]{1,0} cosine(%out-done), metadata={op_name="jit(train_step)/jvp(SSLModel)/\
encoder/encoder.maps/stage1/block2/cos"}
  %in-start = (f32[4,64]{1,0:S(1)}, f32[4,64]{1,0}, u32[]{:S(2)}) copy-start(%w)
  %in-done = f32[4,64]{1,0:S(1)} copy-done(%in-start)
  ROOT %three = f32[4,64]{1,0} multiply(%in-done, %two), metadata={op_name="jit(train_step)/\
transpose(jvp(SSLModel))/encoder/encoder.maps/stage2/mul"}
}
"""


def test_traffic_by_part_and_pass_counted_by_hand():
    kib = 1024
    forward = kib + kib + 2 * kib  # x is read, copied to HBM, read and written
    backward = kib + 2 * kib  # w is copied from HBM; "two" is read, and the result written
    rows = by_part(operations(PARTS))
    assert [tuple(row.values()) for row in rows] == [
        ("encoder/maps/stage1", "forward", forward, 3),
        ("encoder/maps/stage2", "backward", backward, 2),
    ]
