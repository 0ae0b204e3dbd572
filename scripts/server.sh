#!/usr/bin/env bash
# The throwaway server under target/demo-server, with the extension as it is now.
#
#   scripts/server.sh VERSION demo [TRACE]   start it if need be, and tell the story on it
#   scripts/server.sh VERSION psql           start it if need be, and open a shell on it
#   scripts/server.sh VERSION stop           stop it and remove its data

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version="${1:?usage: scripts/server.sh VERSION demo|psql|stop}"
command="${2:?usage: scripts/server.sh VERSION demo|psql|stop}"
check_version "$version"
binaries="${CARGO_TARGET_DIR:-$root/target}/debug"

server() { "$root/scripts/with-postgres.sh" "$version" "$binaries/ai_limiter_server" "$@"; }

prepare() {
    "$root/scripts/install-tools.sh"
    "$root/scripts/build.sh" "$version"
    # With both packages each time, or cargo builds what they share once for each choice.
    cargo build --manifest-path "$root/Cargo.toml" --bins \
        --package ai_limiter_tests --package ai_limiter_demo
}

# Prints the address of the database.
start() {
    [ -d "$root/target/demo-server" ] ||
        say "making a throwaway server in target/demo-server (make clean-server removes it)"
    server start
}

case "$command" in
    demo)
        # Before anything is built: a mistake in its name shall not cost that wait.
        [ -z "${3:-}" ] || [ -r "$3" ] || die "cannot read the trace \"$3\""
        prepare
        start >&2
        exec "$root/scripts/with-postgres.sh" "$version" "$binaries/ai_limiter_demo" ${3:+"$3"}
        ;;
    psql)
        prepare
        start >&2
        server psql
        ;;
    stop)
        # Nothing to stop is no reason to build anything.
        [ ! -d "$root/target/demo-server" ] || server stop
        ;;
    *) die "unknown command \"$command\"" ;;
esac
