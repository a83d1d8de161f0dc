"""Reading checkpoints: D/checkpoints/STEP/, each checked before anything is made of it.

A checkpoint holds the whole TrainState and, as JSON, the position in the data
stream. Randomness needs no entry: keys are derived from the seed and the step.
"""

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import orbax.checkpoint as ocp
from etils import epath

from simclr_jax.core.errors import StorageError, UserError
from simclr_jax.core.files import absolute, file_sizes, reason
from simclr_jax.core.state import TrainState
from simclr_jax.train import integrity

log = logging.getLogger(__name__)
DAMAGED = "damaged"  # D/damaged/STEP: checkpoints that a run has set aside


class Stored(NamedTuple):
    """A checkpoint, as a list of them shows it.

    Attributes:
      step: optimizer steps taken.
      num_bytes: size of all its files.
      condition: what the check of its files found.
      metrics: values of that step, as far as one decides which checkpoint is the best.
    """

    step: int
    num_bytes: int
    condition: integrity.Condition
    metrics: dict[str, float]


class Checkpoints:
    """The checkpoints of one workdir, as they are now; changes nothing unless it says so."""

    def __init__(self, workdir: epath.PathLike) -> None:
        """Names the directory of the run; nothing is read before it is asked for."""
        self.directory = epath.Path(absolute(str(workdir))) / "checkpoints"

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, damaged ones too, the oldest first."""
        paths = ocp.utils.checkpoint_steps_paths(self.directory)
        return sorted(int(path.name) for path in paths if path.name.isdigit())

    def last(self) -> int:
        """Returns the step of the newest whole checkpoint as `find` does; 0 if there are none."""
        return self.find() if self.steps() else 0

    def find(self, step: int | None = None) -> int:
        """Returns the step of the newest whole checkpoint, or `step` if that one is whole.

        Reads all files of that checkpoint and of newer ones; the log names those that are damaged.

        Raises:
          UserError: if there is no checkpoint, none of `step`, or it is damaged.
        """
        steps = self.steps()
        if not steps:
            raise UserError(
                f"{self.directory} holds no finished checkpoint. Train first: "
                f"python -m simclr_jax train --config=... --workdir={self.directory.parent}"
            )
        if step is not None and step not in steps:
            known = ", ".join(map(str, steps))
            raise UserError(f"{self.directory} holds no checkpoint of step {step}, but of {known}.")
        damaged: list[str] = []
        for candidate in reversed(steps) if step is None else (step,):
            condition = integrity.check(self.directory / str(candidate))
            if not condition.damage:
                if damaged:
                    log.warning("%s. Step %d is read instead.", "; ".join(damaged), candidate)
                if not condition.summed:
                    log.warning("%s: %s.", self.directory / str(candidate), condition)
                return candidate
            damaged.append(f"{self.directory / str(candidate)} is damaged: {condition.damage}")
        advice = (
            "None is whole: bring a copy back, or use another --workdir."
            if step is None
            else "Without --step the newest whole one is read."
        )
        raise UserError(f"{'; '.join(damaged)}. {advice}")

    def set_aside_after(self, step: int) -> None:
        """Moves the checkpoints after a step, which are damaged, to D/damaged/.

        A run that goes on from `step` writes those steps again.
        """
        for damaged in (s for s in self.steps() if s > step):
            aside = self.directory.parent / DAMAGED / str(damaged)
            while aside.exists():
                aside = aside.with_name(f"{aside.name}.again")
            aside.parent.mkdir(exist_ok=True)
            (self.directory / str(damaged)).rename(aside)
            log.warning("The damaged checkpoint of step %d now lies in %s.", damaged, aside)

    def survey(self) -> list[Stored]:
        """Returns all checkpoints, after a check of every file."""
        return [
            Stored(
                step,
                sum(file_sizes(self.directory / str(step)).values()),
                integrity.check(self.directory / str(step)),
                self.metrics(step),
            )
            for step in self.steps()
        ]

    def require_listing(self, step: int, listing: str, examples: str) -> None:
        """Checks that a checkpoint was trained on the same images, sounds or texts.

        Args:
          step: number of the checkpoint; 0 stands for none, which fits all images.
          listing: fingerprint of the training images now.
          examples: what they are called, such as "images".

        Raises:
          UserError: if it was trained on another list of images.
        """
        if step and self._data(step)["listing"] != listing:
            raise UserError(
                f"The run in {self.directory.parent} was trained on another list of {examples}: "
                "files were added, removed or renamed since, or the split is another. Use "
                f"another --workdir, or bring the {examples} back."
            )

    def restore(self, step: int, abstract_state: TrainState) -> TrainState:
        """Restores a whole state.

        Args:
          step: number of the checkpoint, from `find`.
          abstract_state: the state's shapes, types and shardings on the mesh of *this* run,
            which need not be the one that wrote the checkpoint.

        Raises:
          StorageError: if it cannot be read.
        """
        with self._reading(step) as state:
            return ocp.StandardCheckpointer().restore(state, abstract_state)

    def shapes(self, step: int) -> dict[str, Any]:
        """Returns a state as nested mappings of things with a shape and a dtype."""
        with self._reading(step) as state:
            metadata: Any = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(state)
            return metadata.item_metadata.tree

    def restore_variables(self, step: int, abstract_variables: dict[str, Any]) -> dict[str, Any]:
        """Restores only some entries of a state, such as its params and batch_stats.

        Args:
          step: number of the checkpoint, from `find`.
          abstract_variables: {"params": ..., "batch_stats": ...} of shapes with shardings;
            each may be a part of what the checkpoint holds.

        Raises:
          StorageError: if it cannot be read.
        """
        args = ocp.args.PyTreeRestore(
            item=abstract_variables,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_variables),
            partial_restore=True,
        )
        with self._reading(step) as state:
            return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(state, args=args)

    def evaluated(self, step: int) -> str:
        """Returns the path in a state of the network that is evaluated; "" for the state.

        Checkpoints of before methods could name one have none.
        """
        return {"evaluated": "", **self._data(step)}["evaluated"]

    def metrics(self, step: int) -> dict[str, float]:
        """Returns the metrics that were saved with a step; {} if it is damaged."""
        try:
            return {"metrics": {}, **self._data(step)}["metrics"]
        except StorageError:
            return {}

    @contextlib.contextmanager
    def _reading(self, step: int) -> Iterator[epath.Path]:
        path = self.directory / str(step)
        try:
            yield path / "state"
        except Exception as error:  # of many kinds: every layer below has its own
            raise StorageError(f"{path} cannot be restored: {why(error)}.") from error

    def _data(self, step: int) -> dict[str, Any]:
        path = self.directory / str(step) / "data" / "metadata"
        try:
            data = json.loads(path.read_bytes())
            return {**data, "listing": data["listing"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{path} cannot be read: {why(error)}.") from error


def why(error: Exception) -> str:
    """Returns the reason of a failure in one line, from an error of any layer."""
    if isinstance(error, OSError):
        return reason(error)
    text = str(error) or type(error).__name__
    if number := re.search(r"os_error_code='(\d+)'", text):  # of TensorStore
        return os.strerror(int(number.group(1)))
    return text.splitlines()[0][:300]
