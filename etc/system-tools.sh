#!/bin/sh
# Installs what pip cannot: as root through apt, else it names what is missing.
# usage: system-tools.sh PYTHON
set -eu
python=${1:-python3}
missing=""
"$python" -c 'import venv, ensurepip' 2>/dev/null || missing="$missing python3-venv"
command -v gpg >/dev/null || missing="$missing gnupg"
command -v curl >/dev/null || missing="$missing curl"
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL does not run as root: it gets Debian's programs and their account.
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "missing:$missing. Install them, for example: sudo apt-get install$missing" >&2
    exit 1
fi
# shellcheck disable=SC2086
apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
