"""Reading: what storage does wrong changes no batch, names nobody unreadable, and ends in words."""

import dataclasses
import errno
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from simclr_jax.data import reading
from simclr_jax.data.load import train_batches
from simclr_jax.data.quarantine import Quarantine
from simclr_jax.data.reading import OutageError, Patience, Reader
from simclr_jax.data.records import Record


@dataclasses.dataclass
class Shaky:
    """Image i is filled with i; before it is read, `before(i, number of the try)` is called."""

    before: Callable[[int, int], object] = lambda i, number: None
    name: str = "shaky"
    class_names: tuple[str, ...] = ()
    fingerprint: str = "0"
    tries: dict = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int, /) -> Record:
        self.tries[index] = self.tries.get(index, 0) + 1
        self.before(index, self.tries[index])
        return Record(np.full((4, 4), index, np.uint8), -1, f"image {index}")

    def name_of(self, index: int) -> str:
        return f"file {index}"


def fails(*args):
    raise OSError(errno.EIO, "Input/output error")


def batches(source, **options):
    defaults: dict[str, Any] = {
        "batch_size": 8,
        "canvas": 4,
        "seed": 0,
        "first_step": 0,
        "num_steps": 6,
    }
    return list(train_batches(source, **(defaults | options)))


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("num_threads", [0, 3])
def test_errors_that_pass_change_nothing_and_name_nobody_unreadable(num_threads):
    quarantine = Quarantine()
    source = Shaky(lambda i, number: fails() if i % 5 == 0 and number < 3 else None)
    got = batches(source, quarantine=quarantine, num_threads=num_threads)
    assert_same(got, batches(Shaky()))
    assert quarantine.count == 0
    assert source.tries[5] >= 3


def test_an_outage_is_waited_for_and_then_said(caplog, monkeypatch):
    monkeypatch.setattr(reading, "TELL_AFTER_SECONDS", 0.05)
    quarantine = Quarantine()
    source = Shaky(lambda i, number: fails() if i == 7 else None)
    start = time.monotonic()
    with pytest.raises(OutageError, match=r"file 7 of shaky .* Input/output error.*outage_seconds"):
        batches(source, quarantine=quarantine, patience=Patience(outage_seconds=0.5))
    assert 0.2 < time.monotonic() - start < 5
    assert quarantine.count == 0
    assert "file 7 cannot be read since 0 s: Input/output error" in caplog.text


def test_a_read_that_hangs_is_named_and_done_again(caplog):
    release = threading.Event()
    source = Shaky(lambda i, number: release.wait() if i == 7 and number == 1 else None)
    got = batches(source, patience=Patience(read_timeout=0.1))
    release.set()
    assert_same(got, batches(Shaky()))
    assert "Reading file 7 takes more than 0." in caplog.text


def test_a_slow_read_is_used_when_it_comes():
    source = Shaky(lambda i, number: time.sleep(0.7) if i == 7 else None)
    assert_same(batches(source, patience=Patience(read_timeout=0.3)), batches(Shaky()))


def test_a_read_that_hangs_for_ever_ends_in_words_and_threads_end():
    release = threading.Event()
    source = Shaky(lambda i, number: release.wait() if i == 7 else None)
    with pytest.raises(OutageError, match=r"file 7 of shaky .* hangs"):
        batches(source, patience=Patience(outage_seconds=0.4, read_timeout=0.1))
    release.set()
    for thread in threading.enumerate():
        if thread.name == "reader":
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_error_in_a_job_comes_out_as_it_is():
    reader = Reader(Shaky(), Patience())
    for error in (KeyError("x"), TimeoutError("of the job")):

        def job(error=error):
            raise error

        with pytest.raises(type(error), match=str(error)):
            reader.run(job)
    reader.close()
