"""What is said of runs whose metrics are written by hand."""

import math

import pytest

from simclr_jax.train.verdict import judge

CHANCE = math.log(2 * 128 - 1)


def settings(*, epochs=40, warmup=2.0, dim=64, classifier=None):
    projector = None if dim is None else {"output_dim": dim}
    return {
        "run": {"epochs": epochs},
        "schedule": {"warmup_epochs": warmup},
        "heads": {"projector": projector, "classifier": classifier},
    }


def healthy(num_rows=40, *, steps_per_epoch=50):
    """Rows of a run that goes well, one an epoch."""
    return [
        {
            "step": steps_per_epoch * epoch,
            "epoch": float(epoch),
            "loss": 2.0 + 3.5 / epoch,
            "loss_chance": CHANCE,
            "projection_std": 0.11,
            "health/finite": 1.0,
            "norm/grads": 1.0,
            "norm/updates": 0.2,
            "norm/params": 50.0,
        }
        for epoch in range(1, num_rows + 1)
    ]


def changed(rows, first=0, /, **values):
    return [{**row, **values} if i >= first else row for i, row in enumerate(rows)]


def verdict_on(rows, examples="images", **config):
    verdict = judge(rows, settings(**config), examples)
    assert verdict is not None
    return verdict


def said(rows, **config):
    return " ".join(finding.what for finding in verdict_on(rows, **config).findings)


def test_a_run_that_goes_well_is_told_so_with_figures():
    verdict = verdict_on(healthy())
    assert verdict.findings == []
    assert verdict.headline == "Nothing wrong was found."
    assert verdict.figures["steps"] == "2,000 of about 2,001"
    assert verdict.figures["loss at chance"] == f"{CHANCE:.4g}"


def test_a_loss_at_chance_is_named_with_both_values():
    (finding,) = verdict_on(changed(healthy(), loss=0.99 * CHANCE)).findings
    assert finding.what.startswith("The loss is at chance")
    assert finding.figures == "5.486, and chance is 5.541"
    assert "config.schedule.base_lr" in finding.advice
    assert said(changed(healthy(), loss=0.97 * CHANCE)) == ""


def test_chance_during_the_warm_up_is_no_finding():
    verdict = verdict_on(changed(healthy(3), loss=CHANCE), warmup=10.0)
    assert verdict.findings == []
    assert "too early" in verdict.headline
    assert "at chance" in said(changed(healthy(11), loss=CHANCE), warmup=10.0)


def test_the_first_tenth_of_a_run_is_too_early_to_judge():
    assert verdict_on(healthy(3), warmup=0.0).early
    assert not verdict_on(healthy(4), warmup=0.0).early


def test_a_run_that_has_ended_is_judged_however_long_its_warm_up():
    rows = changed(healthy(), loss=CHANCE)
    assert "at chance" in said(rows, warmup=39.0)
    assert "warms up for most of the run" in said(rows, warmup=39.0)
    assert said(healthy(), warmup=20.0) == ""


@pytest.mark.parametrize(("dim", "collapsed"), [(64, True), (4096, False), (None, False)])
def test_collapse_is_measured_by_what_so_many_dimensions_allow(dim, collapsed):
    rows = changed(healthy(), projection_std=0.01)
    assert ("have collapsed" in said(rows, dim=dim)) == collapsed


def test_a_loss_that_gives_back_most_of_its_gain_is_rising():
    halfway = (2.5 + CHANCE) / 2
    assert "The loss rises" in said(changed(healthy(), 30, loss=halfway + 1.0))
    assert said(changed(healthy(), 30, loss=halfway - 1.0)) == ""


def test_an_epoch_in_which_nothing_is_trained_is_no_loss_that_rises():
    """As in the first epoch of DeepCluster v2: before there are clusters, the loss is 0."""
    untrained = {"assigned": 0.0, "loss": 0.0, "norm/grads": 0.0}
    learned = changed(healthy(12)[7:], assigned=1.0, loss=3.5)
    rows = [*changed(healthy(7), **untrained), *learned]
    assert said(rows, epochs=12) == ""
    wrong = said([{**row, "assigned": 1.0} for row in rows], epochs=12)
    assert "The loss rises" in wrong
    assert "gradient grows" in wrong


def test_images_without_a_colour_are_named_from_the_first_line():
    (finding,) = verdict_on(changed(healthy(2), coloured=0.0)).findings
    assert finding.what == "No image had a colour: there was nothing to learn from."
    assert finding.figures == "their share is 0 in all lines that tell it, 2"
    assert said(changed(changed(healthy(), coloured=0.0), 39, coloured=0.1)) == ""


