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

case "${1:-all}" in
    all) selection="not thorough" ;;
    fast) selection="not integration and not reference and not thorough" ;;
    thorough) exec python -m pytest -m thorough --numprocesses 2 --dist worksteal ;;
    interop)
        python -m pip install --quiet --disable-pip-version-check -r requirements-interop.txt
        exec python -m pytest --numprocesses 2 --dist worksteal tests/unit/interop \
            tests/reference/export_test.py tests/reference/import_golden_test.py \
            tests/reference/torch_import_test.py tests/integration/interop_test.py
        ;;
    plan)
        python -m pip install --quiet --disable-pip-version-check -r requirements-tpu.txt
        python -m simclr_jax plan --config=configs/simclr_digits.py --topology=v5litepod-4
        exec python -m pytest -rs tests/unit/plan tests/integration/plan_test.py
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
pyright
python -m pytest -m "$selection" -rs --numprocesses 2 --dist worksteal
