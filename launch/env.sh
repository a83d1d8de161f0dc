# Source this file: it makes .venv from the pinned requirements.txt and activates it.
#
#   source launch/env.sh
#
# Needs python3 >= 3.11 with venv and pip on PATH. The newest interpreter that really
# runs is taken (a version manager's shim may exist and fail). The environment is made
# anew when requirements.txt changes; when it is up to date, nothing is done.

_simclr_jax_env() {
    local root
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
    if ! _simclr_jax_ready "$root"; then
        (
            # Two shells at once would undo each other's work; macOS has no flock.
            if command -v flock >/dev/null; then flock 9; fi
            _simclr_jax_ready "$root" || _simclr_jax_make "$root"
        ) 9>"$root/.venv.lock" || return 1
    fi
    export VIRTUAL_ENV="$root/.venv"
    export PATH="$VIRTUAL_ENV/bin:$PATH"
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    hash -r
}

_simclr_jax_ready() {
    cmp -s "$1/requirements.txt" "$1/.venv/requirements.installed.txt"
}

_simclr_jax_make() {
    local root="$1" want python candidate
    want='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'
    python=""
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if "$candidate" -c "$want" >/dev/null 2>&1; then
            python="$candidate"
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "launch/env.sh: no Python 3.11, 3.12 or 3.13 with venv runs on this machine;" \
            "install one (on Debian: apt-get install python3 python3-venv) and try again." >&2
        return 1
    fi
    echo "Making .venv with $("$python" --version) (once; about 1 GB, a minute or two) ..." >&2
    "$python" -m venv --clear "$root/.venv" || return 1
    "$root/.venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --requirement "$root/requirements.txt" || return 1
    # Last: a broken install is made again.
    cp "$root/requirements.txt" "$root/.venv/requirements.installed.txt"
}

_simclr_jax_env || { echo "launch/env.sh: the environment is not ready." >&2; return 1; }
