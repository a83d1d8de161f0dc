"""Counts of compiled steps: what counts as growth, and that the steps are as they were kept."""

import json

import pytest

from simclr_jax.bench import counts

WAS = {"flops": 1000, "bytes": 500, "fusions": 100, "all-reduce": 42}


@pytest.mark.parametrize(
    ("now", "grew"),
    [
        ({"flops": 1020}, []),
        ({"flops": 1021}, ["flops"]),
        ({"fusions": 103, "bytes": 511}, ["bytes", "fusions"]),
        ({"all-reduce": 43}, ["all-reduce"]),
        ({"all-gather": 1}, ["all-gather"]),
        ({"flops": 1}, []),
    ],
)
def test_more_than_two_percent_of_any_count_is_too_much(now, grew):
    changes = counts.changes("a step", WAS, WAS | now)
    assert {c.what for c in changes} == set(now)
    assert sorted(c.what for c in changes if c.grew) == grew


def test_what_is_gone_has_fallen_to_nothing():
    without = {what: n for what, n in WAS.items() if what != "all-reduce"}
    (change,) = counts.changes("a step", WAS, without)
    assert (change.was, change.now, change.grew) == (42, 0, False)
    assert str(change) == "a step: all-reduce 42 -> 0 (-100.0%)"


def test_what_is_kept_of_one_step_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "KEPT", tmp_path / "counts.json")
    counts.keep("jaxlib 1", {"a": {"flops": 1}, "b": {"flops": 2}})
    counts.keep("jaxlib 2", {"a": {"flops": 3}})
    counts.keep("jaxlib 1", {"b": {"flops": 4}})
    kept = {"a": {"flops": 1}, "b": {"flops": 4}}
    assert counts.kept() == {"jaxlib 1": kept, "jaxlib 2": {"a": {"flops": 3}}}


def require_kept(step):
    """Returns the counts that are kept of a step; skips where there are none by this compiler."""
    name = counts.compiler([step])
    table = json.loads(counts.KEPT.read_text())
    if name not in table:
        pytest.skip(f"no counts are kept of {name}")
    return table[name][str(step)]


QUICK = ("simclr_digits on 8 CPU devices",)  # half a minute each


@pytest.mark.integration
@pytest.mark.parametrize(
    "step",
    [pytest.param(s, marks=[pytest.mark.thorough] * (str(s) not in QUICK)) for s in counts.ON_CPU],
    ids=str,
)
def test_no_count_of_a_step_on_the_cpu_has_grown(step):
    changes = counts.changes(str(step), require_kept(step), counts.counts_of(step))
    assert [str(change) for change in changes if change.grew] == []


# That of ResNet-50 takes libtpu six minutes: `bench --check --tpu` has it, and not these tests.
QUICK_ON_TPU = [step for step in counts.ON_TPU if step.recipe == "simclr_digits"]


@pytest.mark.thorough
@pytest.mark.plan("libtpu")
@pytest.mark.parametrize("step", QUICK_ON_TPU, ids=str)
def test_no_count_of_a_step_on_a_tpu_has_grown(step):
    changes = counts.changes(str(step), require_kept(step), counts.counts_of(step))
    assert [str(change) for change in changes if change.grew] == []
