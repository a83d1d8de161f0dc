"""Events for TensorBoard, a convenience: if they cannot be written, the run goes on."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue] - protobuf makes it at run time
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue] - as above
)
from tensorboardX.proto.summary_pb2 import (
    Summary,  # pyright: ignore[reportAttributeAccessIssue] - as above
)
from tensorboardX.record_writer import RecordWriter

from simclr_jax.core.files import reason

log = logging.getLogger(__name__)


class TensorBoard:
    """Writes events at once, in the thread that calls, until that fails for the first time.

    tensorboardX's own SummaryWriter has a thread and a queue in shared memory: when the thread has
    died of a full disk, whoever writes waits for it for ever.
    """

    def __init__(self, directory: epath.PathLike, *, first_step: int) -> None:
        """Opens a file in `directory`; older events from `first_step` + 1 on are not shown."""
        self._writer: RecordWriter | None = None
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{first_step}"
        try:
            os.makedirs(directory, exist_ok=True)
            self._writer = RecordWriter(os.path.join(directory, name))
        except OSError as error:
            self._give_up(error)
        self._write(Event(file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first_step + 1, session_log=start))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Adds a value to each of some curves."""
        points = [summary.scalar(name, value).value[0] for name, value in values.items()]
        self._write(Event(step=step, summary=Summary(value=points)))

    def image(self, name: str, image: UInt8[np.ndarray, "h w 3"], step: int) -> None:
        """Adds a picture."""
        picture = summary.image(name, image, dataformats="HWC")
        self._write(Event(step=step, summary=picture))

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()  # nothing waits to be written
            self._writer = None

    def _write(self, event: Event) -> None:
        if self._writer is None:
            return
        event.wall_time = time.time()
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        log.warning("No more events for TensorBoard (%s); metrics.jsonl has all.", reason(error))
        if self._writer is not None:
            with contextlib.suppress(OSError):  # it tries to write once more
                self._writer.close()
        self._writer = None
