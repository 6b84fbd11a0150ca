#!/usr/bin/env bash
# Runs once, when the container is built: Python 3.11 or newer, the packages, a compiler for kernels, and bubblewrap.
set -euo pipefail
top=${1:-/autograder}
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq bubblewrap g++ python3 python3-venv
python=python3
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3.11 python3.11-venv
  python=python3.11
fi
"$python" -m venv "$top/venv"
"$top/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$top/source/requirements.txt"
