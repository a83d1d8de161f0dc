"""Schedules against nine recipes of the official code."""

from pathlib import Path

import numpy as np
import pytest

from simclr_jax.optim.schedules import num_train_steps, num_warmup_steps, peak_rate, warmup_cosine

GOLDEN = np.load(Path(__file__).parents[2] / "golden/lr_schedule.npz")
RECIPES = sorted({key.split("/")[0] for key in GOLDEN.files})


@pytest.mark.parametrize("recipe", RECIPES)
def test_equals_the_official_schedule(recipe):
    config = dict(pair.split("=") for pair in str(GOLDEN[f"{recipe}/config"][0]).split())
    examples, batch = int(config["examples"]), int(config["batch"])
    total = num_train_steps(examples, batch, int(config["epochs"]))
    assert total == GOLDEN[f"{recipe}/total_steps"]
    schedule = warmup_cosine(
        peak=peak_rate(float(config["base_lr"]), batch, config["scaling"]),
        total_steps=total,
        warmup_steps=num_warmup_steps(examples, batch, float(config["warmup_epochs"])),
    )
    want = GOLDEN[f"{recipe}/lr"]
    got = schedule(GOLDEN[f"{recipe}/steps"].astype(np.int32))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6 * want.max())


def test_rate_is_zero_at_step_zero_and_peaks_after_warmup():
    schedule = warmup_cosine(peak=2.0, total_steps=100, warmup_steps=10)
    np.testing.assert_allclose([schedule(i) for i in (0, 5, 10, 100, 1000)], [0, 1, 2, 0, 0])


def test_unscaled_rate_is_the_base_rate():
    assert peak_rate(0.002, 512, "none") == 0.002


def test_names_a_scaling_that_does_not_exist():
    with pytest.raises(ValueError, match="'linear', 'sqrt' or 'none'"):
        peak_rate(0.1, 256, "quadratic")


def test_refuses_a_warmup_longer_than_the_run():
    with pytest.raises(ValueError, match="50 steps does not fit into a run of 40"):
        warmup_cosine(peak=1.0, total_steps=40, warmup_steps=50)


def test_refuses_a_run_of_no_epochs():
    with pytest.raises(ValueError, match="epochs=0"):
        num_train_steps(100, 10, 0)
