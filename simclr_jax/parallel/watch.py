"""Processes that watch each other, so that none waits for one that is gone.

Where a process dies in the middle of a step, the others wait for its part. JAX aborts them after
a while, and its message names no host. Here each holds a connection to process 0, which the system
closes with the process; what process 0 learns it tells all others.
"""

import contextlib
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from simclr_jax.parallel import hosts

log = logging.getLogger(__name__)
CONNECT_SECONDS = 10
GRACE_SECONDS = 20  # for all to end by themselves when one does so with an error
# A host without power or network closes no connection: it is asked after 10 s, and gone after 30.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Watch:
    """Connections to other processes; use as a context manager.

    Each process says "done" or "failed" when its block is over. One that goes without a word is
    lost, and so is one that has failed, if the others have not ended `GRACE_SECONDS` later; `lost`
    is called with its name.
    """

    def __init__(
        self, peers: Mapping[str, socket.socket], lost: Callable[[str], None], *, relays: bool
    ) -> None:
        """Starts to watch.

        Args:
          peers: connections, by the name of the process at the other end.
          lost: what to do, in a thread of its own.
          relays: whether the others hear of it from this process.
        """
        self._peers = dict(peers)
        self._lost = lost
        self._relays = relays
        self._over = threading.Event()
        self._found = threading.Lock()
        for name, peer in peers.items():
            threading.Thread(
                target=self._listen, args=(name, peer), name="watch", daemon=True
            ).start()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(5)  # if that is because another one is lost, this process ends meanwhile
        self._over.set()
        self._tell("done" if error is None else "failed")
        for peer in self._peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)  # wakes the thread that listens
            peer.close()

    def _tell(self, word: str, *, but: str = "") -> None:
        for name, peer in self._peers.items():
            if name != but:
                with contextlib.suppress(OSError):  # it may be over for the peer, too
                    peer.sendall(f"{word}\n".encode())

    def _listen(self, name: str, peer: socket.socket) -> None:
        try:
            with peer.makefile("r", encoding="utf-8") as lines:
                for line in lines:
                    word, _, who = line.strip().partition(" ")
                    if word == "lost":
                        self._end(who)
                    if word == "failed" and not self._over.wait(GRACE_SECONDS):
                        self._end(name)
                    if word in ("done", "failed"):
                        return
        except OSError as error:
            log.debug("%s: %s", name, error)
        self._end(name)

    def _end(self, name: str) -> None:
        if self._over.is_set() or not self._found.acquire(blocking=False):
            return
        if self._relays:
            self._tell(f"lost {name}", but=name)
        self._lost(name)


@contextlib.contextmanager
def end_with_others() -> Iterator[None]:
    """Ends this process, with exit code 75 and in words, if another one is lost in the block.

    All processes must enter it at the same point.
    """
    if jax.process_count() == 1:
        yield
        return
    with Watch(_connect(), _exit, relays=hosts.is_primary()):
        yield


def _exit(name: str) -> None:
    print(
        f"error: {name} is lost, and this process ends, too. Start all again: the run goes on from "
        "its last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(hosts.TRY_AGAIN)  # the main thread waits in native code


def _connect() -> dict[str, socket.socket]:
    """Returns the connections of process 0 to all others, or of another one to it, by name."""
    server, offer = None, {}
    if hosts.is_primary():
        server = socket.create_server(("", 0), backlog=jax.process_count())
        offer = {"port": server.getsockname()[1], "token": secrets.token_hex(16)}
    offer |= {"host": socket.gethostname(), "addresses": [socket.gethostname(), *_addresses()]}
    said = [json.loads(text) for text in hosts.gather(json.dumps(offer))]
    names = [f"process {i} ({one['host']})" for i, one in enumerate(said)]
    if server is not None:
        with server:
            found = _accepted(server, said[0]["token"], names)
    else:
        found = _joined(said[0], names[0])
    for peer in found.values():
        _keep_alive(peer)
    return found


def _addresses() -> list[str]:
    """Returns the address of this host towards others, if it has one."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
        way.connect(("192.0.2.1", 9))  # an address for documentation; nothing is sent
        return [way.getsockname()[0]]
    return []


def _joined(offer: Mapping[str, Any], name: str) -> dict[str, socket.socket]:
    here = ["localhost"] if offer["host"] == socket.gethostname() else []
    for address in [*offer["addresses"], *here]:
        with contextlib.suppress(OSError):
            peer = socket.create_connection((address, offer["port"]), timeout=CONNECT_SECONDS)
            peer.sendall(f"{offer['token']} {jax.process_index()}\n".encode())
            return {name: peer}
    log.warning("%s cannot be reached: if it is lost, this process only ends after a while.", name)
    return {}


def _accepted(server: socket.socket, token: str, names: list[str]) -> dict[str, socket.socket]:
    found: dict[str, socket.socket] = {}
    server.settimeout(3 * CONNECT_SECONDS)
    while len(found) < len(names) - 1:
        try:
            peer, _ = server.accept()
        except TimeoutError:
            missing = [name for name in names[1:] if name not in found]
            log.warning("Not watched, as they did not connect: %s.", ", ".join(missing))
            break
        peer.settimeout(CONNECT_SECONDS)
        with contextlib.suppress(OSError, ValueError, IndexError):
            said, number = _line(peer).split(" ")
            if secrets.compare_digest(said, token):
                found[names[int(number)]] = peer
                continue
        peer.close()  # something else that looks for open ports
    return found


def _line(peer: socket.socket) -> str:
    """Reads one line, byte by byte: what follows is for others."""
    data = b""
    while not data.endswith(b"\n") and len(data) < 64 and (byte := peer.recv(1)):
        data += byte
    return data.decode("ascii").strip()


def _keep_alive(peer: socket.socket) -> None:
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # Linux has them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
