#!/usr/bin/env bash
# Sets up what `make run` and `make test` need. `run`: the virtual environment and the system libraries that
# smtpguard uses. `test`: the test tools, unpacked below .cache rather than installed. `bpf [DIRECTORY]`: rebuilds the
# BPF objects, in place or into a directory. Run from the project's root. Packages are installed by root alone: for
# anybody else those that are missing are named, and it ends with 4.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin  # ldconfig and nft, which a user's own path may lack

say() { printf 'setup: %s\n' "$*" >&2; }

have_library() { ldconfig -p 2>/dev/null | grep -q "$1"; }

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

has_venv() { is_recent "$1" && "$1" -c 'import venv, ensurepip' 2>/dev/null; }

# The distribution's Python comes first: it is what an administrator has, it gets its security updates, and it is built
# with profiles, which makes it half as fast again as one compiled at home.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} /usr/bin/python3 python3.13 python3.12 python3.11 python3; do
    if has_venv "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

need_root() {
  [ "$(id -u)" != 0 ] || return 0
  say "these packages are missing, and only root may install them: $*"
  say "as root: $(command -v apt-get >/dev/null && echo apt-get || echo dnf) install $*"
  exit 4
}

install_system() {
  local missing=()
  if command -v apt-get >/dev/null; then
    have_library libbpf.so.1 || missing+=(libbpf1)
    have_library libnftables.so.1 || missing+=(libnftables1)
    command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables)
    if [ -z "${PYTHON:-}" ] && is_recent /usr/bin/python3; then
      has_venv /usr/bin/python3 || missing+=(python3-venv)  # Debian has the one without the other
    else
      find_python >/dev/null || missing+=(python3 python3-venv)
    fi
  elif command -v dnf >/dev/null; then
    have_library libbpf.so.1 || missing+=(libbpf)
    command -v nft >/dev/null || missing+=(nftables)
    find_python >/dev/null || missing+=(python3.11)
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  need_root "${missing[@]}"
  say "installing ${missing[*]}"
  if command -v apt-get >/dev/null; then
    # Installed without starting or enabling anything: nftables.service stays as it is.
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"; } >/dev/null
  else
    dnf install -y -q "${missing[@]}"
  fi || say "could not be installed: ${missing[*]}"
}

# The compiler of the committed BPF objects: clang 14, because another version writes other instructions.
BPF_SOURCES=smtpguard/sources/bpf
BPF_TOOLS=.cache/bpf-tools
BPF_PACKAGES=(clang-14 libclang-cpp14 libllvm14 llvm-14 libbpf-dev linux-libc-dev
  libedit2 libbsd0 libmd0 libxml2 libicu72 libz3-4)

setup_bpf_tools() {
  [ ! -e "$BPF_TOOLS/.complete" ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "no apt-get, so no clang 14: the BPF objects are used as committed"
    return 1
  fi
  if [ "$(id -u)" != 0 ]; then
    say "not root, so clang 14 is not fetched: the BPF objects are used as committed"
    return 1
  fi
  local downloads
  downloads=$(mktemp -d)
  if ! (cd "$downloads" && apt-get download -q "${BPF_PACKAGES[@]}") >/dev/null 2>&1; then
    apt-get update -q >/dev/null
    if ! (cd "$downloads" && apt-get download -q "${BPF_PACKAGES[@]}") >/dev/null; then
      rm -rf "$downloads"
      say "clang 14 can't be downloaded: the BPF objects are used as committed"
      return 1
    fi
  fi
  local package
  mkdir -p "$BPF_TOOLS"
  for package in "$downloads"/*.deb; do
    dpkg -x "$package" "$BPF_TOOLS"
  done
  rm -rf "$downloads"
  touch "$BPF_TOOLS/.complete"
}

build_bpf() {
  local out machine tools source
  machine=$(uname -m)-linux-gnu
  tools=$PWD/$BPF_TOOLS/usr
  out=$(realpath "${1:-$BPF_SOURCES}")
  (
    cd "$BPF_SOURCES"  # file names in the line information are relative, so that any checkout builds the same bytes
    export LD_LIBRARY_PATH=$tools/lib/$machine:$tools/lib/llvm-14/lib
    for source in *.bpf.c; do
      "$tools/lib/llvm-14/bin/clang" -O2 -g -Wall -Wextra -Werror -target bpf -mcpu=v2 -nostdinc \
        -fdebug-compilation-dir=. -isystem "$tools/include" -isystem "$tools/include/$machine" \
        -c "$source" -o "$out/${source%.c}.o"
      "$tools/lib/llvm-14/bin/llvm-strip" -g "$out/${source%.c}.o"
    done
    sha256sum ./*.bpf.[ch] | sed 's|\./||' >"$out/SOURCES.sha256"
  )
}

setup_run() {
  install_system
  local python
  if ! python=$(find_python); then
    say "Python 3.11 or newer with venv is needed; on Debian: apt-get install python3 python3-venv"
    exit 1
  fi
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -e '.[watch]'
}

install_test_tools() {
  # The laboratory of the tests and of the demonstration makes namespaces with `ip` and enters them with `nsenter`.
  local missing=()
  command -v ip >/dev/null || [ -x /usr/sbin/ip ] || missing+=("$(command -v apt-get >/dev/null && echo iproute2 || echo iproute)")
  command -v nsenter >/dev/null || missing+=(util-linux)
  [ ${#missing[@]} -gt 0 ] || return 0
  need_root "${missing[@]}"
  if command -v apt-get >/dev/null; then
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  else
    dnf install -y -q "${missing[@]}"
  fi
}

setup_test() {
  install_test_tools
  # Dependency groups (PEP 735) need a newer pip than Debian 12 ships.
  .venv/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
  .venv/bin/python -m pip install -q --disable-pip-version-check --group test -e .
  setup_bpf_tools || true
}

case "${1:-}" in
  run) setup_run ;;
  test) setup_test ;;
  bpf) setup_bpf_tools && build_bpf "${2:-}" ;;
  *) say "usage: config/setup.sh run|test|bpf [DIRECTORY]"; exit 2 ;;
esac
