#!/usr/bin/env bash
# EAC against cross-entropy on the demo faces, with and without wrong labels, two seeds, 8 jobs.
#
#   bash scripts/reproduce_demo_noise.sh [more overrides]
#
# Hardware and time: conf/sweep/demo_noise.yaml. Run it again to resume after an interruption.
set -euo pipefail
if [[ ${1:-} == --help ]]; then sed -n '2,/^set/s/^# \?//p' "$0"; exit; fi

fer-train -m sweep=demo_noise "$@"
fer-report outputs/demo_noise --against ce --plots outputs/demo_noise/plots
