#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# `make test-kube`: the image, the manifests and the chart in a real Kubernetes of two nodes. run.sh VERSION COMMIT [NAME]
#
#   NAME             only tests whose names have this in them
#   XDG_CACHE_HOME   what is built once is in its penstock-kube (default /var/cache/penstock-kube)
#   KEEP=1           logs are left, and where they are is said
set -euo pipefail
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-/var/cache}/penstock-kube
[ "$(id -u)" = 0 ] || { echo "test-kube: needs root" >&2 && exit 1; }
grep -q '^cgroup .* cgroup .*memory' /proc/mounts || { echo "test-kube: Kubernetes 1.20 wants the hierarchies of cgroup v1 (and the agent v2 beside them)" >&2 && exit 1; }
./build.sh "$cache" "$1" "$2"
exec 8>"$cache/running"
flock -n 8 || { echo "test-kube: another run is going on here" >&2 && exit 1; }
export PENSTOCK_KUBE_CACHE=$cache PENSTOCK_VERSION=$1 PYTHONDONTWRITEBYTECODE=1
results=$(mktemp)
trap 'rm -f "$results"' EXIT
code=0
# Killed itself, it takes the cluster with it.
setpriv --pdeathsig TERM "${PYTHON:-/usr/bin/python3}" -m pytest -v -rs --tb=short --durations=6 -p no:cacheprovider --junitxml="$results" ${3:+-k "$3"} test_cluster.py || code=$?
counts=$("${PYTHON:-/usr/bin/python3}" ../junit.py "$results" $code) || { echo "0 passed, 1 failed" && exit 1; }
passed=0 failed=0 skipped=0
while IFS=$'\t' read -r what value; do
	case $what in
	passed) passed=$value ;;
	failed) failed=$value ;;
	skipped) skipped=$value ;;
	name) echo "failed: $value" ;;
	esac
done <<<"$counts"
echo "$passed passed, $failed failed$([ "$skipped" = 0 ] || echo ", $skipped skipped")"
exit $code
