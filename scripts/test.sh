#!/usr/bin/env bash
# From a fresh clone to a test result: makes .venv, installs with the dev extra, runs the linter and the tests.
# Arguments go to pytest: bash scripts/test.sh tests/ops. Those marked slow run with: bash scripts/test.sh -m slow
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
ensure_environment .venv "[dev]"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
exec .venv/bin/python -m pytest -n "${TEST_WORKERS:-2}" --dist loadfile -m "not slow" "$@"
