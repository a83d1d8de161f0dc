"""Encoders of sounds out: a file takes waveforms and computes what the run's views lead to."""

import dataclasses
import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from simclr_jax.augment import audio
from simclr_jax.augment.log_mel import LogMel
from simclr_jax.core.errors import UserError
from simclr_jax.core.tree import path_name
from simclr_jax.interop import formats, stablehlo
from simclr_jax.interop.audio_tower import FILTERS, TrainedAudio
from simclr_jax.interop.formats import export
from simclr_jax.interop.parity import sounds
from simclr_jax.models.resnet import ResNet
from simclr_jax.models.vit import ViT

GOLDEN = np.load(Path(__file__).parents[2] / "golden/multimodal/log_mel.npz")
LOG_MEL = LogMel(rate=8000, num_fft=256, hop=125, num_mels=16, highest_hz=4000.0)
NUM_SAMPLES = 1900  # 16 frames, and not a whole number of hops
NETWORKS = {
    "resnet": ResNet(depth=18, width=0.125, stem="cifar", dtype=jnp.bfloat16),
    "vit": ViT(size="tiny", patch=4),
    "learned": ViT(size="tiny", patch=4, learned_positions=8),
}


def relative(got, want):
    return float(np.abs(got - want).max() / np.abs(want).max())


@pytest.fixture
def trained_audio():
    """Returns a function that makes one with random weights in every branch."""

    def make(kind="resnet", log_mel=LOG_MEL, **settings) -> TrainedAudio:
        network, rng = NETWORKS[kind], np.random.default_rng(0)
        frames = log_mel.num_frames(NUM_SAMPLES)
        images = jnp.zeros((1, frames, log_mel.num_mels, 1))
        init = lambda: network.init(jax.random.key(0), images, train=False)

        def draw(path, x):
            scale = np.prod(x.shape[:-1]) ** -0.5 if x.ndim > 1 else 0.2
            offset = path_name(path).endswith(("scale", "var"))
            return (scale * rng.uniform(-1, 1, x.shape) + offset).astype(np.float32)

        variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
        trees = variables["params"], {"batch_stats": {}, **variables}["batch_stats"]
        return TrainedAudio(network, *trees, log_mel, NUM_SAMPLES, **settings)

    return make


def projection(width):
    return np.random.default_rng(1).standard_normal((width, 6)).astype(np.float32)


def test_the_sounds_are_different_and_as_quiet_as_files_are():
    clips = sounds(4000, 8000)
    np.testing.assert_array_equal(clips * 2**15, np.round(clips * 2**15))
    assert np.abs(clips).max() <= 1
    loud = np.abs(clips).mean(axis=1)
    assert (np.diff(loud) < 0).all()
    assert loud[-1] < 0.01 < 0.1 < loud[0]
    spectra = np.asarray(LOG_MEL(jnp.asarray(clips)))
    assert spectra.min() < -60
    assert len(np.unique(np.abs(np.fft.rfft(clips)).argmax(axis=1))) >= 6


def test_it_computes_what_the_views_of_the_run_lead_to(trained_audio):
    one = dataclasses.replace(trained_audio(), projection=projection(64))
    (waveforms,) = one.examples()
    policy = audio.evaluation(seconds=NUM_SAMPLES / LOG_MEL.rate, log_mel=LOG_MEL)
    stored = {"audio": jnp.asarray(waveforms * 2**15, jnp.int16)}
    views = jnp.asarray(policy.augment(jax.random.key(0), stored))[:, 0]
    network = one.network.clone(dtype=jnp.float32)
    want = np.asarray(network.apply(one.variables, views, train=False)) @ one.projection
    assert relative(one.encode(waveforms), want) < 1e-5


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_stablehlo_file_takes_any_number_of_waveforms(kind, trained_audio, tmp_path):
    one, path = trained_audio(kind), tmp_path / "audio.stablehlo"
    found, usage = export(one, path, "stablehlo")
    assert found.relative < 1e-5
    assert "float32 waveforms [n, 1900] in [-1, 1], 8000 samples a second, for any n" in usage
    (waveforms,) = one.examples()
    want = one.encode(waveforms)
    for n in (1, 5):
        assert relative(stablehlo.read(path)(waveforms[:n]), want[:n]) < 1e-5


def test_another_spectrogram_is_refused(trained_audio, monkeypatch, tmp_path):
    """The comparison hears what the file does: one band more or less is seen."""
    one = trained_audio()
    off = dataclasses.replace(one, log_mel=dataclasses.replace(LOG_MEL, highest_hz=3900.0))
    monkeypatch.setattr(stablehlo, "read", lambda path: off.encode)
    holds = formats.Format(".stablehlo", (), stablehlo.write, stablehlo.read, holds=formats.TOWER)
    monkeypatch.setitem(formats.FORMATS, "stablehlo", holds)
    with pytest.raises(UserError, match="on sounds, more than --max_difference"):
        export(one, tmp_path / "x.stablehlo", "stablehlo")
    assert not [*tmp_path.iterdir()]


