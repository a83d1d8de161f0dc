#!/usr/bin/env bash
# SimCLRv2's three steps with 1 % of the labels: pretrain without labels, fine-tune on few,
# distil into a network of a quarter of the size with unlabelled images. Beside them a linear
# probe and the same network trained on the 1 % alone; prints the test accuracy of all four.
#
#   launch/semi_supervised.sh digits [WORKDIR]               default: runs/semi_supervised
#   launch/semi_supervised.sh cifar10 WORKDIR TFDS_DIRECTORY
#
# What is done already in WORKDIR is not done again, so it can be stopped and go on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/env.sh

data="${1:-}" workdir="${2:-runs/semi_supervised}" path="${3:-}"
case "$data" in
    digits) pretrain="simclr_digits.py" from=() ;;
    cifar10) pretrain="simclr_cifar10.py:small" from=("--config.data.path=$path") ;;
    *)
        echo "usage: launch/semi_supervised.sh digits|cifar10 [WORKDIR [TFDS_DIRECTORY]]" >&2
        exit 2
        ;;
esac
few="$data,fraction=0.01"
runs=(supervised linear_probe finetuned distilled)

train() { python -m simclr_jax train --config="configs/$1" --workdir="$workdir/$2" "${from[@]}" "${@:3}"; }

train "supervised.py:$few" supervised
train "$pretrain" pretrained
train "linear_probe.py:$few" linear_probe --config.warm_start.checkpoint="$workdir/pretrained"
train "finetune.py:$few" finetuned --config.warm_start.checkpoint="$workdir/pretrained"
train "distill.py:$few" distilled --config.method.teacher="$workdir/finetuned"
for run in "${runs[@]}"; do
    python -m simclr_jax evaluate --workdir="$workdir/$run" --json > "$workdir/$run.json"
done
python - "$workdir" "${runs[@]}" <<'EOF'
import json, sys

workdir, *runs = sys.argv[1:]
print(f"\n{'test top-1, 1 % of the labels':32}")
for run in runs:
    with open(f"{workdir}/{run}.json") as file:
        (row,) = json.load(file)["results"]
    print(f"  {run:30} {row['top1']:.4f}   on {row['num_test']:,} images")
EOF
