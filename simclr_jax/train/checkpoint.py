"""Checkpoints: D/checkpoints/STEP/, written by orbax in the background.

A checkpoint holds the whole TrainState and, as JSON, the position in the data
stream. Randomness needs no entry: keys are derived from the seed and the step.
"""

import json
import logging
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from simclr_jax.core.errors import UserError
from simclr_jax.core.state import TrainState
from simclr_jax.core.types import Metrics
from simclr_jax.train.health import require_finite

log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one workdir; use as a context manager, which waits for the last one."""

    def __init__(self, workdir: str, *, keep: int = 2, read_only: bool = False) -> None:
        """Opens D/checkpoints.

        Args:
          workdir: directory of the run.
          keep: how many of the newest checkpoints stay.
          read_only: never creates, deletes or cleans anything.
        """
        path = epath.Path(workdir)
        # A bucket's path is absolute as it is; `absolute` would look for it below this directory.
        self.directory = (path if path.is_absolute() else path.absolute()) / "checkpoints"
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            enable_async_checkpointing=not read_only,
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                # Without a limit orbax holds an encoded copy of the whole state until it commits.
                "state": ocp.StandardCheckpointHandler(save_concurrent_gb=1),
                "data": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, or None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: dict[str, Any]) -> None:
        """Starts to write a checkpoint; the files appear under their name when complete."""
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data)
            ),
        )

    def restore(self, abstract_state: TrainState) -> TrainState:
        """Restores the newest checkpoint.

        Args:
          abstract_state: the state's shapes, types and shardings on the mesh of *this* run,
            which need not be the one that wrote the checkpoint.

        Raises:
          UserError: if there is no checkpoint.
        """
        state = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
        return self._manager.restore(self._require_step(), args=state)["state"]

    def shapes(self) -> dict[str, Any]:
        """Returns the newest state as nested mappings of things with a shape and a dtype."""
        state = self.directory / str(self._require_step()) / "state"
        metadata: Any = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).metadata(state)
        return metadata.item_metadata.tree

    def restore_variables(self, abstract_variables: dict[str, Any]) -> dict[str, Any]:
        """Restores only some entries of the newest state, such as its params and batch_stats.

        Args:
          abstract_variables: {"params": ..., "batch_stats": ...} of shapes with shardings;
            each may be a part of what the checkpoint holds.
        """
        step = self._require_step()
        return ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
            self.directory / str(step) / "state",
            args=ocp.args.PyTreeRestore(
                item=abstract_variables,
                restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_variables),
                partial_restore=True,
            ),
        )

    def evaluated(self) -> str:
        """Returns the path in the newest state of the network that is evaluated; "" for the state.

        Checkpoints of before methods could name one have none.
        """
        data = self._manager.restore(
            self._require_step(), args=ocp.args.Composite(data=ocp.args.JsonRestore())
        )["data"]
        return {"evaluated": "", **data}["evaluated"]

    def _require_step(self) -> int:
        step = self.latest_step()
        if step is None:
            raise UserError(
                f"{self.directory} holds no finished checkpoint. Train first: "
                f"python -m simclr_jax train --config=... --workdir={self.directory.parent}"
            )
        return step


def newest(workdir: str) -> tuple[int, dict[str, Any]]:
    """Returns the step of the newest checkpoint and what is noted beside its state.

    Nothing is opened, so that no process waits for another: one that cannot start would keep the
    others waiting. (0, {}) if there is none.
    """
    directory = epath.Path(workdir) / "checkpoints"
    names = [path.name for path in directory.iterdir()] if directory.exists() else []
    step = max((int(name) for name in names if name.isdecimal()), default=0)
    noted = directory / str(step) / "data" / "metadata"
    return step, json.loads(noted.read_text()) if step and noted.exists() else {}


def require_listing(workdir: str, listing: str) -> None:
    """Checks that the newest checkpoint, if there is one, was trained on the same images.

    Raises:
      UserError: if it was trained on another list of images.
    """
    _, noted = newest(workdir)
    if noted and noted["listing"] != listing:
        raise UserError(
            f"The run in {workdir} was trained on another list of images: "
            "files were added, removed or renamed since, or the split is another. Use "
            "another --workdir, or bring the images back."
        )


class SaveCheckpoint:
    """Hook: saves every `every` steps and at the last step, if the step was finite."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        every: int,
        num_steps: int,
        batch_size: int,
        listing: str,
        evaluated: str = "",
    ) -> None:
        """Sets when to save, and what to note beside the state.

        Args:
          checkpoints: where to.
          every: steps from one checkpoint to the next.
          num_steps: of the run; its last step is always saved.
          batch_size: images in the global batch.
          listing: fingerprint of the training images.
          evaluated: see `Method.evaluated`.
        """
        self._checkpoints = checkpoints
        self._every = every
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._listing = listing
        self._evaluated = evaluated

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Saves if it is time to."""
        if step % self._every == 0 or step == self._num_steps:
            self.save(step, state, metrics)

    def save(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Saves now; does nothing if this step is saved already."""
        require_finite(step, metrics)
        if self._checkpoints.latest_step() != step:
            # The position in the stream of shuffled images: the next batch starts there.
            data = {
                "next_example": step * self._batch_size,
                "listing": self._listing,
                "evaluated": self._evaluated,
            }
            self._checkpoints.save(step, state, data)
            log.info("Checkpoint at step %d -> %s", step, self._checkpoints.directory)
