"""How a verb ends: exit codes, and words for what went wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.cli import app


def test_a_device_that_runs_out_of_memory_is_named_with_a_way_out(capsys, monkeypatch):
    def main():
        jax.jit(lambda: jnp.ones((2**30, 2**28)))().block_until_ready()

    monkeypatch.setattr(app, "_parse", lambda *arguments: True)
    assert app.run(main, ["verb"], required=("config",)) == app.FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: A device ran out of memory: RESOURCE_EXHAUSTED")
    assert "1152921504606846976 bytes" in said
    assert "--topology=here --fit" in said
    assert app.run(main, ["verb"], required=()) == app.FAILED
    assert "--config" not in capsys.readouterr().err, "this verb takes none"


def test_so_is_the_host(capsys):
    def main():
        np.ones(2**60, np.uint8)

    assert app.run(main, ["verb"], required=()) == app.FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: The host ran out of memory: Unable to allocate 1.00 EiB")


@pytest.mark.parametrize(
    "words", ["INTERNAL: broken", "RESOURCE_EXHAUSTED: Received message larger than max"]
)
def test_another_error_of_a_device_is_not_taken_for_it(words):
    def main():
        raise jax.errors.JaxRuntimeError(words)

    with pytest.raises(jax.errors.JaxRuntimeError, match=words):
        app.run(main, ["verb"], required=())
