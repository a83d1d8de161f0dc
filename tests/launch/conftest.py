"""A fake gcloud on PATH, and a clock that does not wait."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from launch import tpu_vm
from launch.tpu import push, watch

FAKE = Path(__file__).with_name("fake_gcloud.py")


class QuickClock(watch.Clock):
    def __init__(self):
        self.pauses = []
        self.lines = []

    def sleep(self, seconds):
        self.pauses.append(seconds)
        assert len(self.pauses) < 200, "the watch does not end"

    def say(self, message):
        self.lines.append(message)


class Cloud:
    """What the fake answers, and what it was asked."""

    def __init__(self, directory):
        self.directory = directory
        self.clock = QuickClock()
        self.answer()

    def answer(self, **scenario):
        (self.directory / "scenario.json").write_text(json.dumps(scenario))

    @property
    def calls(self):
        log = self.directory / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def kinds(self, *looks):
        """The kinds of calls in order, without those that only look."""
        return [call["kind"] for call in self.calls if call["kind"] not in looks]

    def main(self, *words):
        return tpu_vm.main(words, clock=self.clock)


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    fake = binaries / "gcloud"
    fake.write_text(f"#!{sys.executable} -IS\n{FAKE.read_text()}")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binaries}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_GCLOUD", str(tmp_path))
    monkeypatch.delenv("CLOUDSDK_CORE_PROJECT", raising=False)
    monkeypatch.setattr(push, "pack", lambda: b"code")  # its own test packs
    monkeypatch.setattr(push, "ARCHIVES", tmp_path / "archives")
    return Cloud(tmp_path)


@pytest.fixture
def home(tmp_path):
    """A worker's home after `push`, whose python writes down its arguments and exits with 0."""
    home = tmp_path / "home"
    for directory in ("simclr_jax/code/launch", "bin"):
        (home / directory).mkdir(parents=True)
    (home / "simclr_jax" / "installed").touch()
    (home / "simclr_jax/code/launch/env.sh").write_text('export PATH="$HOME/bin:$PATH"\n')
    shutil.copy(push.ROOT / "launch/tpu/simclr_jax_worker.sh", home)
    python = home / "bin/python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" > "$HOME/arguments"\n')
    python.chmod(0o755)
    return home
