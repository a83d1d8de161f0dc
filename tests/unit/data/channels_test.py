"""Images of other than three channels: what is read, what is refused, and what is trained on."""

import dataclasses
import io
import struct

import jax
import numpy as np
import pytest
from PIL import Image

from simclr_jax import run as runs
from simclr_jax.build.experiment import build_experiment
from simclr_jax.build.network import network
from simclr_jax.build.preview import augmented_views
from simclr_jax.core.errors import UserError
from simclr_jax.data.dataset import Dataset
from simclr_jax.data.decode import Rendering, UnreadableImageError, as_rgb, decode
from simclr_jax.data.look import look
from simclr_jax.interop import formats
from simclr_jax.models.resnet import ResNet
from simclr_jax.train.loop import fit
from simclr_jax.trained.restored import load


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pages(arrays):
    buffer = io.BytesIO()
    first, *others = map(Image.fromarray, arrays)
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


def read(image, channels, canvas=64, **rendering):
    return decode(image, canvas=canvas, rendering=Rendering(channels=channels, **rendering)).pixels


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_alpha_is_a_channel_like_others_if_four_are_asked_for(kind):
    pixels = noise(9, 7, 4)
    pixels[:3, :, 3] = 0  # what is transparent keeps its colours
    np.testing.assert_array_equal(read(encoded(pixels, kind), 4), pixels)
    assert read(encoded(pixels, kind), 3).shape == (9, 7, 3)


def test_a_channel_that_is_scaled_down_knows_nothing_of_the_others():
    pixels = noise(40, 30, 4)
    got = read(encoded(pixels), 4, canvas=10)
    for c in range(4):
        alone = read(encoded(pixels[:, :, c]), 1, canvas=10)
        np.testing.assert_array_equal(got[:, :, c], alone[:, :, 0])
    np.testing.assert_array_equal(read(pixels, 4, canvas=10), got)


def test_pages_of_a_tiff_are_channels_in_their_order():
    pixels = noise(6, 8, 5)
    got = read(pages([pixels[:, :, c] for c in range(5)]), 5)
    np.testing.assert_array_equal(got, pixels)


def test_deep_pages_get_the_range_that_is_set():
    deep = np.random.default_rng(0).integers(0, 65536, (6, 8, 2), np.uint16)
    data = pages([deep[:, :, c] for c in range(2)])
    want = np.floor(deep * (255 / 65535) + 0.5)
    np.testing.assert_allclose(read(data, 2), want, atol=1)
    stretched = read(data, 2, value_range="file")
    assert (stretched.min(axis=(0, 1)) == 0).all()
    assert (stretched.max(axis=(0, 1)) == 255).all()


def test_one_channel_is_grey_whatever_the_file_has():
    grey, colours = noise(5, 6), noise(5, 6, 3)
    np.testing.assert_array_equal(read(encoded(grey), 1)[:, :, 0], grey)
    np.testing.assert_array_equal(read(grey, 1)[:, :, 0], grey)
    luma = colours @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(read(encoded(colours), 1)[:, :, 0], luma, atol=0.51)
    np.testing.assert_array_equal(read(colours, 1), read(encoded(colours), 1))


@pytest.mark.parametrize(
    ("data", "channels", "complaint"),
    [
        (encoded(noise(5, 5, 3)), 4, r"stores 3 channels \(mode RGB\), and config.data.channels"),
        (encoded(noise(5, 5, 4)), 2, r"stores 4 or more channels"),
        (pages([noise(5, 5)] * 4), 3 + 2, r"stores 4 channels"),
        (pages([noise(5, 5)] * 900), 2, r"stores 3 or more channels"),
        (pages([noise(5, 5), noise(5, 6)]), 2, r"page 1 has 5 x 5 pixels, page 2 6 x 5"),
    ],
    ids=["RGB", "RGBA", "four pages", "many pages", "two sizes"],
)
def test_other_channels_than_asked_for_are_no_image_of_the_set(data, channels, complaint):
    with pytest.raises(UnreadableImageError, match=complaint):
        read(data, channels)


def test_channels_that_pillow_would_leave_out_are_told():
    """Five channels a pixel: Pillow opens the file, and shows fewer."""
    pixels = noise(4, 4, 5)
    short, long = 3, 4  # types of TIFF, of 2 and 4 bytes
    entries = [
        (256, short, 1, 4), (257, short, 1, 4), (258, short, 5, 8), (259, short, 1, 1),
        (262, short, 1, 2), (273, long, 1, 18), (277, short, 1, 5), (278, short, 1, 4),
        (279, long, 1, pixels.size), (338, short, 2, 0),
    ]  # fmt: skip
    head = struct.pack("<2sHI5H", b"II", 42, 18 + pixels.size, *[8] * 5)
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    data = head + pixels.tobytes() + struct.pack("<H", len(entries)) + table + bytes(4)
    for channels in (4, 5):
        with pytest.raises(UnreadableImageError, match=r"5 channels a pixel, of which Pillow"):
            read(data, channels)
    read(data, 3)


