#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `make test-image`: builds the image and runs it with the capabilities that deploy/kubernetes declares, no more. The base is Debian
# slim as it is pulled, or, where nothing can be pulled, made of the archive by mmdebstrap; storage is its own, and removed.
#   BASE_MAX=MIB   what it may be larger than its base (default 40)
#   REPEAT=1       builds it twice: both have one digest
set -euo pipefail
cd "$(dirname "$0")/../.."
for tool in buildah mmdebstrap kubectl curl; do
	command -v "$tool" >/dev/null || { echo "test-image: $tool is missing: apt-get install $tool" >&2 && exit 1; }
done
work=$(mktemp -d /var/tmp/penstock-image.XXXXXX)
export CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$work" "$work" >"$work/storage.conf"
trap 'buildah rm -a >/dev/null 2>&1; buildah rmi -af >/dev/null 2>&1; rm -rf "$work"' EXIT

base=docker.io/library/debian:bookworm-slim
if ! buildah pull -q "$base" >/dev/null 2>&1; then
	mmdebstrap -q --variant=minbase --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/base.tar"
	container=$(buildah from scratch)
	buildah add -q "$container" "$work/base.tar" / >/dev/null
	buildah commit -q --rm "$container" "$base" >/dev/null
	rm "$work/base.tar"
fi

build() {
	BUILDER=buildah IMAGE=$1 IMAGE_FLAGS="--isolation=chroot --pull-never --network=host" deploy/image.sh "$VERSION" "$COMMIT" \
		>"$work/build.log" 2>&1 || { tail -50 "$work/build.log" && exit 1; }
}
VERSION=${1:?} COMMIT=${2:?}
build localhost/penstock:test
if [ "${REPEAT:-0}" = 1 ]; then
	build localhost/penstock:again
	[ "$(buildah inspect --format '{{.FromImageDigest}}' localhost/penstock:test)" = \
		"$(buildah inspect --format '{{.FromImageDigest}}' localhost/penstock:again)" ] || { echo "two builds differ" >&2 && exit 1; }
fi
buildah inspect --type image localhost/penstock:test >"$work/image.json"
for label in title version revision licenses created; do
	grep -q "org.opencontainers.image.$label\": \"[^\"]" "$work/image.json" || { echo "no label $label" >&2 && exit 1; }
done

of_base=$(buildah from "$base") of_image=$(buildah from localhost/penstock:test)
of_base=$(du -sxm "$(buildah mount "$of_base")" | cut -f1)
root=$(buildah mount "$of_image")
more=$(($(du -sxm "$root" | cut -f1) - of_base))
echo "the image is its base of $of_base MiB and $more MiB"
[ "$more" -le "${BASE_MAX:-40}" ]

capabilities=$(kubectl kustomize deploy/kubernetes | sed -n '/^ *add:/,/^ *drop:/s/^ *- //p' | tr '[:upper:]' '[:lower:]' | paste -sd,)
timeout 120 unshare -nm tests/image/inside.sh "$root" "$capabilities"
echo "1 passed, 0 failed"
