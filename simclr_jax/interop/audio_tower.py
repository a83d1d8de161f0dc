"""A trained encoder of sounds as export formats take it: waveforms in, spectrograms within."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from simclr_jax.augment.audio import as_images
from simclr_jax.augment.log_mel import LogMel
from simclr_jax.core.types import Collection, Params
from simclr_jax.interop.encoder import (
    encoder_tensors,
    kind_of,
    on_cpu,
    represent,
    settings_of,
)
from simclr_jax.interop.parity import sounds

FILTERS = "log_mel/filters"  # [mels, bins], so that nobody has to compute Slaney's scale again


@dataclasses.dataclass(frozen=True)
class TrainedAudio:
    """An encoder of sounds and its weights; see `encoder.Trained`.

    Attributes:
      network: sees spectrograms as images of one channel.
      params: parameters of the encoder, from params/encoder of a run; host arrays.
      batch_stats: statistics of the encoder, from batch_stats/encoder of a run; host arrays.
      log_mel: settings of the spectrograms.
      num_samples: length of the waveforms that it was trained on.
      projection: see `encoder.Trained`.
    """

    network: nn.Module
    params: Params
    batch_stats: Collection
    log_mel: LogMel
    num_samples: int
    projection: Float[np.ndarray, "d p"] | None = None

    @property
    def kind(self) -> str:
        """Which network it is, for the readers of its files."""
        return "audio"

    @property
    def settings(self) -> dict[str, Any]:
        """Settings to build the network with, and those of the spectrograms."""
        return {
            "kind": kind_of(self.network),
            "encoder": settings_of(self.network),
            "log_mel": dataclasses.asdict(self.log_mel),
            "num_samples": self.num_samples,
        }

    @property
    def variables(self) -> Mapping[str, Any]:
        """The collections that `apply` takes."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def tensors(self) -> dict[str, Float[np.ndarray, "..."]]:
        """See `encoder.encoder_tensors`; beside these are the mel filters, at `FILTERS`."""
        return {**encoder_tensors(self), FILTERS: self.log_mel.filters().astype(np.float32)}

    def inputs(self) -> dict[str, jax.ShapeDtypeStruct]:
        """See `encoder.Trained.inputs`."""
        return {"waveforms": jax.ShapeDtypeStruct((self.num_samples,), jnp.float32)}

    def takes(self, *, channels_first: bool) -> str:
        """See `encoder.Trained.takes`."""
        del channels_first
        return (
            f"float32 waveforms [n, {self.num_samples}] in [-1, 1], {self.log_mel.rate} samples a "
            "second"
        )

    def examples(self) -> tuple[np.ndarray, ...]:
        """Returns 8 sounds."""
        return (sounds(self.num_samples, self.log_mel.rate),)

    @property
    def examples_are(self) -> str:
        """See `encoder.Trained.examples_are`."""
        return "sounds"

    def facts(self) -> dict[str, Any]:
        """Returns what a program must know to use it, as JSON can hold it."""
        return {
            "sounds": f"{self.takes(channels_first=True)}, of one channel: the mean of several. A "
            "longer sound gives its middle, a shorter one is repeated as often as it fits whole, "
            "and silence follows.",
            "rate": self.log_mel.rate,
            "num_samples": self.num_samples,
            "seconds": self.num_samples / self.log_mel.rate,
            "spectrogram": "made within: power in decibels, at least -100, as librosa makes it by "
            "log_mel, with a periodic Hann window, reflected ends and Slaney's scale; the network "
            "sees 1 + decibels / 100.",
            "log_mel": dataclasses.asdict(self.log_mel),
        }

    def apply(
        self, variables: Mapping[str, Any], waveforms: Float[Array, "n samples"]
    ) -> Float[Array, "n d"]:
        """Returns the representations of waveforms in [-1, 1], or their projections."""
        return represent(self, variables, as_images(self.log_mel(waveforms)))

    def encode(self, waveforms: Float[np.ndarray, "n samples"]) -> Float[np.ndarray, "n d"]:
        """Returns what `apply` does; see `encoder.on_cpu`."""
        return on_cpu(self, waveforms)
