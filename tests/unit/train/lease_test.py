"""A workdir has one run at a time: who lives is named, who is gone is replaced."""

import json
import os
import subprocess
import sys
import time

import jax.numpy as jnp
import pytest
from etils import epath

from simclr_jax.core.errors import TryAgainError, UserError
from simclr_jax.core.state import TrainState
from simclr_jax.train import lease as leases
from simclr_jax.train.lease import acquire

STATE = TrainState(step=jnp.asarray(0), params={}, batch_stats={}, opt_state=())
ELSEWHERE = {"host": "tpu-7", "machine": "another", "id": "theirs", "pid": 41, "started": 1e9}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.05)


def read(workdir):
    return json.loads((workdir / "lease.json").read_text())


def write(workdir, **content):
    (workdir / "lease.json").write_text(json.dumps(content))


class Sleep:
    """Counts the seconds instead of waiting for them; at some of them something happens."""

    def __init__(self, *events):
        self.seconds, self.events = 0.0, [*events]

    def __call__(self, seconds):
        self.seconds += seconds
        while self.events and self.seconds >= self.events[0][0]:
            self.events.pop(0)[1]()


def never(seconds):
    raise AssertionError(f"waited {seconds} s")


def test_a_lease_names_its_process_changes_while_it_lives_and_goes_with_it(tmp_path):
    lease = acquire(tmp_path / "run", sleep=never)
    first = read(tmp_path / "run")
    assert first["pid"] == os.getpid()
    deadline = time.monotonic() + 10
    while read(tmp_path / "run")["renewed"] <= first["renewed"] + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    lease(1, STATE, {})
    lease.close()
    assert not list((tmp_path / "run").iterdir())


def test_a_second_run_on_this_machine_is_refused_at_once_with_the_name_of_the_first(tmp_path):
    lease = acquire(tmp_path, sleep=never)
    with pytest.raises(TryAgainError, match=rf"in use: process {os.getpid()} on \S+, started 20"):
        acquire(tmp_path, sleep=never)
    lease.close()
    acquire(tmp_path, sleep=never).close()


def test_a_process_of_this_machine_that_has_died_is_replaced_at_once(tmp_path, caplog):
    program = (
        "import os, sys; from simclr_jax.train.lease import acquire; acquire(sys.argv[1]); "
        "os._exit(9)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, tmp_path])
    process.wait()
    assert read(tmp_path)["pid"] == process.pid
    sleep = Sleep()
    acquire(tmp_path, sleep=sleep).close()
    assert sleep.seconds == leases.SETTLE_SECONDS
    assert f"the place of process {process.pid} on" in caplog.text


def test_a_number_that_another_process_has_got_since_is_no_sign_of_life(tmp_path):
    lease = acquire(tmp_path, sleep=never)
    content = read(tmp_path)
    lease.close()
    write(tmp_path, **content | {"started": content["started"] - 3600})
    acquire(tmp_path, sleep=Sleep()).close()


def test_a_lease_of_another_machine_is_taken_over_when_it_has_not_changed_for_its_time(tmp_path):
    write(tmp_path, **ELSEWHERE, renewed=3)
    sleep = Sleep()
    acquire(tmp_path, sleep=sleep).close()
    assert sleep.seconds == leases.EXPIRES_SECONDS + leases.SETTLE_SECONDS


def test_a_lease_of_another_machine_that_changes_is_refused_with_its_name(tmp_path):
    write(tmp_path, **ELSEWHERE, renewed=3)
    sleep = Sleep((12, lambda: write(tmp_path, **ELSEWHERE, renewed=4)))
    with pytest.raises(TryAgainError, match="process 41 on tpu-7, started 2001-09-09"):
        acquire(tmp_path, sleep=sleep)
    assert read(tmp_path)["id"] == "theirs"


def test_a_lease_that_is_given_back_meanwhile_is_free(tmp_path):
    write(tmp_path, **ELSEWHERE, renewed=3)
    sleep = Sleep((12, (tmp_path / "lease.json").unlink))
    acquire(tmp_path, sleep=sleep).close()
    assert sleep.seconds == 12


@pytest.mark.parametrize("text", ["", '{"host": "tp', "[1]", "null"])
def test_a_lease_that_cannot_be_read_expires_as_any_other(tmp_path, text):
    (tmp_path / "lease.json").write_text(text)
    sleep = Sleep()
    acquire(tmp_path, sleep=sleep).close()
    assert sleep.seconds == leases.EXPIRES_SECONDS + leases.SETTLE_SECONDS


def test_of_two_that_take_over_at_once_one_gives_way(tmp_path):
    write(tmp_path, **ELSEWHERE, renewed=3)
    faster = lambda renewed: write(tmp_path, **ELSEWHERE | {"id": "faster"}, renewed=renewed)
    settled = leases.EXPIRES_SECONDS + leases.SETTLE_SECONDS
    sleep = Sleep((settled, lambda: faster(0)), (settled + 5, lambda: faster(1)))
    with pytest.raises(TryAgainError, match="tpu-7"):
        acquire(tmp_path, sleep=sleep)
    assert read(tmp_path)["id"] == "faster"


def call_for_ten_seconds(lease):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        lease(7, STATE, {})


def test_a_run_whose_lease_was_taken_over_stops_and_leaves_it(tmp_path):
    lease = acquire(tmp_path, sleep=never)
    write(tmp_path, **ELSEWHERE, renewed=0)
    with pytest.raises(TryAgainError, match=r"step 7, without a checkpoint.*by process 41 on tpu"):
        call_for_ten_seconds(lease)
    lease.close()
    assert read(tmp_path)["id"] == "theirs"


def test_a_disk_that_is_full_for_a_while_costs_no_lease(tmp_path, monkeypatch, caplog):
    lease = acquire(tmp_path, sleep=never)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(leases, "_write", full)
        deadline = time.monotonic() + 10
        while "could not be renewed" not in caplog.text:
            assert time.monotonic() < deadline
    before = read(tmp_path)["renewed"]
    while read(tmp_path)["renewed"] == before:
        assert time.monotonic() < deadline
    lease(1, STATE, {})
    lease.close()


def test_a_workdir_that_cannot_be_made_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write to --workdir=\S+file/run: Not a directory"):
        acquire(epath.Path(tmp_path / "file" / "run"), sleep=never)
