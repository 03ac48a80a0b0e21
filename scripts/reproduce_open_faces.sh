#!/usr/bin/env bash
# Cross-entropy and EAC on openly usable faces in RAF-DB's layout, at 0 and 30 % symmetric noise, three seeds, from
# partial ImageNet weights and from random ones.
#
#   bash scripts/reproduce_open_faces.sh DATA_ROOT RESNET18_WEIGHTS
#
# Hardware: two CPU cores. Scores: not obtained yet with this version. Run it again to resume after an interruption.
set -euo pipefail
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \?//p' "$0"; exit; fi
data=$1
weights=$2
export OMP_NUM_THREADS=1

for start in "$weights" null; do
    fer-train -m experiment=eac_open_faces data.root="$data" backbone.weights="$start" \
        method=ce,eac noise.ratio=0,0.3 seed=0,1,2
done
fer-report outputs/eac_open_faces
