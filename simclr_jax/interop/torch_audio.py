"""Encoders of sounds in PyTorch: rebuilds an exported encoder and loads its weights.

    encoder = load_encoder("audio.safetensors")
    features = encoder(waveforms)  # [n, encoder.num_samples] in [-1, 1] -> [n, encoder.output_dim]

Waveforms have encoder.rate samples a second and one channel. This file imports torch, safetensors
and the files torch_resnet and torch_vit beside it, so the three can be copied into any project.
"""

# torch and safetensors are optional: where they are missing, pyright still reads this file.
# pyright: reportMissingImports=false

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from simclr_jax.interop import torch_resnet, torch_vit

FORMAT_VERSION = "1"
FILTERS = "log_mel/filters"
SETTINGS = {"kind", "encoder", "log_mel", "num_samples"}
LOG_MEL = {"rate", "num_fft", "hop", "num_mels", "lowest_hz", "highest_hz"}
LEAST_POWER = 1e-10  # -100 dB, which the network sees as 0; it sees 0 dB as 1


def load_encoder(path: str) -> "AudioEncoder":
    """Reads a file that `python -m simclr_jax export --format=safetensors` wrote.

    Args:
      path: the .safetensors file; no code in it is executed.

    Returns:
      The encoder on the CPU, in eval mode.

    Raises:
      ValueError: if it is not such a file, or its tensors do not fit its settings.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as a safetensors file: {error}.") from error
    found = (metadata.get("simclr_jax"), metadata.get("kind"))
    if found != (FORMAT_VERSION, "audio"):
        raise ValueError(
            f"{path} is no encoder of sounds that this code can read: its metadata has simclr_jax="
            f"{found[0]!r} and kind={found[1]!r}, not {FORMAT_VERSION!r} and 'audio'. Such a file "
            "is written by python -m simclr_jax export --format=safetensors, of a run on sounds."
        )
    try:
        return from_tensors(_checked_settings(metadata.get("encoder", "")), tensors)
    except (ValueError, RuntimeError) as error:  # RuntimeError: of load_state_dict
        raise ValueError(f"{path} does not hold the encoder that it describes: {error}") from error


def from_tensors(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "AudioEncoder":
    """Returns an encoder with the given weights, in eval mode.

    Args:
      settings: `SETTINGS`; "encoder" are those of the network that "kind" names.
      tensors: by path, such as "params/encoder/stage1/block0/conv1/kernel", and `FILTERS`.

    Raises:
      RuntimeError: if a tensor is missing, left over or of another shape.
    """
    log_mel = settings["log_mel"]
    shape = [log_mel["num_mels"], log_mel["num_fft"] // 2 + 1]
    if FILTERS not in tensors or [*tensors[FILTERS].shape] != shape:
        raise RuntimeError(f"{FILTERS} of the shape {shape} is missing.")
    of_network = {path: x for path, x in tensors.items() if path != FILTERS}
    if settings["kind"] == "resnet":
        network = torch_resnet.from_tensors(settings["encoder"], of_network)
    else:  # fixed positions are computed for each spectrogram: it is no square
        patch = settings["encoder"]["patch"]
        network = torch_vit.from_tensors(settings["encoder"], of_network, image_size=patch)
    spectrogram = LogMel(tensors[FILTERS], log_mel["num_fft"], log_mel["hop"])
    encoder = AudioEncoder(spectrogram, network, log_mel["rate"], settings["num_samples"])
    return encoder.eval()


class AudioEncoder(nn.Module):
    """A spectrogram and a network that sees it as an image of one channel.

    Args:
      log_mel: makes the spectrogram.
      network: encoder of the spectrograms, which are images to it.
      rate: samples per second.
      num_samples: length of the waveforms that it was trained on.

    Attributes:
      output_dim: length of the vector.
    """

    def __init__(self, log_mel: "LogMel", network: nn.Module, rate: int, num_samples: int):
        super().__init__()
        self.log_mel, self.network = log_mel, network
        self.rate, self.num_samples, self.output_dim = rate, num_samples, network.output_dim

    def forward(self, waveforms: Tensor) -> Tensor:
        """Returns what the network makes [n, output_dim] of waveforms [n, samples] in [-1, 1]."""
        decibels = self.log_mel(waveforms)
        return self.network(1 + decibels[:, None] / 100)


class LogMel(nn.Module):
    """Power in mel bands in decibels, at least -100, as librosa computes it.

    The Fourier transform is a convolution with windowed waves, which any runtime knows.

    Args:
      filters: weight [mels, bins] of each frequency in each band.
      num_fft: samples of a frame.
      hop: samples from one frame to the next.
    """

    waves: Tensor
    filters: Tensor

    def __init__(self, filters: Tensor, num_fft: int, hop: int):
        super().__init__()
        self.num_fft, self.hop = num_fft, hop
        bins, samples = torch.arange(num_fft // 2 + 1), torch.arange(num_fft)
        # The angle modulo a turn, so that large products lose nothing.
        angles = 2 * math.pi * (bins[:, None] * samples % num_fft).double() / num_fft
        window = torch.hann_window(num_fft, periodic=True, dtype=torch.float64)
        waves = torch.cat([angles.cos(), angles.sin()]) * window
        self.register_buffer("waves", waves.float()[:, None], persistent=False)
        self.register_buffer("filters", filters)

    def forward(self, waveforms: Tensor) -> Tensor:
        """Returns decibels [n, frames, mels] of waveforms [n, samples] in [-1, 1].

        Frames are centred on multiples of the hop, with the waveform mirrored at its ends.
        """
        half = self.num_fft // 2
        x = functional.pad(waveforms[:, None], (half, half), "reflect")
        x = functional.pad(x, (0, self.num_fft % 2))  # so that the last frame is whole
        real, imaginary = functional.conv1d(x, self.waves, stride=self.hop).chunk(2, dim=1)
        bands = self.filters @ (real**2 + imaginary**2)  # [n, mels, frames]
        return 10 * torch.log10(bands.clamp(min=LEAST_POWER)).transpose(1, 2)


def _checked_settings(text: str) -> dict[str, Any]:
    settings = json.loads(text)
    if not isinstance(settings, dict) or settings.keys() != SETTINGS:
        raise ValueError(f"its settings must be {', '.join(sorted(SETTINGS))}; it has {text}.")
    known = {"resnet": torch_resnet, "vit": torch_vit}
    if settings["kind"] not in known:
        raise ValueError(f"its setting kind has the value {settings['kind']!r}.")
    checked = known[settings["kind"]].checked_settings(json.dumps(settings["encoder"]))
    numbers = {"num_samples": settings["num_samples"], **settings["log_mel"]}
    if numbers.keys() != {"num_samples", *LOG_MEL}:
        raise ValueError(f"its setting log_mel must have {', '.join(sorted(LOG_MEL))}.")
    for name, value in numbers.items():
        kind = (int, float) if name.endswith("_hz") else int
        if not isinstance(value, kind) or isinstance(value, bool) or value < (kind is int):
            raise ValueError(f"its setting {name} has the value {value!r}.")
    return {**settings, "encoder": checked}