def test_an_array_of_other_channels_is_a_mistake():
    with pytest.raises(UserError, match=r"\[h, w, 4\] for config.data.channels=4, got \[5, 5, 3\]"):
        read(noise(5, 5, 3), 4)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_people_see_three_channels_of_any(channels):
    pixels = noise(3, 4, channels)
    shown = as_rgb(pixels)
    assert shown.shape == (3, 4, 3)
    np.testing.assert_array_equal(shown[..., 0], pixels[..., 0])
    assert (shown[..., 2] == (pixels[..., -1] if channels == 1 else 0)).all() or channels > 2


@pytest.fixture
def config(tiny_config, tmp_path):
    """A run of two steps on pictures of four channels."""
    for i in range(16):
        rng = np.random.default_rng(i)
        Image.fromarray(rng.integers(0, 256, (20, 24, 4), np.uint8)).save(tmp_path / f"{i:02}.png")
    data = {
        "name": "folder", "split": "all", "path": str(tmp_path), "batch_size": 8, "canvas": 24,
        "channels": 4,
    }  # fmt: skip
    augment = {"name": "simclr_cifar", "size": 12, "color_strength": 0.0}
    return tiny_config | {"data": data, "augment": augment, "evals": {}}


def test_a_run_on_them_trains_is_read_back_and_leaves_as_a_program(config, tmp_path, monkeypatch):
    workdir = str(tmp_path / "run")
    with runs.open_run(config, workdir) as it:
        state = fit(it.state, it.step, it.batches, num_steps=it.num_steps, hooks=it.hooks)
    assert state.params["encoder"]["conv"]["kernel"].shape == (3, 3, 4, 8)
    encoder = load(workdir).encoder_to_export()
    exported = formats.export(encoder, tmp_path / "encoder.stablehlo", "stablehlo")
    assert "12, 12, 4] in [0, 1]" in exported.usage
    monkeypatch.setattr(formats, "check_request", lambda *_: None)  # torch need not be there
    resnet = dataclasses.replace(encoder, network=ResNet(18))
    with pytest.raises(UserError, match=r"of 3 channels, and this one takes 4\. Use --form"):
        formats.export(resnet, tmp_path / "encoder.safetensors", "torchvision")


@pytest.mark.parametrize("channels", [1, 4])
def test_they_are_looked_at_and_shown(config, channels):
    config["data"]["channels"] = channels
    config["augment"] = {"name": "byol", "size": 20, "color_strength": 0.0}  # blur, solarisation
    dataset = Dataset(**config["data"])
    assert look(dataset, dataset.open("all"), view_size=20) == []
    views = augmented_views(build_experiment(config, jax.devices()[:1]), 4)
    assert views.shape == (4, 2, 20, 20, 3)
    assert views.std() > 30


@pytest.mark.parametrize(
    ("encoder", "kernel", "inputs"),
    [
        ({"name": "resnet", "depth": 18}, "stem_conv", (7, 7, 7)),
        ({"name": "resnet", "depth": 50, "sk_ratio": 0.0625}, "stem_conv1", (3, 3, 7)),
        ({"name": "vit", "size": "tiny", "patch": 4}, "patches", (4 * 4 * 7,)),
    ],
    ids=["resnet", "sk", "vit"],
)
def test_the_stems_of_encoders_take_any_number(encoder, kernel, inputs):
    config = {"augment": {"size": 32}, "encoder": encoder, "heads": {}}
    params = network(config, channels=7).shapes["params"]["encoder"]
    assert params[kernel]["kernel"].shape[:-1] == inputs


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"augment": {"name": "simclr_cifar", "size": 20}}, "--config.augment.color_strength=0"),
        ({"method": {"name": "colorization"}}, "--config.data.channels=3"),
        ({"method": {"name": "jigsaw", "num_permutations": 5}}, "--config.method.grayscale=0"),
    ],
    ids=["jitter", "colorization", "jigsaw"],
)
def test_what_needs_colours_is_refused_with_what_does_not(config, changes, advice):
    if "method" in changes:
        one = {"name": "finetune", "size": 48}
        heads = {} if changes["method"]["name"] == "colorization" else config["heads"]
        changes = {"augment": one, "heads": heads} | changes
    with pytest.raises(UserError, match=rf"images have 4 channels .*{advice}"):
        build_experiment(config | changes, jax.devices()[:1])
