"""A run whose workdir is in a bucket, on an emulated Cloud Storage: stop, go on, use."""

import os
import signal
import socket
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path

import numpy as np
import pytest
from gcp_storage_emulator.handlers import objects

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
DIGITS = "--config=configs/simclr_digits.py:smoke"
WORKDIR = "--workdir=gs://bucket/runs/digits"
DOWNLOAD = objects.download
MOVE = (
    r"/storage/v1/b/(?=(?P<dest_bucket_name>[^/]+))(?P<bucket_name>[^/]+)"
    r"/o/(?P<object_id>.+)/moveTo/o/(?P<dest_object_id>.+)"
)


# Two things that Cloud Storage does and the emulator does not.
def move(*request_response_storage):
    """Renames an object; gcsfs would try for a minute before it copies."""
    objects.copy(*request_response_storage)
    objects.delete(*request_response_storage)


def download(request, response, storage):
    """Says which version of an object it is, as TensorStore requires."""
    DOWNLOAD(request, response, storage)
    if response.status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        name = request.params["bucket_name"], request.params["object_id"]
        response["X-Goog-Generation"] = storage.get_file_obj(*name)["generation"]


@pytest.fixture
def command(monkeypatch):
    """Returns a function that starts a verb in a process which finds an empty gs://bucket."""
    monkeypatch.setattr(objects, "download", download)
    from gcp_storage_emulator import server  # its table of routes is made here

    monkeypatch.setattr(server, "HANDLERS", ((MOVE, {"POST": move}), *server.HANDLERS))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = f"http://localhost:{port}"
    environment = {
        **os.environ,
        "STORAGE_EMULATOR_HOST": address,  # for gcsfs
        "TENSORSTORE_GCS_HTTP_URL": address,
        "NO_GCE_CHECK": "true",  # or credentials are asked for from a machine that is not there
    }

    def start(*arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "simclr_jax", *arguments],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    with server.create_server("localhost", port, in_memory=True, default_bucket="bucket"):
        yield start


@pytest.mark.thorough
def test_a_run_in_a_bucket_stops_goes_on_and_is_used(command, tmp_path):
    first = command("train", DIGITS, WORKDIR)
    for line in first.stderr:
        if "step 1/" in line:
            first.send_signal(signal.SIGTERM)
            break
    _, log = first.communicate()
    assert first.returncode == 143, log

    second = command("train", DIGITS, WORKDIR)
    _, log = second.communicate()
    assert second.returncode == 0, log
    assert "The run is resumed: step" in log

    embed = command("embed", WORKDIR, f"--output={tmp_path / 'features.npz'}")
    _, log = embed.communicate()
    assert embed.returncode == 0, log
    with np.load(tmp_path / "features.npz") as file:
        assert np.isfinite(file["features"]).all()
    assert not (ROOT / "gs:").exists()
