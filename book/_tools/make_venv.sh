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
  found="no python3"
  if command -v python3 >/dev/null 2>&1; then found=$(python3 --version 2>&1 || true); fi
  echo "normtut needs Python 3.10 to 3.14; found: $found." >&2
  echo "Install one of them, or name it: make BOOTSTRAP_PYTHON=/path/to/python3.12 ..." >&2
  exit 1
fi
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  # A half-made environment (Debian's python3 without its venv package leaves one) would be taken for a whole one.
  rm -rf "$venv"
  if ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    echo "$python cannot make virtual environments (on Debian or Ubuntu: apt-get install python3-venv)." >&2
    exit 1
  fi
fi
echo "Installing the book's environment in $venv (the first time, a few minutes: it downloads PyTorch)."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
