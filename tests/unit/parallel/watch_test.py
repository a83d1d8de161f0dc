"""Watching: who is lost is named to all, and who ends in order is not missed."""

import queue
import socket
import threading

import pytest

from simclr_jax.parallel import watch
from simclr_jax.parallel.watch import Watch


@pytest.fixture
def three():
    """Process 0 and its connections to 1 and 2, and how those two see it."""
    one, two = socket.socketpair(), socket.socketpair()
    yield {"1": one[0], "2": two[0]}, {"0": one[1]}, {"0": two[1]}
    for end in (*one, *two):
        end.close()


def start(peers, relays=False):
    lost = queue.SimpleQueue()
    return Watch(peers, lost.put, relays=relays), lost


def test_a_process_that_goes_without_a_word_is_named_to_all(three):
    zero, one, two = three
    _, lost_to_0 = start(zero, relays=True)
    _, lost_to_2 = start(two)
    one["0"].close()
    assert lost_to_0.get(timeout=10) == "1"
    assert lost_to_2.get(timeout=10) == "1"


def test_process_0_is_missed_by_the_others(three):
    zero, one, two = three
    watches = [start(one), start(two)]
    for end in zero.values():
        end.close()
    assert [lost.get(timeout=10) for _, lost in watches] == ["0", "0"]


def test_nobody_is_missed_who_has_done_its_part(three):
    zero, one, _ = three
    watch_of_0, lost = start(zero, relays=True)
    watch_of_1, lost_to_1 = start(one)
    with watch_of_1:
        pass
    with watch_of_0:
        pass
    for told in (lost, lost_to_1):
        with pytest.raises(queue.Empty):
            told.get(timeout=0.3)


@pytest.mark.parametrize("ends", [False, True])
def test_one_that_fails_leaves_the_others_time_to_end(three, monkeypatch, ends):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.3)
    zero, one, _ = three
    watch_of_0, lost = start(zero, relays=True)
    watch_of_1, _ = start(one)
    with pytest.raises(OSError, match="gone"), watch_of_1:
        raise OSError("gone")
    if ends:
        with watch_of_0:
            pass
        with pytest.raises(queue.Empty):
            lost.get(timeout=1)
    else:
        assert lost.get(timeout=10) == "1"


def test_strangers_are_no_processes():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        names, found = ["0", "1"], []
        accept = lambda: found.append(watch._accepted(server, "token", names))
        thread = threading.Thread(target=accept)
        thread.start()
        for said in (b"", b"GET / HTTP/1.1\r\n", b"other 1\n", b"token 9\n", b"token 1\n"):
            with socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(said)
        thread.join(timeout=30)
    assert [*found[0]] == ["1"]
    found[0]["1"].close()
