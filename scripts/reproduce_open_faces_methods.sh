#!/usr/bin/env bash
# Every method on openly usable faces in RAF-DB's layout, at 0 and 30 % symmetric noise, three seeds, 144 jobs.
#
#   bash scripts/reproduce_open_faces_methods.sh DATA_ROOT
#
# Hardware: one CPU core. Time: 47 minutes for 23 methods at one ratio; transfer takes as long for each run. Scores:
# RESULTS.md. Run it again to resume after an interruption.
set -euo pipefail
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \?//p' "$0"; exit; fi
data=$1
export OMP_NUM_THREADS=1

fer-train -m sweep=open_faces_methods data.root="$data" hydra/launcher=cpus
fer-report outputs/open_faces_methods --metric test/acc,test/macro_acc,memorized,recovered --against ce
