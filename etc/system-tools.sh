#!/bin/sh
# Installs what pip cannot install: as root through apt; otherwise it names what is missing.
# usage: system-tools.sh PYTHON [tests]
#
# tests: also the programs that some tests run. Without one of them, its tests are skipped.
set -eu
python=${1:-python3}
fits='import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))'
if ! "$python" -c "$fits" 2>/dev/null; then
    found=""
    for other in python3.13 python3.12 python3.11; do
        if "$other" -c "$fits" 2>/dev/null; then
            found="; found: $other, so run make with PYTHON=$other"
            break
        fi
    done
    version=$("$python" --version 2>&1) || version="a program that does not run"
    echo "mig-api needs Python 3.11 to 3.13, and $python is $version$found" >&2
    exit 1
fi
missing=""
can_install=false
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    can_install=true
fi
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing $(basename "$python")-venv"
command -v gpg >/dev/null || missing="$missing gnupg"
command -v curl >/dev/null || missing="$missing curl"
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL does not run as root: it needs Debian's programs and their account.
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
fi
if [ "${2:-}" = tests ] && [ $can_install = true ]; then
    command -v nginx >/dev/null || missing="$missing nginx"
    command -v haproxy >/dev/null || missing="$missing haproxy"
    command -v faketime >/dev/null || missing="$missing faketime"
    command -v go >/dev/null || missing="$missing golang-go"
    command -v node >/dev/null || missing="$missing nodejs"
    command -v zstd >/dev/null || missing="$missing zstd"
    command -v jq >/dev/null || missing="$missing jq"
    command -v chromium-headless-shell >/dev/null || missing="$missing chromium-headless-shell"
    command -v logrotate >/dev/null || missing="$missing logrotate"
    command -v systemd-nspawn >/dev/null || missing="$missing systemd-container"
    command -v openssl >/dev/null || missing="$missing openssl"
    # docs/installation.md is tried with Debian's own Python
    PATH=/usr/bin python3 -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
    command -v pgbouncer >/dev/null || missing="$missing pgbouncer"
fi
[ -z "$missing" ] && exit 0
if [ $can_install = false ]; then
    echo "missing:$missing. Install them, for example: sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing with apt:$missing"
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -qqy --no-install-recommends $missing >/dev/null
