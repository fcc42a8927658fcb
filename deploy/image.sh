#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `make image`: builds the image with docker, buildah or podman, whichever is there and works, and says how large it is.
#   IMAGE=NAME:TAG   what it is called (default localhost/penstock:VERSION)
#   BUILDER=…        one of the three
#   IMAGE_FLAGS=…    further flags of its build: --build-arg SNAPSHOT=20261101T000000Z, --network=host, --isolation=chroot
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:?version} commit=${2:?commit}
image=${IMAGE:-localhost/penstock:$version}
epoch=${SOURCE_DATE_EPOCH:-$(git -c safe.directory="$PWD" log -1 --format=%ct 2>/dev/null || echo 0)}
read -ra more <<<"${IMAGE_FLAGS:-}"

builder=${BUILDER:-}
if [ -z "$builder" ]; then
	if docker info >/dev/null 2>&1; then
		builder=docker
	elif command -v buildah >/dev/null; then
		builder=buildah
	elif command -v podman >/dev/null; then
		builder=podman
	else
		echo "image: none of docker (with its daemon), buildah and podman is here: apt-get install buildah" >&2
		exit 1
	fi
fi

arguments=(--build-arg "SOURCE_DATE_EPOCH=$epoch" --build-arg "VERSION=$version" --build-arg "COMMIT=$commit"
	--build-arg "CREATED=$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" -f Dockerfile -t "$image")
case $builder in
docker) DOCKER_BUILDKIT=1 docker build "${arguments[@]}" "${more[@]}" . ;;
buildah) buildah bud --layers=false --timestamp "$epoch" "${arguments[@]}" "${more[@]}" . ;;
podman) podman build --layers=false --timestamp "$epoch" "${arguments[@]}" "${more[@]}" . ;;
*)
	echo "image: BUILDER is docker, buildah or podman" >&2
	exit 2
	;;
esac
case $builder in
docker) bytes=$(docker image inspect --format '{{.Size}}' "$image") ;;
buildah) bytes=$(buildah images --json "$image" | sed -n 's/.*"size": "\(.*\)".*/\1/p' | head -1) ;;
podman) bytes=$(podman image inspect --format '{{.Size}}' "$image") ;;
esac
echo "$image: $bytes"
