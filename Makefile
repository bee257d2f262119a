# Any system Node 20.19+ (or 22.12+) with npm will do; Node 26 and every tool come from the lockfile.
export PATH := $(CURDIR)/node_modules/.bin:$(PATH)
ready := node_modules/.ready
version = const [a, b] = process.versions.node.split(".").map(Number);

.PHONY: setup check test build gen
setup: $(ready)
$(ready): package.json package-lock.json .npmrc
	@node -e '$(version) if (a < 20 || (a === 20 && b < 19) || a === 21 || (a === 22 && b < 12)) { console.error("Cannot install: Node " + process.version + " found, 20.19+ or 22.12+ needed"); process.exit(1) }'
	npm ci --loglevel=error
	@node -e '$(version) if (a < 26) { console.error("Cannot go on: the node package brought no Node 26; run: npm install-scripts ls"); process.exit(1) }'
	@touch $@
check: setup
	npm run --silent check
test: check
	npm run --silent test
build: setup
	npm run --silent build
gen: setup
	npm run --silent gen
