#!/usr/bin/env bash
# The main job, end to end, on a fresh machine: pretrains SimCLR on 4,000 unlabelled digits,
# judges what it learned with 1 %, 10 % and 100 % of the labels, and writes one page about it.
#
#   launch/demo.sh [WORKDIR]     default: runs/demo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

workdir="${1:-runs/demo}"
python -m simclr_jax train --config=configs/simclr_digits.py --workdir="$workdir"
python -m simclr_jax evaluate --workdir="$workdir"
python -m simclr_jax report --workdir="$workdir"
echo "Open $workdir/report.html in a browser."