def test_without_a_chance_level_a_loss_may_rise():
    rows = [{k: v for k, v in row.items() if k != "loss_chance"} for row in healthy()]
    assert said(changed(rows, 30, loss=9.0)) == ""


def test_pairs_that_are_matched_by_a_leak_are_named():
    def rows(matched, *accuracies):
        judged = changed(healthy(), contrastive_accuracy=matched)
        for row, accuracy in zip(judged[::13], accuracies, strict=False):
            row["knn_top1"] = accuracy
        return judged

    assert "statistics leak" in said(rows(0.999, 0.3, 0.28, 0.2))
    assert said(rows(0.999, 0.3, 0.2, 0.5)) == said(rows(0.9, 0.3, 0.28, 0.2)) == ""
    assert said(rows(0.999, 0.3)) == "", "one value tells of no change"


def test_a_gradient_that_grows_by_orders_is_named():
    assert "gradient grows" in said(changed(healthy(), 35, **{"norm/grads": 200.0}))
    assert said(changed(healthy(), 35, **{"norm/grads": 50.0})) == ""


def test_a_rate_is_blamed_only_for_a_run_that_fails():
    far = {"norm/updates": 10.0}
    near = {"norm/updates": 1e-4}
    assert said(changed(healthy(), **far)) == said(changed(healthy(), **near)) == ""
    assert "rate is too high" in said(changed(healthy(), loss=CHANCE, **far))
    assert "rate is too low" in said(changed(healthy(), loss=CHANCE, **near))


def test_parameters_without_length_blame_no_rate():
    rows = changed(healthy(), loss=CHANCE, **{"norm/params": 0.0})
    assert "rate is" not in said(rows)


def test_a_handful_of_steps_is_no_sign_of_a_low_rate():
    rows = changed(healthy(steps_per_epoch=3), loss=CHANCE, **{"norm/updates": 1e-4})
    assert "too short" in said(rows)
    assert "rate is" not in said(rows)


def test_waits_for_images_are_named_with_their_share():
    (finding,) = verdict_on(changed(healthy(), wait_share=0.6)).findings
    assert finding.figures == "it does so for 60% of the time"
    assert said(changed(healthy(), wait_share=0.2)) == ""


def test_a_step_that_was_not_finite_is_named():
    rows = changed(healthy(2), 1, **{"health/finite": 0.0, "loss": math.nan})
    (finding,) = verdict_on(rows).findings
    assert finding.figures == "first at step 100"


def test_hardly_any_steps_come_with_the_epochs_that_would_do():
    (finding,) = verdict_on(healthy(40, steps_per_epoch=3)).findings
    assert finding.figures == "121 steps in 40 epochs; below 500 are hardly any"
    assert finding.advice == "raise config.run.epochs to 166 or more"
    assert said(healthy(40, steps_per_epoch=3), classifier={"num_classes": 3}) == ""


def test_the_last_rows_count_and_not_the_last_one_alone():
    assert said(changed(healthy(), 39, loss=CHANCE)) == ""


def test_rows_without_an_epoch_say_nothing():
    assert judge([], settings(), "images") is None
    assert judge([{"step": 5, "loss": 1.0}], settings(), "images") is None
    assert verdict_on([{"step": 5, "loss": 1.0}, *healthy()]).findings == []


def test_values_that_are_no_numbers_are_left_out():
    odd = {"step": 5, "epoch": 0.1} | dict.fromkeys(healthy(1)[0].keys() - {"step", "epoch"}, "x")
    assert verdict_on([odd, *healthy()]) == verdict_on(healthy())
    assert judge([{"step": 5, "epoch": None}], settings(), "images") is None


@pytest.mark.parametrize("examples", ["images", "sounds", "texts"])
def test_what_was_trained_on_is_called_by_its_name(examples):
    rows = changed(
        healthy(), loss=CHANCE, projection_std=1e-4, wait_share=0.5, pairs_per_second=64.0
    )
    verdict = verdict_on(rows, examples)
    words = " ".join([verdict.headline, *(x.advice for x in verdict.findings), *verdict.figures])
    for sentence in (f"all {examples} look nearly", f"waits for {examples}", f"{examples} per sec"):
        assert sentence in words
    for other in {"images", "sounds", "texts"} - {examples}:
        assert other not in words
