#!/usr/bin/env bash
# Every check that needs no server: format, lints, documentation, dependencies, and the
# generated SQL.

set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

main_version=17

say "format"
cargo fmt --all --check

for version in $supported_versions; do
    say "clippy, Postgres $version"
    # The other packages know nothing of the version.
    packages=(--package ai_limiter)
    [ "$version" != "$main_version" ] || packages=(--workspace)
    scripts/with-postgres.sh "$version" cargo clippy --locked "${packages[@]}" --all-targets \
        --no-default-features --features "ai_limiter/pg$version" -- -D warnings
done

say "documentation"
RUSTDOCFLAGS="-D warnings" scripts/with-postgres.sh "$main_version" \
    cargo doc --locked --workspace --no-deps --document-private-items

say "dependencies"
cargo deny --locked check licenses bans sources
# The advisories come from a repository that not every network lets one reach.
if cargo deny fetch db 2>/dev/null; then
    cargo deny --locked check advisories
else
    say "NOT CHECKED: security advisories, because their database cannot be fetched from here"
fi

say "shell scripts"
shellcheck --external-sources --source-path=scripts scripts/*.sh

say "the extension's SQL"
scripts/build.sh "$main_version"
"$pgspot" "$postgres_dir/$main_version"/share/extension/ai_limiter--*.sql

say "no lint has anything to say"
