"""Unreadable images of several processes: each counted once, whoever finds it, and too many."""

import json
import types

import pytest

from simclr_jax.core.state import TrainState
from simclr_jax.data.quarantine import Quarantine, TooManyUnreadableError, Unreadable
from simclr_jax.train import unreadable
from simclr_jax.train.unreadable import CountUnreadable

STATE = TrainState(step=0, params={}, batch_stats={}, opt_state=())


class Hundred:
    name = "a hundred"
    class_names = ()
    fingerprint = ""

    def __len__(self):
        return 100

    def __getitem__(self, index, /):
        raise NotImplementedError


def entry(i):
    return Unreadable(i, f"image {i}", "broken")


@pytest.fixture
def other(monkeypatch):
    """What another process tells, each time that this one asks."""
    told = []
    both = lambda text: [text, json.dumps(told.pop(0))]
    monkeypatch.setattr(unreadable, "hosts", types.SimpleNamespace(gather=both))
    return told


def test_an_image_that_two_processes_find_counts_once(other):
    quarantine = Quarantine()
    images = CountUnreadable(quarantine, Hundred(), max_unreadable=0.03, earlier=[entry(7)])
    other += [[entry(1), entry(2)], [entry(3)], []]
    quarantine.add(entry(2))
    assert images.count() == 3
    images(1, STATE, {})
    quarantine.add(entry(7))
    assert images.count() == 4
    with pytest.raises(TooManyUnreadableError, match=r"4 of the 100 images of a hundred .* image"):
        images(2, STATE, {})


def test_what_an_earlier_start_found_ends_no_run():
    found = [entry(i) for i in range(50)]
    images = CountUnreadable(Quarantine(), Hundred(), max_unreadable=0.03, earlier=found)
    assert images.count() == 50
    images(1, STATE, {})
