# SPDX-License-Identifier: Apache-2.0
# Penstock. `make help` says what there is.

B ?= build
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
SUB := --no-print-directory $(if $(filter 1,$(V)),,-s)
say = $(if $(filter 1,$(V)),@:,@printf '  %-6s %s\n')

# Not in root's PATH after a plain `su`: sysctl, bpftool, tc, nft.
export PATH := $(PATH):/usr/sbin:/sbin
CC := gcc
CLANG ?= clang
BPFTOOL ?= $(shell command -v bpftool || echo /usr/sbin/bpftool)
PYTHON ?= /usr/bin/python3
PREFIX ?= /usr/local
DESTDIR ?=
VERSION := 0.1.0
# Also in a checkout that belongs to somebody else: who runs make there trusts it.
GIT := git -c safe.directory='$(CURDIR)'
COMMIT := $(shell $(GIT) rev-parse --short HEAD 2>/dev/null || echo unknown)

WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wno-unused-parameter
WARN += $(if $(CI)$(WERROR),-Werror)
, := ,
SANITIZE := $(if $(filter 1,$(SAN)),-fsanitize=address$(,)undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(CFLAGS) $(SANITIZE) $(WARN) -I. -I$(B) -MMD -MP \
	-DPENSTOCK_VERSION='"$(VERSION)"' -DPENSTOCK_COMMIT='"$(COMMIT)"'
LDFLAGS += $(SANITIZE)

# ---- rooms ----

room = $(patsubst %.c,$(B)/%.o,$(wildcard $(1)/*.c))
BASE := $(call room,agent/base)
PURE := $(BASE) $(call room,agent/model) $(call room,agent/compile)
STATE := $(call room,agent/state)
# What unit tests can link: no file here may need libbpf.
OBSERVE := $(call room,agent/observe)
SERVER := $(call room,api/server) $(B)/api/openapi.o $(B)/api/ui.o
INTAKE := $(call room,agent/intake)
AGENT := $(call room,agent) $(INTAKE) $(call room,agent/datapath) $(OBSERVE) $(STATE) $(PURE) $(SERVER)
CONFIG := $(B)/agent/config.o $(B)/agent/config_tcp.o $(B)/agent/config_value.o
CLIENT := $(call room,api/client)
CLI := $(call room,api/cli) $(CLIENT) $(BASE)
RELAY := $(call room,agent/relay) $(BASE)

AGENT_LIBS := -lbpf -lelf -lz -lmicrohttpd -lgnutls -ljansson -lyaml -lsqlite3 -lmnl -lnftables -lpthread
CLI_LIBS := -lcurl -ljansson -lyaml -lz -lpthread
TEST_LIBS := -lcmocka -ljansson -lyaml -lsqlite3 -lcurl -lz -lpthread

PROGRAMS := $(B)/penstockd $(B)/penstock $(B)/penstock-relay
UNIT := $(patsubst tests/unit/test_%.c,$(B)/unit/%,$(wildcard tests/unit/test_*.c))
TOOLS := $(patsubst tests/tools/%.c,$(B)/tools/%,$(wildcard tests/tools/*.c))

# Kept between runs, so that a second `make test` links nothing.
.SECONDARY:
.PHONY: all demo test test-image test-kube image chart-readme lint fmt bench man install uninstall clean help tools unit unit-programs \
	golden-update metrics-reference compile_commands.json force
.DELETE_ON_ERROR:
all: $(PROGRAMS) ## build everything into build/ (B=DIR elsewhere, SAN=1 with sanitizers, V=1 loud)

# The packages come first where a tool or header is missing; an existing set-up costs a few milliseconds.
$(B)/.setup-%: deploy/setup.sh
	@mkdir -p $(B)
	@deploy/setup.sh $*
	@touch $@

# What objects depend on that is no file: rewritten only when it changes.
$(B)/.flags: says = $(CC) $(CFLAGS) $(SANITIZE)
$(B)/.commit: says = $(VERSION) $(COMMIT)
$(B)/.flags $(B)/.commit: force
	@mkdir -p $(@D)
	@echo '$(says)' | cmp -s - $@ || echo '$(says)' > $@
$(patsubst %.c,$(B)/%.o,$(shell grep -lr PENSTOCK_COMMIT --include='*.c' agent api)): $(B)/.commit

$(B)/penstockd: $(AGENT)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(AGENT_LIBS)
$(B)/penstock: $(CLI)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(CLI_LIBS)
$(B)/penstock-relay: $(RELAY)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lpthread -lz

$(B)/%.o: %.c $(B)/.flags | $(B)/.setup-build
	@mkdir -p $(@D)
	$(say) CC $<
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# ---- BPF: compiled by clang against kernel UAPI headers and CO-RE, embedded by a skeleton ----

BPF_TARGET := $(shell uname -m | sed 's/x86_64/x86/; s/aarch64/arm64/')
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Wno-unused-parameter -Werror -D__TARGET_ARCH_$(BPF_TARGET) \
	-I. -I/usr/include/$(shell uname -m)-linux-gnu
$(B)/bpf/%.bpf.o: bpf/%.bpf.c | $(B)/.setup-build
	@mkdir -p $(@D)
	$(say) BPF $<
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/tests/bench/%.bpf.o: tests/bench/%.bpf.c | $(B)/.setup-build
	@mkdir -p $(@D)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -c -o $@ $<
$(B)/bpf/%.skel.h: $(B)/bpf/%.bpf.o
	$(Q)$(BPFTOOL) gen skeleton $< name $*_bpf > $@
$(call room,agent/datapath): | $(B)/bpf/penstock.skel.h $(B)/bpf/trial.skel.h
$(B)/agent/datapath/load.o: $(B)/bpf/penstock.skel.h
$(B)/agent/datapath/trial.o: $(B)/bpf/trial.skel.h

# The API description is embedded as JSON.
$(B)/api/openapi.c: api/openapi.yaml api/openapi_embed.py $(wildcard api/examples/*.json) | $(B)/.setup-build
	@mkdir -p $(@D)
	$(Q)$(PYTHON) api/openapi_embed.py $< > $@
$(B)/api/openapi.o: $(B)/api/openapi.c $(B)/.flags
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# The page's files are embedded as they are.
UI := $(wildcard api/ui/*)
$(B)/api/ui.c: $(UI) api/ui_embed.py | $(B)/.setup-build
	@mkdir -p $(@D)
	$(Q)$(PYTHON) api/ui_embed.py $(UI) > $@
$(B)/api/ui.o: $(B)/api/ui.c $(B)/.flags
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<

# ---- tests ----

# A unit test links the pure rooms, the state, the configuration, the client and what is pure of the listeners; never
# libbpf.
$(B)/unit/discover: $(B)/agent/datapath/discover.o
$(B)/unit/intake: $(INTAKE)
$(B)/unit/relay_sniff: $(B)/agent/relay/sniff.o
# The relay's flows are not the agent's.
$(B)/unit/relay_flow: $(B)/tests/unit/test_relay_flow.o $(B)/agent/relay/flow.o $(B)/agent/relay/address.o $(BASE)
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TEST_LIBS)
$(B)/unit/%: $(B)/tests/unit/test_%.o $(PURE) $(STATE) $(OBSERVE) $(CONFIG) $(CLIENT) $(B)/agent/datapath/conditions.o
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TEST_LIBS)
$(B)/tools/%: $(B)/tests/tools/%.o $(PURE)
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(TEST_LIBS)
$(B)/tools/metrics_reference: $(STATE) $(OBSERVE) $(B)/agent/datapath/conditions.o
# The HTTP server alone, without a data path.
$(B)/tools/server: $(SERVER) $(STATE) $(INTAKE)
$(B)/tools/server: TEST_LIBS += -lmicrohttpd -lgnutls
# The datapath room with a compiler of its own.
$(B)/tools/datapath: $(B)/tests/datapath/driver.o $(call room,agent/datapath) $(BASE) $(B)/agent/compile/tables.o \
	$(B)/agent/model/chosen.o
	@mkdir -p $(@D)
	$(say) LINK $@
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf -lelf -lz -lmnl -lnftables -lpthread
TOOLS += $(B)/tools/datapath
tools: $(TOOLS)
unit-programs: $(UNIT)
unit: $(UNIT) ## build and run the unit tests
	@for t in $(UNIT); do $$t || exit 1; done

test: ## everything; T=name for one test, DEBUG=1 for a shell in its namespace
	@$(MAKE) $(SUB) $(B)/.setup-test
	@tests/run '$(T)'

image: ## the container image, with docker, buildah or podman; IMAGE=NAME:TAG
	@deploy/image.sh '$(VERSION)' '$(COMMIT)'

test-image: ## builds the image from Debian's archive alone, and runs it; needs buildah and mmdebstrap, some minutes
	@tests/image/run.sh '$(VERSION)' '$(COMMIT)'

test-kube: ## image, manifests and chart in a real Kubernetes of two nodes, built once (ten minutes); T=name for one test
	@tests/kube/run.sh '$(VERSION)' '$(COMMIT)' '$(T)'

chart-readme: ## renew the table of values in helm/penstock/README.md
	@tests/chart/values.py --write

metrics-reference: $(B)/tools/metrics_reference ## renew api/metrics.md
	@$< > api/metrics.md

golden-update: ## renew the expected output of tests/golden
	@$(MAKE) $(SUB) $(B)/.setup-test
	@GOLDEN_UPDATE=1 tests/run golden

demo: ## the main job, on real packets, in namespaces; GATEWAY=haproxy for another gateway; cleans up behind itself
	@$(MAKE) $(SUB) $(B)/.setup-demo$(if $(filter haproxy,$(GATEWAY)),-haproxy)
	@$(MAKE) $(SUB) all
	@deploy/demo/demo.sh

bench: ## figures beside the incumbents', as a table, build/bench.json and build/bench-*.svg
	@$(MAKE) $(SUB) $(B)/.setup-bench
	@$(MAKE) $(SUB) all $(B)/tests/bench/generator.bpf.o $(B)/tools/tcp_load $(B)/tools/udp_sink
	@PENSTOCK_BUILD=$(B) $(PYTHON) tests/bench/run.py

lint: ## formatting, includes, headers, licences, static analysis
	@$(MAKE) $(SUB) $(B)/.setup-test
	@tests/lint/run

fmt: ## format the C sources
	@$(MAKE) $(SUB) $(B)/.setup-test
	@$(GIT) ls-files -z -co --exclude-standard -- '*.c' '*.h' | xargs -0 clang-format -i

# Manual pages, from --help and from the reference of the configuration.
MAN := $(B)/man/penstock.1 $(B)/man/penstock-relay.1 $(B)/man/penstockd.8 $(B)/man/penstock.yaml.5
$(B)/man/penstock.1: $(B)/penstock
	@mkdir -p $(@D)
	$(Q)$< __man > $@
$(B)/man/penstock-relay.1: $(B)/penstock-relay deploy/man/man.py
	@mkdir -p $(@D)
	$(Q)$< --help | $(PYTHON) deploy/man/man.py penstock-relay $(VERSION) > $@
$(B)/man/penstockd.8: $(B)/penstockd deploy/man/man.py
	@mkdir -p $(@D)
	$(Q)$< --help | $(PYTHON) deploy/man/man.py penstockd $(VERSION) > $@
$(B)/man/penstock.yaml.5: api/configuration.md deploy/man/man.py
	@mkdir -p $(@D)
	$(Q)$(PYTHON) deploy/man/man.py penstock.yaml $(VERSION) < $< > $@
man: $(MAN)
SHARE = $(DESTDIR)$(PREFIX)/share
COMPLETIONS := bash-completion/completions/penstock zsh/site-functions/_penstock fish/vendor_completions.d/penstock.fish

# systemd looks below no other prefix.
UNIT_FILE = $(DESTDIR)$(if $(filter /usr /usr/local,$(PREFIX)),$(PREFIX)/lib,/etc)/systemd/system/penstockd.service

install: all man ## the three programs, manual pages, shell completion and the systemd unit, below DESTDIR and PREFIX (/usr/local)
	install -D -m 755 $(B)/penstockd $(DESTDIR)$(PREFIX)/sbin/penstockd
	install -D -m 755 $(B)/penstock $(DESTDIR)$(PREFIX)/bin/penstock
	install -D -m 755 $(B)/penstock-relay $(DESTDIR)$(PREFIX)/sbin/penstock-relay
	install -D -m 644 deploy/systemd/penstockd.service $(UNIT_FILE)
	sed -i 's|/usr/local/sbin|$(PREFIX)/sbin|' $(UNIT_FILE)
	for page in $(MAN); do install -D -m 644 $$page $(SHARE)/man/man$${page##*.}/$${page##*/} || exit 1; done
	for file in $(COMPLETIONS); do mkdir -p $(SHARE)/$${file%/*} && shell=$${file%%[-/]*} && \
		$(B)/penstock completion $$shell > $(SHARE)/$$file || exit 1; done
uninstall: ## removes what install put there; the data path of a running node goes with `penstockd --uninstall`
	rm -f $(DESTDIR)$(PREFIX)/sbin/penstockd $(DESTDIR)$(PREFIX)/bin/penstock $(DESTDIR)$(PREFIX)/sbin/penstock-relay $(UNIT_FILE)
	for page in $(MAN); do rm -f $(SHARE)/man/man$${page##*.}/$${page##*/}; done
	for file in $(COMPLETIONS); do rm -f $(SHARE)/$$file; done

compile_commands.json: $(B)/bpf/penstock.skel.h ## for clangd
	@$(PYTHON) tests/lint/compile_commands.py '$(CC) $(ALL_CFLAGS)' > $@

clean: ## remove what was built
	rm -rf $(B) build-* compile_commands.json

help: ## this list
	@grep -hE '^[a-z_.-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

-include $(shell find $(B) -name '*.d' 2>/dev/null)
