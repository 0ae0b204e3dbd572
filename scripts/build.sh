#!/usr/bin/env bash
# Builds the extension in release mode and installs it into the prefix of
# scripts/postgres.sh, and nowhere else.
#
#   scripts/build.sh 17

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version="${1:?usage: scripts/build.sh VERSION}"
check_version "$version"
prefix="${AI_LIMITER_POSTGRES_PREFIX:-$("$root/scripts/postgres.sh" "$version")}"
stamp="$prefix/.ai_limiter-installed"

# Even with nothing to compile, cargo-pgrx takes seconds to write the SQL anew.
is_current() {
    [ -e "$stamp" ] || return 1
    local newer
    # Folders too: a file that is deleted or renamed leaves only their time changed.
    newer="$(find "$root/src" "$root/sql" "$root/domain" "$root/tokens" "$root/Cargo.toml" "$root/Cargo.lock" \
        "$root"/*.control "$root/scripts/build.sh" -newer "$stamp" -print -quit)"
    [ -z "$newer" ]
}

if is_current; then
    say "ai_limiter in $prefix is up to date"
    exit 0
fi

say "building ai_limiter for Postgres $version (minutes the first time)"
# The time of the start: what is edited during the build counts as newer than it.
mkdir -p "$root/target"
started="$(mktemp "$root/target/.build-started.XXXXXX")"
trap 'rm -f "$started"' EXIT
rm -f "$stamp"
cd "$root"
"$root/scripts/with-postgres.sh" "$version" \
    cargo pgrx install --release --pg-config "$prefix/bin/pg_config" \
    --no-default-features --features "pg$version" </dev/null >&2
# The server may run as another user than the one who builds.
chmod -R go+rX "$prefix"
touch --reference="$started" "$stamp"
