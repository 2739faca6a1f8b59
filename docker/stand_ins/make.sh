#!/bin/bash
# Local images that bear the names which docker/Dockerfile and docker/compose.yaml ask for, where no registry of images can be
# reached: a Debian root by debootstrap (as root), and what it installs from Debian and PyPI. Docker Engine must run.
#   bash docker/stand_ins/make.sh [MIRROR]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mirror=${1:-http://deb.debian.org/debian}
base=python:$(sed -n 's/^ARG PYTHON=//p' "$here/../Dockerfile")
postgres=$(sed -n 's/^ *image: \(postgres:.*\)/\1/p' "$here/../compose.yaml")
store=$(sed -n 's/^ *image: \(minio.*\)/\1/p' "$here/../compose.yaml")
if ! docker image inspect "$base" > /dev/null 2>&1; then
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" "$mirror"
    # The certificates of this machine's way to the package indexes: a local image, never push it.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    printf '[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n' > "$root/etc/pip.conf"
    ln -s python3 "$root/usr/bin/python"
    tar -C "$root" -c . | docker import --change 'CMD ["python"]' - "$base"
fi
docker build --network host --build-arg "BASE=$base" -f "$here/postgres.Dockerfile" -t "$postgres" "$here"
docker build --network host --build-arg "BASE=$base" -f "$here/store.Dockerfile" -t "$store" "$here"
