"""Profiles: what operations are called, and the table of a run from end to end."""

import re

import pytest

from simclr_jax.bench.profile import ProfileSteps, in_words
from simclr_jax.core.errors import UserError
from simclr_jax.plan.hlo import parse
from simclr_jax.run import train

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


@pytest.mark.integration
def test_a_run_prints_its_most_expensive_operations(tiny_config, tmp_path, capsys):
    tiny_config["data"]["fraction"] = 0.05  # 12 steps
    watch = lambda run: [ProfileSteps(str(tmp_path / "trace"), run)]
    train(tiny_config, str(tmp_path / "run"), watch=watch)
    trace, header, *rows = capsys.readouterr().out.splitlines()
    assert trace.startswith("Trace of 5 steps: ")
    assert trace.endswith(".xplane.pb")
    assert header.split() == ["ms", "a", "step", "share", "operation", "pass", "where", "result"]
    found = [re.match(r"([\d.]+) +([\d.]+)%  ", row) for row in rows]
    milliseconds = [float(row[1]) for row in found if row]
    assert len(milliseconds) == 10
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert any("backward" in row for row in rows)


@pytest.mark.integration
def test_a_run_that_is_too_short_is_refused(tiny_config, tmp_path):
    tiny_config["data"]["fraction"] = 0.02  # 6 steps
    with pytest.raises(UserError, match="traces steps 4 to 8, and the run has 6"):
        train(tiny_config, str(tmp_path), watch=lambda run: [ProfileSteps(str(tmp_path), run)])
