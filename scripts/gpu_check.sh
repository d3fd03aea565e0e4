#!/usr/bin/env bash
# Proves on this machine's GPU, in at most 8 minutes and without a network, what only a GPU can prove (docs/cuda.md):
#   scripts/gpu_check.sh [--out FOLDER] [--only STAGE,STAGE]
#   scripts/gpu_check.sh --dry-run          what of it can run on the device sim, without a GPU
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=scripts${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-python3}" -m gpu_check "$@"
