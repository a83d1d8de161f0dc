#!/usr/bin/env bash
# Installs what the data set midi_instruments needs into the environment of a Python.
#
#   launch/midi_instruments.sh .venv/bin/python
set -euo pipefail
if [ $# -ne 1 ]; then
    echo "usage: launch/midi_instruments.sh PYTHON" >&2
    exit 2
fi
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pip=("$1" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" -r "$here/requirements-audio.txt"
# It declares pyaudio, which plays sounds aloud and does not build without PortAudio.
"${pip[@]}" --no-deps tinysoundfont==0.3.7
