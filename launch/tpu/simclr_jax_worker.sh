#!/usr/bin/env bash
# What `python -m launch.tpu_vm` calls on each worker of a slice, in the home directory.
#
#   bash simclr_jax_worker.sh install [BUCKET]
#                                           unpacks simclr_jax_code.tar, makes its environment;
#                                           mounts gs://BUCKET at /mnt/BUCKET, for reading
#   bash simclr_jax_worker.sh start ARGS    python -m simclr_jax ARGS, which outlives the ssh session
#   bash simclr_jax_worker.sh state         absent, installed, running, dead or "exited CODE", and
#                                           the hash of code and ARGS that tells this run from others
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
    if ! flock --timeout 5 9; then  # `state` shares it for a moment
        echo "$(hostname): a run is under way; nothing was changed" >&2
        exit 3
    fi
}

install_gcsfuse() {  # https://docs.cloud.google.com/storage/docs/cloud-storage-fuse/install
    local google=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
    local release tries=0
    local apt=(sudo -n env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=600)
    release="$(lsb_release --codename --short)"  # such as jammy
    curl --fail --silent --show-error --location --retry 5 "$google/doc/apt-key.gpg" |
        sudo -n tee "$key" >/dev/null
    echo "deb [signed-by=$key] $google gcsfuse-$release main" |
        sudo -n tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    until "${apt[@]}" update; do  # a VM that has just booted updates by itself, and holds a lock
        tries=$((tries + 1))
        [ "$tries" -lt 10 ] || return 1
        sleep 15
    done
    "${apt[@]}" install --yes gcsfuse
}

mount_bucket() {
    local at="/mnt/$1"
    mountpoint --quiet "$at" && return
    command -v gcsfuse >/dev/null || install_gcsfuse
    sudo -n umount --lazy "$at" 2>/dev/null || true  # what a gcsfuse that died left behind
    sudo -n mkdir -p "$at"
    sudo -n chown "$(id -u):$(id -g)" "$at"
    # Its daemon lives on: it must hold neither the lock nor the output of the ssh session.
    if ! gcsfuse --implicit-dirs -o ro "$1" "$at" </dev/null >"$here/mount.log" 2>&1 9>&-; then
        cat "$here/mount.log" >&2
        echo "$(hostname): gs://$1 could not be mounted at $at" >&2
        exit 1
    fi
    echo "$(hostname): gs://$1 is mounted at $at"
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
    local hash
    take_lock
    rm -rf "$here"/{installed,identity,exit_code,pid,bucket,code.new}
    if [ $# -gt 0 ]; then
        mount_bucket "$1"
        echo "$1" >"$here/bucket"
    fi
    mkdir "$here/code.new"
    tar -xf simclr_jax_code.tar -C "$here/code.new"
    hash="$(sha256sum <simclr_jax_code.tar)"
    # An environment stays valid as long as its path does; env.sh remakes it when pins change.
    [ ! -d "$here/code/.venv" ] || mv "$here/code/.venv" "$here/code.new/.venv"
    rm -rf "$here/code"
    mv "$here/code.new" "$here/code"
    cd "$here/code"
    find_python
    source launch/env.sh
    python -m pip install --quiet --disable-pip-version-check -c requirements.txt "jax[tpu]"
    echo "${hash%% *}" >"$here/installed"
    echo "$(hostname): installed"
}

start() {
    take_lock
    if [ ! -e "$here/installed" ]; then
        echo "$(hostname): no code was pushed" >&2
        exit 4
    fi
    rm -f "$here/exit_code" "$here/pid"  # of another run
    printf '%s\0' "$(cat "$here/installed")" "$@" | sha256sum | cut -d " " -f 1 >"$here/identity"
    # A VM that was started anew has lost its mounts.
    [ ! -e "$here/bucket" ] || mount_bucket "$(cat "$here/bucket")"
    setsid nohup bash "$HOME/simclr_jax_worker.sh" supervise "$@" \
        </dev/null >>"$here/run.log" 2>&1 &
    echo "$(hostname): started"
}

supervise() {
    local code=0
    trap : TERM  # meant for the run, whose exit code is still to be written
    echo "$$" >"$here/pid"
    cd "$here/code" && source launch/env.sh && python -m simclr_jax "$@" || code=$?
    echo "$code" >"$here/exit_code.tmp"
    mv "$here/exit_code.tmp" "$here/exit_code"
    rm "$here/pid"  # the kernel gives the number to others
}

state() {
    local state=installed
    if [ ! -e "$here/installed" ]; then
        state=absent
    elif ! flock --shared --nonblock "$here/lock" true; then
        state=running
    elif [ -e "$here/exit_code" ]; then
        state="exited $(cat "$here/exit_code")"
    elif [ -e "$here/pid" ]; then
        state=dead
    fi
    echo "simclr_jax state: $state $(cat "$here/identity" 2>/dev/null)"
}

stop() {
    if ! flock --timeout 5 "$here/lock" true; then
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
        echo "usage: bash simclr_jax_worker.sh install [BUCKET]|start ARGS|state|stop" >&2
        exit 2
        ;;
esac
