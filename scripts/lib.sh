# What the other scripts share: where things lie, and how to talk to the user.
# To be sourced, not run.
# shellcheck shell=bash disable=SC2034

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
postgres_dir="$root/target/postgres"
tools_dir="$root/target/tools"
pgspot_version=0.9.4
pgspot="$tools_dir/pgspot-$pgspot_version/bin/pgspot"
supported_versions="15 16 17 18"

# Standard output belongs to results that other programs read.
say() { echo "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

check_version() {
    case " $supported_versions " in
        *" $1 "*) ;;
        *) die "Postgres version must be one of $supported_versions, not \"$1\"" ;;
    esac
}

# apt_install REASON PACKAGE...
apt_install() {
    local reason="$1"
    shift
    if ! have apt-get; then
        die "please install $* with this system's package manager, because $reason"
    fi
    if [ "$(id -u)" -ne 0 ]; then
        die "$* must be installed, because $reason. Please run:
    sudo apt-get install --yes $*"
    fi
    say "installing $* because $reason"
    # A fresh machine has no package lists yet, and old lists name packages that are gone.
    if [ -z "${apt_updated:-}" ]; then
        apt-get update --quiet=2 </dev/null >&2
        apt_updated=yes
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends "$@" \
        </dev/null >&2
}
