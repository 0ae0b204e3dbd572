#!/usr/bin/env bash
# Holds what calls cost against the Python package genai-prices, which computes in decimals.
#
#   scripts/price-oracle.sh [SEED]
#
# The package comes into a Python environment under target/, once. Its version is that of the catalogue
# in domain/catalog.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=0.2.1
environment="$tools_dir/genai-prices-$version"

if [ ! -x "$environment/bin/python" ]; then
    python3 -c 'import ensurepip' 2>/dev/null ||
        apt_install "genai-prices gets a Python environment of its own" python3-venv
    say "installing the Python package genai-prices $version into target/ to compare costs with it"
    rm -rf "$environment.new"
    python3 -m venv "$environment.new"
    "$environment.new/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
        --require-hashes --no-deps --requirement "$root/domain/tests/price_oracle.txt" </dev/null >&2
    # Whole or absent; Python finds its packages from where it lies.
    mv "$environment.new" "$environment"
fi

[ -z "${1:-}" ] || export AI_LIMITER_PRICE_ORACLE_SEED="$1"
cd "$root"
AI_LIMITER_PRICE_ORACLE="$environment/bin/python" \
    cargo test -p ai_limiter_domain --test price_oracle -- --ignored --nocapture
