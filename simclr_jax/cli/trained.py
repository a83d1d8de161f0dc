"""A trained encoder, read back from its workdir: what evaluate, embed and report share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from simclr_jax import build
from simclr_jax.core.errors import UserError
from simclr_jax.core.types import Batch
from simclr_jax.data.records import Source
from simclr_jax.parallel.mesh import make_mesh
from simclr_jax.parallel.sharding import replicated
from simclr_jax.train.checkpoint import Checkpoints
from simclr_jax.train.workdir import load_config


@dataclasses.dataclass(frozen=True)
class Trained:
    """An encoder and the run that it comes from.

    Attributes:
      parts: what the run's config describes, on the devices of this process.
      variables: params and batch_stats of the encoder.
      step: optimizer steps that they have seen.
    """

    parts: build.Parts
    variables: Mapping[str, Any]
    step: int

    @property
    def shown_source(self) -> Source:
        """The images to show people: those that were not trained on, if there are any."""
        return self.parts.test_source or self.parts.source

    def labelled_sources(self) -> tuple[Source, Source]:
        """Returns the labelled images to fit on and to judge on.

        Raises:
          UserError: if the run's config names no test images, or they have no labels.
        """
        train, test = self.parts.source, self.parts.test_source
        if test is None or not train.class_names:
            raise UserError(
                f"kNN and linear probe need labelled training and test images, and {train.name} "
                f"has {'no test_split' if train.class_names else 'no labels'}. Train with "
                "config.data.test_split, and for a folder of class folders with "
                "config.data.labels_from_folders=True. Without labels, `report` shows nearest "
                "neighbours and `embed` writes features."
            )
        return train, test

    def encode(self, batch: Batch) -> jax.Array:
        """Returns the representations [b, d] of a placed batch."""
        return self.parts.encode(self.variables, batch)

    def encode_at_random_initialisation(self) -> Callable[[Batch], jax.Array]:
        """Returns `encode` with the parameters that training started from."""
        parts = self.parts
        state = jax.jit(parts.init, out_shardings=replicated(parts.mesh))()
        variables = build.encoder_variables(state)
        return lambda batch: parts.encode(variables, batch)


def load(workdir: str) -> Trained:
    """Reads the newest checkpoint of a run.

    Raises:
      UserError: if the directory holds no run, or no checkpoint.
    """
    parts = build.parts(load_config(workdir), make_mesh())
    with Checkpoints(workdir, read_only=True) as checkpoints:
        variables = checkpoints.restore_variables(build.encoder_variables(parts.abstract_state))
        step = checkpoints.latest_step()
    return Trained(parts, variables, step or 0)
