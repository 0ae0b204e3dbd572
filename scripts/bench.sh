#!/usr/bin/env bash
# The benchmark on a server of its own, with the extension as it is now.
#
#   scripts/bench.sh VERSION [ARGUMENT...]    the arguments of ai_limiter_bench
#
# The peers that it compares with go to target/bench-peers, but for Debian packages. One that cannot
# be installed is not measured, and its line says so.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version="${1:?usage: scripts/bench.sh VERSION [ARGUMENT...]}"
shift
check_version "$version"
peers="$root/target/bench-peers"
pyrate_version=4.5.1
psycopg_version=3.3.9

# The rows that were asked for; all without --rows.
rows=all
for ((i = 1; i < $#; i++)); do
    [ "${!i}" != --rows ] || { j=$((i + 1)) && rows="${!j}"; }
done

# attempt ROW NAME FUNCTION: in a subshell, since a failure is no reason to stop.
attempt() {
    case ",$rows," in
        *",$1,"* | ,all,) shift ;;
        *) return ;;
    esac
    if ! ("$2"); then
        say "NOT MEASURED: $1, because it could not be installed"
    fi
}

# What is compared must be of the same place each time: a whole folder or none.
install_flexible() {
    cmp -s "$root/bench/peers/package.json" "$peers/node/package.json" && return
    have npm || apt_install "the benchmark compares with a package of it" nodejs npm
    say "installing rate-limiter-flexible into target/ because the benchmark compares with it"
    rm -rf "$peers/node" "$peers/node.partial"
    mkdir -p "$peers/node.partial"
    cp "$root/bench/peers/package.json" "$peers/node.partial/"
    npm install --prefix "$peers/node.partial" --no-audit --no-fund --loglevel=error </dev/null >&2 || exit 1
    mv "$peers/node.partial" "$peers/node"
}

install_pyrate() {
    local stamp="$peers/python/$pyrate_version-$psycopg_version"
    [ -e "$stamp" ] && return
    have python3 || apt_install "the benchmark compares with a package of it" python3
    python3 -c 'import ensurepip' 2>/dev/null ||
        apt_install "pyrate-limiter gets a Python environment of its own" python3-venv
    say "installing pyrate-limiter into target/ because the benchmark compares with it"
    rm -rf "$peers/python"
    python3 -m venv "$peers/python" >&2 &&
        "$peers/python/bin/pip" install --quiet --disable-pip-version-check \
            "pyrate-limiter==$pyrate_version" "psycopg[binary,pool]==$psycopg_version" \
            </dev/null >&2 &&
        touch "$stamp" && return
    rm -rf "$peers/python"
    exit 1
}

install_redis() {
    local server
    # Not the package redis-server, which would start a service: the program is in redis-tools, under
    # the name of a check that it is as well, and looks at the name that it is called by.
    have redis-benchmark || apt_install "the benchmark compares with Redis" redis-tools || exit 1
    server="$(command -v redis-server || command -v redis-check-rdb)" || exit 1
    mkdir -p "$peers/redis"
    ln -sfn "$server" "$peers/redis/redis-server"
    "$peers/redis/redis-server" --version >&2
}

"$root/scripts/install-tools.sh"
"$root/scripts/build.sh" "$version"
attempt peers "npm rate-limiter-flexible" install_flexible
attempt peers "PyPI pyrate-limiter" install_pyrate
attempt redis "Redis" install_redis
cargo build --release --locked --manifest-path "$root/Cargo.toml" --package ai_limiter_bench
exec "$root/scripts/with-postgres.sh" "$version" \
    "${CARGO_TARGET_DIR:-$root/target}/release/ai_limiter_bench" "$@"
