#!/usr/bin/env bash
# What φ costs on an accelerator: one JSON, in at most eight minutes. Usage: benchmarks/on_gpu.sh [OUT.json]
set -euo pipefail
cd "$(dirname "$0")/.."
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
exec timeout 480 python -m benchmarks.on_gpu --out "${1:-on_gpu.json}"
