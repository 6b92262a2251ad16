#!/bin/sh
# Make the virtual environment of the book at $1: the exact packages of requirements.txt, and normtut itself.
set -eu
venv=$1
for candidate in ${BOOTSTRAP_PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11 python3.10; do
  if command -v "$candidate" >/dev/null 2>&1 &&
     "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "${python:-}" ]; then
  found=$(python3 --version 2>&1 || true)
  echo "normtut needs Python 3.10 to 3.14; found: ${found:-no python3}." >&2
  echo "Install one of them, or name it: make BOOTSTRAP_PYTHON=/path/to/python3.12 ..." >&2
  exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
