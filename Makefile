# Every target sets up what it needs by itself, and says what it is doing.
PYTHON ?= python3
BIN    := .venv/bin
READY  := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: bench-packing help demo test check bench cluster controlplane proto lock dashboards docs clean

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fleetmedic needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another with make PYTHON=python3.11")'
	@echo "==> virtual environment in .venv (about a minute the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: $(READY)  ## the main job on this machine: page on http://localhost:8080
	@$(BIN)/python -m demo

test: $(READY) controlplane  ## all tests; the first run builds a Kubernetes control plane
	@echo "==> tests"
	@$(BIN)/python -m pytest $(ARGS)

check: $(READY)  ## ruff, mypy strict, import-linter, generated files fresh
	@echo "==> ruff";          $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@echo "==> mypy";          $(BIN)/mypy
	@echo "==> import-linter"; $(BIN)/lint-imports --no-cache
	@echo "==> generated files"
	@$(BIN)/python -m dashboards --check
	@$(BIN)/python -m docs.health_checks --check

bench: $(READY) controlplane  ## every figure, as a ratio against its floor
	@$(BIN)/python -m bench $(ARGS)

bench-packing: $(READY)  ## GPU packing on a production trace, beside the published policies; ARGS="--failing 1,3,5"
	@$(BIN)/python -m bench.packing $(ARGS)

cluster: $(READY) controlplane  ## a real control plane with three fake GPU nodes, for docs/how-to/first-incident.md
	@$(BIN)/python -m tests.controlplane up --workspace build/cluster $(ARGS)

# Without the binaries the cluster tests are skipped, each with the reason; so a failure here is only told.
controlplane: $(READY)
	@$(BIN)/python -m tests.controlplane build || true

proto: $(READY)  ## *_pb2.py from the .proto files
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. contract/report.proto
	@$(BIN)/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. agent/podresources.proto

dashboards: $(READY)  ## dashboards/*.json from Python
	@$(BIN)/python -m dashboards

docs: $(READY)  ## docs/health-checks.md and the tables of the runbooks, from the catalogue
	@$(BIN)/python -m docs.health_checks

lock:  ## requirements-dev.lock from pyproject.toml (needs uv)
	uv pip compile -q pyproject.toml --extra dev --generate-hashes --no-emit-index-url \
		--no-header --python-version 3.11 --universal -o requirements-dev.lock

clean:  ## what was built here; the caches in ~/.cache/fleetmedic stay
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache
