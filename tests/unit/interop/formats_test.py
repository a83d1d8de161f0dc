"""Exports as a whole: what is refused, and what is left behind."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from simclr_jax.core import optional
from simclr_jax.core.errors import UserError
from simclr_jax.interop import formats
from simclr_jax.interop.encoder import TrainedEncoder
from simclr_jax.interop.formats import FORMATS, Format, check_request, export
from simclr_jax.interop.parity import photographs

IMAGES = photographs(20)


@pytest.fixture
def encoder(trained_encoder):
    """An encoder whose own features are known without a compilation."""

    class Known(TrainedEncoder):
        def encode(self, images):
            return images.mean(axis=(1, 2))

    return Known(**vars(trained_encoder()))


@pytest.fixture
def wrong_by(monkeypatch):
    """Returns a function that adds a format "copy" whose features are off by so much."""

    def add(error: float, suffix: str = ".copy", **fields):
        def write(encoder, path: Path) -> str:
            del encoder
            file = path if suffix else path / "file"
            file.parent.mkdir(exist_ok=True)
            file.write_text("weights")
            return "how to use it"

        def read(path: Path):
            assert path.exists()
            return lambda images: images.mean(axis=(1, 2)) + error * images.mean(axis=(1, 2)).max()

        monkeypatch.setitem(FORMATS, "copy", Format(suffix, (), write, read, **fields))

    return add


@pytest.mark.parametrize("suffix", [".copy", ""])
def test_what_is_within_the_limit_appears_alone(encoder, wrong_by, suffix, tmp_path):
    wrong_by(5e-5, suffix)
    path = tmp_path / f"encoder{suffix}"
    found, usage = export(encoder, path, "copy")
    assert [*tmp_path.iterdir()] == [path]
    assert path.is_dir() == (suffix == "")
    assert found.relative == pytest.approx(5e-5, rel=0.01)
    assert usage == "how to use it"


@pytest.mark.parametrize("suffix", [".copy", ""])
@pytest.mark.parametrize("error", [2e-4, np.nan])
def test_what_is_above_the_limit_leaves_nothing_behind(encoder, wrong_by, suffix, error, tmp_path):
    wrong_by(error, suffix)
    with pytest.raises(UserError, match=r"differs .* by (0.0002|nan) of .*--max_difference=0.0001"):
        export(encoder, tmp_path / f"encoder{suffix}", "copy")
    assert not [*tmp_path.iterdir()]


def test_the_limit_can_be_raised_to_what_the_message_says(encoder, wrong_by, tmp_path):
    wrong_by(0.0123)
    path = tmp_path / "encoder.copy"
    with pytest.raises(UserError, match=r"--max_difference=0.02 to accept"):
        export(encoder, path, "copy")
    export(encoder, path, "copy", max_difference=0.02)
    assert path.exists()


def test_a_failure_while_writing_keeps_the_older_file(encoder, wrong_by, monkeypatch, tmp_path):
    wrong_by(0.0)
    path = tmp_path / "encoder.copy"
    path.write_text("older")
    read = lambda path: pytest.fail(f"{path} was read")
    monkeypatch.setitem(FORMATS, "copy", dataclasses.replace(FORMATS["copy"], read=read))
    with pytest.raises(pytest.fail.Exception, match=r"encoder.copy.*tmp was read"):
        export(encoder, path, "copy")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_text() == "older"


def test_the_reason_why_torchvision_differs_is_told(encoder, wrong_by, monkeypatch, tmp_path):
    wrong_by(0.01)
    monkeypatch.setitem(FORMATS, "torchvision", FORMATS["copy"])
    with pytest.raises(UserError, match=r"pads both sides.*format=safetensors.*geometry="):
        export(encoder, tmp_path / "encoder.copy", "torchvision")


def test_a_network_that_does_not_fit_is_refused_before_it_is_written(encoder, wrong_by, tmp_path):
    wrong_by(0.0, max_bytes=500_000)
    with pytest.raises(UserError, match=r"has 0.0 GiB of weights. Use --format=safetensors"):
        export(encoder, tmp_path / "encoder.copy", "copy")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("format_name", "output", "message"),
    [
        ("safetensor", "x.safetensors", r"--format=safetensor .* Did you mean 'safetensors'\?"),
        ("stablehlo", "x.hlo", r"x.hlo must be a file .* ends in .stablehlo"),
        ("stablehlo", "directory.stablehlo", r"must be a file"),
        ("onnx", "x", r"such as encoder.onnx"),
        ("torchvision", "x.pth", r"ends in .safetensors for --format=torchvision"),
        ("safetensors", "missing/x.safetensors", r"directory .*missing does not exist"),
        ("saved_model", "directory.stablehlo", r"exists; --format=saved_model makes a new"),
    ],
)
def test_names_what_is_wrong_with_a_request(format_name, output, message, tmp_path):
    (tmp_path / "directory.stablehlo").mkdir()
    with pytest.raises(UserError, match=message):
        check_request(format_name, tmp_path / output)


def test_names_the_package_that_is_missing(monkeypatch, tmp_path):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"tensorflow is not .*-r requirements-interop.txt"):
        formats.check_request("saved_model", tmp_path / "x")


def test_pytorch_has_no_pooling_by_attention(trained_vit, monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "import_optional", lambda package: None)  # refused before its use
    with pytest.raises(UserError, match=r"has no ViT with pool='probe'. Use --format=stablehlo"):
        export(trained_vit(pool="probe"), tmp_path / "out.safetensors", "safetensors")
    assert not list(tmp_path.iterdir())
