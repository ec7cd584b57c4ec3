#!/usr/bin/env bash
# Builds an rpm from a wheel: packaging/rpm.sh WHEEL FOLDER [rpmbuild options]. Needs rpmbuild, and no root.
# GUARD_PYTHON is the interpreter it is built for (default /usr/bin/python3.11); its pip brings the libraries.
set -euo pipefail

if [ $# -lt 2 ] || [ ! -f "$1" ]; then
  echo "usage: packaging/rpm.sh WHEEL FOLDER [rpmbuild options]" >&2
  exit 2
fi
if ! command -v rpmbuild >/dev/null; then
  echo "rpmbuild is lacking: dnf install rpm-build python3.11-pip" >&2
  exit 1
fi
python=${GUARD_PYTHON:-/usr/bin/python3.11}
if ! "$python" -m pip --version >/dev/null 2>&1; then
  echo "$python has no pip, which brings the libraries: dnf install python3.11-pip" >&2
  exit 1
fi
project=$(cd "$(dirname "$0")/.." && pwd)
wheel=$1 folder=$2
shift 2
version=$(basename "$wheel" | cut -d- -f2)
top=$(mktemp -d)
trap 'rm -rf "$top"' EXIT
mkdir "$top/SOURCES"
"$python" "$project/packaging/wheels.py" "$top/screen"
cp "$wheel" "$top/SOURCES"
tar -C "$project" -cf "$top/SOURCES/documents.tar" --owner=0 --group=0 --mode=u=rwX,go=rX -T "$project/packaging/documents.txt"
rpmbuild -bb --quiet --define "_topdir $top" --define "_tmppath $top" \
  --define "guard_version $version" --define "guard_python $python" \
  --define "guard_screen $top/screen" "$@" "$project/packaging/smtpguard.spec" >&2
find "$top/RPMS" -name '*.rpm' -exec cp {} "$folder" \;
find "$top/RPMS" -name '*.rpm' -exec basename {} \; | sed "s|^|$folder/|"
