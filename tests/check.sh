#!/usr/bin/env bash
# Checks everything that needs no accelerator; `tests/check.sh fast` leaves out training runs
# and whole networks. Makes its own environment; see launch/env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

case "${1:-all}" in
    all) selection="" ;;
    fast) selection="not integration and not reference" ;;
    *)
        echo "usage: tests/check.sh [fast]" >&2
        exit 2
        ;;
esac

ruff format --check .
ruff check .
pyright
python -m pytest -m "$selection" --numprocesses 2 --dist worksteal
