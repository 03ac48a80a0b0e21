#!/usr/bin/env bash
# EAC against cross-entropy on the demo faces, with and without wrong labels, two seeds, 8 jobs.
#
#   bash scripts/reproduce_demo_noise.sh
#
# Hardware and time: README.md. Run it again to go on after an interruption.
set -euo pipefail

fer-train -m sweep=demo_noise "$@"
fer-report outputs/demo_noise --against ce --plots outputs/demo_noise/plots
