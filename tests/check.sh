#!/usr/bin/env bash
# Checks everything that needs no accelerator; `tests/check.sh fast` leaves out training runs
# and whole networks; `tests/check.sh thorough` runs what is left out of both, such as each method in
# every layout; `tests/check.sh interop` installs the optional packages into .venv and runs
# the tests of import and export that need them; `tests/check.sh plan` installs the TPU compiler
# into .venv, plans a small run and runs the tests that need it; `tests/check.sh release` installs
# what builds the package and the site, and builds both; `tests/check.sh faults` prints what is lost
# by what goes wrong, docs/faults.md. Makes its own environment; see launch/env.sh.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

# Each process imports what another one has compiled.
unset PYTHONDONTWRITEBYTECODE

marked() {  # runs the tests with a mark; collects only the files that name it
    grep --recursive --files-with-matches --include='*_test.py' "pytest\.mark\.$1\b" tests |
        xargs python -m pytest -m "$1" -rs --numprocesses 2 --dist worksteal
}

case "${1:-all}" in
    all) selection="not thorough" ;;
    fast) selection="not integration and not reference and not thorough" ;;
    thorough)
        marked thorough
        exit
        ;;
    interop)
        python -m pip install --quiet --disable-pip-version-check -r requirements-interop.txt
        marked interop
        exit
        ;;
    plan)
        python -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt
        python -m simclr_jax plan --config=configs/simclr_digits.py --topology=v5litepod-4
        marked plan
        exit
        ;;
    release)
        python -m pip install --quiet --disable-pip-version-check -r requirements-release.txt
        mkdocs build --strict --quiet
        exec python -m pytest -rs tests/integration/package_test.py
        ;;
    faults) exec python -m pytest tests/faults tests/integration/hosts_test.py ;;
    *)
        echo "usage: tests/check.sh [fast|thorough|interop|plan|release|faults]" >&2
        exit 2
        ;;
esac

ruff format --check .
ruff check .
# Types take one core for a minute: checked beside the tests, and printed after them.
types=$(mktemp)
trap 'kill "$pyright" 2>/dev/null || true; rm -f "$types"' EXIT
pyright >"$types" 2>&1 &
pyright=$!
failed=0
python -m pytest -m "$selection" -rs --numprocesses 2 --dist worksteal || failed=$?
wait "$pyright" || failed=$?
cat "$types"
exit "$failed"
