#!/usr/bin/env bash
# What `python -m launch.tpu_vm` calls on each worker of a slice, in the home directory.
#
#   bash simclr_jax_worker.sh install       unpacks simclr_jax_code.tar.gz, makes its environment
#   bash simclr_jax_worker.sh start ARGS    python -m simclr_jax ARGS, which outlives the ssh session
#   bash simclr_jax_worker.sh state         absent, installed, running, dead or "exited CODE"
#   bash simclr_jax_worker.sh stop          SIGTERM (the run saves a checkpoint), SIGKILL after 2 minutes
#
# A run holds a lock for as long as any of its processes lives, also one whose parent died; the
# kernel frees it, so there is no stale lock. Exit codes: 3 a run is under way, 4 nothing to start.
set -euo pipefail
cd "$HOME"
mkdir -p simclr_jax
verb="${1:-}" here="$HOME/simclr_jax"
[ $# -eq 0 ] || shift

take_lock() {  # held through descriptor 9, which children inherit
    exec 9>>"$here/lock"
    if ! flock --nonblock 9; then
        echo "$(hostname): a run is under way; nothing was changed" >&2
        exit 3
    fi
}

find_python() {  # the image's own Python may be 3.10: then uv fetches a newer one
    local candidate uv
    for candidate in python3.13 python3.12 python3.11; do
        "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1 && return
    done
    python3 -m pip install --quiet --user uv==0.13.9
    uv="$(python3 -m site --user-base)/bin/uv"
    "$uv" python install --quiet 3.12
    PATH="$(dirname "$("$uv" python find --managed-python 3.12)"):$PATH"
}

install() {
    take_lock
    rm -rf "$here/installed" "$here/exit_code" "$here/pid" "$here/code.new"
    mkdir "$here/code.new"
    tar -xzf simclr_jax_code.tar.gz -C "$here/code.new"
    # An environment stays valid as long as its path does; env.sh remakes it when pins change.
    [ ! -d "$here/code/.venv" ] || mv "$here/code/.venv" "$here/code.new/.venv"
    rm -rf "$here/code"
    mv "$here/code.new" "$here/code"
    cd "$here/code"
    find_python
    source launch/env.sh
    python -m pip install --quiet --disable-pip-version-check -c requirements.txt "jax[tpu]"
    touch "$here/installed"
    echo "$(hostname): installed"
}

start() {
    take_lock
    if [ ! -e "$here/installed" ]; then
        echo "$(hostname): no code was pushed" >&2
        exit 4
    fi
    rm -f "$here/exit_code"
    setsid nohup bash "$HOME/simclr_jax_worker.sh" supervise "$@" \
        </dev/null >>"$here/run.log" 2>&1 &
    echo "$!" >"$here/pid"
    echo "$(hostname): started"
}

supervise() {
    local code=0
    trap : TERM  # meant for the run, whose exit code is still to be written
    cd "$here/code"
    source launch/env.sh
    python -m simclr_jax "$@" || code=$?
    echo "$code" >"$here/exit_code.tmp"
    mv "$here/exit_code.tmp" "$here/exit_code"
}

state() {
    local state=installed
    if [ ! -e "$here/installed" ]; then
        state=absent
    elif ! flock --nonblock "$here/lock" true; then
        state=running
    elif [ -e "$here/exit_code" ]; then
        state="exited $(cat "$here/exit_code")"
    elif [ -e "$here/pid" ]; then
        state=dead
    fi
    echo "simclr_jax state: $state"
}

stop() {
    if ! flock --nonblock "$here/lock" true; then
        # `start` and `setsid` made the run the leader of a process group of its own.
        kill -TERM -- "-$(cat "$here/pid")" || true
        flock --timeout 120 "$here/lock" true || kill -KILL -- "-$(cat "$here/pid")"
        flock --timeout 10 "$here/lock" true
    fi
    echo "$(hostname): stopped"
}

case "$verb" in
    install | start | supervise | state | stop) "$verb" "$@" ;;
    *)
        echo "usage: bash simclr_jax_worker.sh install|start ARGS|state|stop" >&2
        exit 2
        ;;
esac
