"""How a verb ends: exit codes, and words for what went wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.cli import app


def test_a_device_that_runs_out_of_memory_is_named_with_a_way_out(capsys):
    def main():
        jax.jit(lambda: jnp.ones((2**22, 2**22)))().block_until_ready()

    assert app.run(main, ["verb"], required=()) == app.FAILED
    said = capsys.readouterr().err
    assert "Out of memory allocating 70368744177664 bytes" in said
    assert "plan --topology=here --fit" in said


def test_so_is_the_host(capsys):
    def main():
        np.ones(2**46, np.uint8)

    assert app.run(main, ["verb"], required=()) == app.FAILED
    said = capsys.readouterr().err
    assert said.startswith("error: The host ran out of memory: Unable to allocate 64.0 TiB")


def test_another_error_of_a_device_is_not_taken_for_it():
    def main():
        raise jax.errors.JaxRuntimeError("INTERNAL: broken")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        app.run(main, ["verb"], required=())
