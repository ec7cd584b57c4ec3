#!/usr/bin/env bash
# Sets up what `make run` and `make test` need. `run`: the virtual environment and the system libraries that
# smtpguard uses. `test`: the test tools, unpacked below .cache rather than installed. Run from the project's root.
set -euo pipefail

say() { printf 'setup: %s\n' "$*" >&2; }

have_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

install_system() {
  local missing=()
  if command -v apt-get >/dev/null; then
    have_library libbpf.so.1 || missing+=(libbpf1)
    have_library libnftables.so.1 || missing+=(libnftables1)
    command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables)
    find_python >/dev/null || missing+=(python3 python3-venv)
  elif command -v dnf >/dev/null; then
    have_library libbpf.so.1 || missing+=(libbpf)
    command -v nft >/dev/null || missing+=(nftables)
    find_python >/dev/null || missing+=(python3.11)
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then
    say "not root, so not installed: ${missing[*]}"
    return 0
  fi
  say "installing ${missing[*]}"
  if command -v apt-get >/dev/null; then
    apt-get update -q >/dev/null
    # Installed without starting or enabling anything: nftables.service stays as it is.
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  else
    dnf install -y -q "${missing[@]}"
  fi
}

setup_run() {
  install_system
  local python
  if ! python=$(find_python); then
    say "Python 3.11 or newer with venv is needed; on Debian: apt-get install python3 python3-venv"
    exit 1
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -e .
}

setup_test() {
  # Dependency groups (PEP 735) need a newer pip than Debian 12 ships.
  .venv/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
  .venv/bin/python -m pip install -q --disable-pip-version-check --group test -e .
}

case "${1:-}" in
  run) setup_run ;;
  test) setup_test ;;
  *) say "usage: config/setup.sh run|test"; exit 2 ;;
esac
