"""Metrics as curves: gaps, resumed steps and long runs."""

import numpy as np

from simclr_jax.report.training import MAX_POINTS, series, training_section
from simclr_jax.train.verdict import Finding, Verdict


def test_series_skips_rows_without_a_finite_value():
    rows = [
        {"step": 1, "loss": 3.0},
        {"step": 2},
        {"step": 3, "loss": float("nan")},
        {"step": 4, "loss": None},
        {"step": 5, "loss": 2.0},
        {"loss": 9.0},
    ]
    found = series(rows, "loss")
    assert found is not None
    assert found.unit == "step"
    np.testing.assert_array_equal(found.x, [1, 5])
    np.testing.assert_array_equal(found.y, [3, 2])
    assert series(rows, "lr") is None


def test_a_step_logged_again_after_a_resume_counts_once():
    rows = [{"step": s, "epoch": s / 2, "loss": v} for s, v in ((1, 5.0), (2, 4.0), (2, 3.0))]
    found = series(rows, "loss")
    assert found is not None
    assert found.unit == "epoch"
    np.testing.assert_array_equal(found.x, [0.5, 1.0])
    np.testing.assert_array_equal(found.y, [5, 3])


def test_a_long_run_is_averaged_not_cut():
    rows = [{"step": s, "loss": float(s)} for s in range(30 * MAX_POINTS)]
    found = series(rows, "loss")
    assert found is not None
    assert len(found.x) == MAX_POINTS
    np.testing.assert_allclose(found.y.mean(), np.mean([row["loss"] for row in rows]))
    np.testing.assert_allclose(found.x, found.y)


def test_caption_tells_learning_from_not_learning():
    falls = [{"step": s, "loss": 6.0 - s / 10, "loss_chance": 6.24} for s in range(20)]
    flat = [{"step": s, "loss": 6.25, "loss_chance": 6.24} for s in range(20)]
    assert "Look for a curve that falls below" in training_section(falls)
    assert "nothing has been learned yet" in training_section(flat)


def test_a_loss_that_may_be_any_distance_has_no_unit():
    page = training_section([{"step": 1, "loss": 0.5}])
    assert "<h3>Loss</h3>" in page
    assert "nats" not in page


def test_one_logged_step_is_enough():
    row = {"step": 1, "loss": 6.0, "loss_chance": 6.2, "lr": 0.1, "pairs_per_second": 9.0}
    row |= {"contrastive_accuracy": 0.1, "knn_top1": 0.2}
    assert training_section([row]).count("<svg") == 4


def test_the_verdict_stands_above_the_curves():
    row = {"step": 1, "loss": 6.0}
    finding = Finding("It is <stuck>.", "6 > 5", "lower config.schedule.base_lr")
    page = training_section([row], Verdict([finding], {}, early=False))
    said = page.index(
        "<strong>It is &lt;stuck&gt;.</strong> (6 &gt; 5)<br>What to try: lower config"
    )
    assert said < page.index("<svg")
    assert "Nothing wrong was found." in training_section([row], Verdict([], {}, early=False))
    assert "too early" in training_section([row], Verdict([], {}, early=True))
