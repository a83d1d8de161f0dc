#!/usr/bin/env bash
# Makes .venv-peer, an environment of the programs that `bench` compares ours with, and prints its
# Python; when it is up to date, nothing is done.
#
#   python -m simclr_jax bench --peer_python="$(launch/peer_env.sh)"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

if ! cmp -s requirements-peer.txt .venv-peer/requirements.installed.txt; then
    python -m venv --clear .venv-peer
    # PyTorch's own index has builds without CUDA, a tenth of the size.
    .venv-peer/bin/python -m pip install --quiet --disable-pip-version-check \
        --extra-index-url https://download.pytorch.org/whl/cpu -r requirements-peer.txt >&2
    cp requirements-peer.txt .venv-peer/requirements.installed.txt
fi
echo "$PWD/.venv-peer/bin/python"
