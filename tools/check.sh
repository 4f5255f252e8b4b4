#!/usr/bin/env bash
# Formatting, lint, types, tests. `--no-tests` leaves the tests out.
# PYTHON names the environment's interpreter (default: .venv/bin/python).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
"$python" -m ruff format --check .
"$python" -m ruff check .
"$python" -m mypy
[ "${1:-}" = --no-tests ] || "$python" -m pytest