def test_what_a_program_must_know_is_said(trained_audio):
    facts = json.loads(json.dumps(trained_audio().facts()))
    assert (facts["rate"], facts["num_samples"], facts["seconds"]) == (8000, 1900, 0.2375)
    assert LogMel(**facts["log_mel"]) == LOG_MEL


needs_torch = pytest.mark.interop("torch", "safetensors")


@needs_torch
@pytest.mark.parametrize("case", ["sixteen", "clap"])
def test_spectrograms_in_pytorch_are_the_golden_ones(case):
    torch = importlib.import_module("torch")
    from simclr_jax.interop.torch_audio import LogMel as TorchLogMel

    num_fft, hop = GOLDEN[f"log_mel/{case}/settings"][1:3].astype(int).tolist()
    filters, waveform = (
        torch.tensor(GOLDEN[f"log_mel/{case}/{name}"], dtype=torch.float32)
        for name in ("filters", "waveform")
    )
    got = TorchLogMel(filters, num_fft, hop)(waveform[None])[0].numpy()
    np.testing.assert_allclose(got, GOLDEN[f"log_mel/{case}/decibel"], atol=1e-2)


@needs_torch
@pytest.mark.parametrize("num_fft", [250, 251, 256])
def test_frames_in_pytorch_are_those_of_the_house(num_fft):
    torch = importlib.import_module("torch")
    from simclr_jax.interop.torch_audio import LogMel as TorchLogMel

    log_mel = dataclasses.replace(LOG_MEL, num_fft=num_fft, num_mels=12)
    filters = torch.tensor(log_mel.filters(), dtype=torch.float32)
    for num_samples in (1874, 1875, 1876):
        waveforms = sounds(num_samples, 8000)
        got = TorchLogMel(filters, num_fft, 125)(torch.tensor(waveforms)).numpy()
        np.testing.assert_allclose(got, log_mel(jnp.asarray(waveforms)), atol=1e-2)


@needs_torch
@pytest.mark.parametrize("kind", [*NETWORKS])
def test_a_safetensors_file_makes_the_same_encoder_in_pytorch(kind, trained_audio, tmp_path):
    torch = importlib.import_module("torch")
    from simclr_jax.interop.torch_audio import load_encoder

    one, path = trained_audio(kind), tmp_path / "audio.safetensors"
    width = 64 if kind == "resnet" else 128
    tower = dataclasses.replace(one, projection=projection(width))
    for each, dim in ((one, width), (tower, 6)):
        found, usage = export(each, path, "safetensors")
        assert found.relative < 1e-5
        assert "simclr_jax/interop/torch_audio.py" in usage
        encoder = load_encoder(str(path))
        assert (encoder.rate, encoder.num_samples, encoder.output_dim) == (8000, 1900, dim)
        (waveforms,) = each.examples()
        with torch.inference_mode():
            got = encoder(torch.tensor(waveforms[:3])).numpy()
        assert relative(got, each.encode(waveforms)[:3]) < 1e-5


@needs_torch
@pytest.mark.interop("onnxscript", "onnxruntime")
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_an_onnx_graph_takes_any_number_of_waveforms(kind, trained_audio, tmp_path):
    from simclr_jax.interop import onnx_format

    one, path = trained_audio(kind), tmp_path / "audio.onnx"
    found, usage = export(one, path, "onnx")
    assert found.relative < 1e-5
    assert "by the names waveforms" in usage
    (waveforms,) = one.examples()
    want = one.encode(waveforms)
    for n in (1, 5):
        assert relative(onnx_format.read(path)(waveforms[:n]), want[:n]) < 1e-5


@needs_torch
def test_what_is_wrong_with_a_file_is_named(trained_audio, tmp_path):
    save_file = importlib.import_module("safetensors.numpy").save_file
    from simclr_jax.interop.torch_audio import load_encoder

    one, path = trained_audio(), tmp_path / "x.safetensors"
    tensors, settings = one.tensors(), one.settings
    short = {name: x for name, x in tensors.items() if name != FILTERS}
    log_mel = settings["log_mel"]
    for kind, changed, held, message in (
        ("resnet", {}, tensors, "has simclr_jax='1' and kind='resnet', not '1' and 'audio'"),
        ("audio", {}, short, r"log_mel/filters of the shape \[16, 129\] is missing"),
        ("audio", {"log_mel": {**log_mel, "num_fft": 512}}, tensors, r"\[16, 257\] is missing"),
        ("audio", {"log_mel": {**log_mel, "hop": 0}}, tensors, "setting hop has the value 0"),
        ("audio", {"log_mel": {"hop": 80}}, tensors, "setting log_mel must have highest_hz, hop"),
        ("audio", {"kind": "own"}, tensors, "setting kind has the value 'own'"),
        ("audio", {"rate": 8000}, tensors, "settings must be encoder, kind, log_mel, num_samples"),
        ("audio", {"encoder": {"depth": 18}}, tensors, "its settings must be depth"),
    ):
        encoder = json.dumps({**settings, **changed})
        save_file(held, str(path), {"simclr_jax": "1", "kind": kind, "encoder": encoder})
        with pytest.raises(ValueError, match=f"(?s)x.safetensors.*{message}"):
            load_encoder(str(path))
