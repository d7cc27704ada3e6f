#!/usr/bin/env bash
# From a fresh clone to a leaderboard: makes .venv, installs, runs the quickstart sweep on the embedded data.
# Arguments go to the sweep: bash scripts/quickstart.sh --out runs/mine
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
ensure_environment .venv ""
exec .venv/bin/robustbench-jax sweep configs/quickstart.toml "$@"
