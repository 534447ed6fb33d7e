#!/usr/bin/env bash
# Builds the programs of all libraries, and installs those for Python into an environment of its own (about 5 GB).
#
#     ./install.sh            # Cargo.lock and requirements.txt pin the versions
#     ./install.sh rust       # without those for Python
#
# It needs cargo, and Python 3.11 or newer for JAX. What it makes is in target/, or in CARGO_TARGET_DIR.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Each is built by itself: a build of several would give each the features that another one asks of a crate that they share.
for name in backrule candle burn dfdx rustyml; do
    cargo build --release --locked --features "$name" --bin "$name"
done

if [ "${1:-}" != rust ]; then
    python="${CARGO_TARGET_DIR:-target}/python"
    python3 -m venv "$python"
    "$python/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements.txt
    printf 'now: python3 compare.py --python %s/bin/python\n' "$python"
fi
