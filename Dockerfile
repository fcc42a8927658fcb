# SPDX-License-Identifier: Apache-2.0
# The image of the agent: `make image`. penstockd, penstock and penstock-relay on Debian slim, and the libraries they link.
#
# Reproducible: one suite, everything from its archive, times from SOURCE_DATE_EPOCH (the commit's), no log, cache or debug path
# kept. Packages are the suite's newest; SNAPSHOT=20261101T000000Z takes those of that moment from snapshot.debian.org instead, and
# BASE=debian:bookworm-slim@sha256:… the base: with both, the same commit is the same image to the bit
# by buildah and podman (docker keeps the time at which it wrote each file).
ARG SUITE=bookworm
ARG BASE=docker.io/library/debian:${SUITE}-slim

FROM ${BASE} AS build
ARG SUITE
ARG SNAPSHOT=
ARG SOURCE_DATE_EPOCH=0
WORKDIR /src
COPY deploy/setup.sh deploy/
RUN if [ -n "$SNAPSHOT" ]; then \
		rm -f /etc/apt/sources.list.d/*; \
		for part in "debian $SUITE" "debian $SUITE-updates" "debian-security $SUITE-security"; do \
			echo "deb [check-valid-until=no] http://snapshot.debian.org/archive/${part%% *}/$SNAPSHOT ${part#* } main"; \
		done > /etc/apt/sources.list; \
	fi; \
	cp -a /etc/apt /apt; \
	deploy/setup.sh build
COPY . .
ARG COMMIT=unknown
RUN make -j"$(nproc)" CI=1 COMMIT="$COMMIT" CFLAGS="-O2 -g -ffile-prefix-map=/src=." all && \
	install -D -m 755 -t /out/usr/sbin build/penstockd build/penstock-relay && \
	install -D -m 755 -t /out/usr/bin build/penstock && \
	install -D -m 644 LICENSE /out/usr/share/doc/penstock/copyright && \
	strip --strip-all /out/usr/sbin/* /out/usr/bin/*

FROM ${BASE}
ARG SOURCE_DATE_EPOCH=0
# Where packages came from for the build; of the image itself only if a SNAPSHOT was asked for.
ARG SNAPSHOT=
# The same libraries as the programs were linked with; nothing else is needed: no nft, ip or bpftool. The shell, mount and rm that
# the chart's init containers use are the base's.
RUN --mount=type=bind,from=build,source=/apt,target=/apt \
	if [ -n "$SNAPSHOT" ]; then rm -f /etc/apt/sources.list.d/*; cp /apt/sources.list /etc/apt/sources.list; fi; \
	export DEBIAN_FRONTEND=noninteractive && apt-get -qq update && \
	apt-get -qq install -y --no-install-recommends libbpf1 libelf1 zlib1g libmicrohttpd12 libgnutls30 libjansson4 libyaml-0-2 libsqlite3-0 \
		libmnl0 libnftables1 libcurl4 >/dev/null && \
	rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/* /var/cache/ldconfig/* /var/log/* /tmp/* /var/tmp/* \
		/usr/share/man/* /usr/share/info/* /usr/share/locale/* /var/lib/dpkg/*-old && \
	find /usr/share/doc -depth -type f ! -name copyright -delete
COPY --from=build /out /
ARG COMMIT=unknown
ARG VERSION=unknown
ARG CREATED=
ARG SUITE
LABEL org.opencontainers.image.title="Penstock" \
	org.opencontainers.image.description="Node agent: leads chosen connections to a proxy with their addresses kept, and enforces network policy, with eBPF" \
	org.opencontainers.image.licenses="Apache-2.0 AND (GPL-2.0-only OR BSD-2-Clause)" \
	org.opencontainers.image.vendor="The Penstock authors" \
	org.opencontainers.image.version="${VERSION}" \
	org.opencontainers.image.revision="${COMMIT}" \
	org.opencontainers.image.created="${CREATED}" \
	org.opencontainers.image.base.name="docker.io/library/debian:${SUITE}-slim"
# Started as root: the capabilities that the manifest leaves it are all that this root can do.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/sbin/penstockd"]
