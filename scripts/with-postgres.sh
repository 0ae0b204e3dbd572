#!/usr/bin/env bash
# Runs a command in the environment that pgrx and the tests read their Postgres from.
#
#   scripts/with-postgres.sh 17 cargo clippy --no-default-features --features pg17

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version="${1:?usage: scripts/with-postgres.sh VERSION COMMAND...}"
shift
check_version "$version"
prefix="${AI_LIMITER_POSTGRES_PREFIX:-$("$root/scripts/postgres.sh" "$version")}"

# A home for each version, written only when it changes: pgrx generates its
# bindings anew (half a minute) whenever this file is touched.
home="$root/target/pgrx/$version"
config="[configs]
pg$version = \"$prefix/bin/pg_config\""
if [ "$(cat "$home/config.toml" 2>/dev/null)" != "$config" ]; then
    mkdir -p "$home"
    echo "$config" >"$home/config.toml"
fi

export PG="$version" AI_LIMITER_POSTGRES_PREFIX="$prefix" PGRX_HOME="$home"
exec "$@"
