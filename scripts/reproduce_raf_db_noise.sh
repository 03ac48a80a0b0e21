#!/usr/bin/env bash
# The paper's table of noise on RAF-DB: cross-entropy and EAC at 0, 10, 20 and 30 % symmetric noise, five seeds, 40 jobs,
# with the published numbers beside ours.
#
#   bash scripts/reproduce_raf_db_noise.sh RAF_DB_ROOT FACE_WEIGHTS [more overrides, such as hydra/launcher=slurm]
#
# Hardware: one or more GPUs. Time: not measured by the project yet. Expected scores: conf/sweep/raf_db_noise.yaml.
# Run it again to resume after an interruption.
set -euo pipefail
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \?//p' "$0"; exit; fi
root=$1
weights=$2
shift 2

fer-train -m sweep=raf_db_noise data.root="$root" backbone.weights="$weights" hydra/launcher=gpus "$@"
fer-report outputs/raf_db_noise --against ce --plots outputs/raf_db_noise/plots
