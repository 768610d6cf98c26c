# Everything is done by these targets, in CI too. All they need is make and Python; `make` alone lists them.
#
# PYTHON=python3.12 make ...   picks the Python; a .venv of another one is made anew
# VENV=.venv-312 make ...      keeps an environment of its own beside the usual one

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What is installed is pinned and hashed, and comes as wheels only, so that nothing unpinned is run to build it.
# The package itself comes last, without its dependencies, built by the hatchling that is among the pinned.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install
PINNED := $(PIP) --only-binary :all: --require-hashes --requirement
EDITABLE := $(PIP) --no-deps --no-build-isolation --editable .
ALL := $(VENV)/.installed-all
DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo check lint types style pure test rest mutants bench chaos crds reference format lock clean

help:
	@echo "Watchbill. Targets:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(ALL)  ## Run the log-triage crew on a real log: no cluster, no Redis, no API key
	$(BIN)/watchbill run examples/log-triage/crew.yaml "What broke, and what should we look at first?" \
		--input log=@examples/log-triage/app.log

# Each with its output in one piece where make can keep that together (since 4.0).
TWO_AT_A_TIME := --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync)

check: $(DEV)  ## What must hold before every commit: format, lint, types, layers, rendered files, pure tests
	@$(MAKE) $(TWO_AT_A_TIME) types style pure

lint: $(DEV)  ## check without tests: format, lint, types, layers, rendered files
	@$(MAKE) $(TWO_AT_A_TIME) types style

types: $(DEV)
	$(BIN)/mypy

CRDS := crds charts/watchbill/files/crds

style: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/ruff check --quiet --preview --select PLW1514 operator  # files are UTF-8, whatever the locale
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m watchbill.crd --check $(CRDS)
	$(BIN)/python charts/render.py --check
	$(BIN)/python docs/reference/render.py --check

# Each process that runs tests imports all of them: each test file is compiled once, whatever the environment says.
PYTEST := env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest

pure: $(DEV)  ## Only the tests without server, process and network: seconds
	$(PYTEST) -q -m pure

test: check  ## check, then the rest: all tests that run on any machine with Python
	@$(MAKE) --no-print-directory rest

# Most of a test's time is waiting, for a lease to end or a process to start: three at a time keep a core busy. A file's
# tests stay together. The order is that of tests/long.py: xdist's own, by the number of tests, would leave the longest
# file for the end. Pure tests wait for nothing, and each process would have to import them.
JOBS ?= 6
rest: $(DEV)  ## The tests that check leaves out: those with a server, processes or the network
	$(PYTEST) -m "not pure" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

bench: $(DEV)  ## Measure the queue beside others and the floor (docs/bench.md); seconds with ARGS=--short
	$(BIN)/python -m bench $(ARGS)

chaos: $(DEV)  ## 10,000 tasks while workers, store and network fail (docs/bench.md); half a minute with ARGS=--short
	$(BIN)/python -m bench.chaos $(ARGS)

mutants: $(DEV)  ## Break the code in small ways and see that tests fail: half an hour; SAMPLE=100 runs fewer
	$(BIN)/python tests/mutants/generated.py $(if $(SAMPLE),--sample $(SAMPLE))
	$(BIN)/python tests/mutants/edits.py

crds: $(DEV)  ## Write crds/*.yaml, the values schema of charts/crew, boards and alerts from the code
	$(BIN)/python -m watchbill.crd $(CRDS)
	$(BIN)/python charts/render.py

reference: $(DEV)  ## Write docs/reference/*.md from settings, models, commands and metrics
	$(BIN)/python docs/reference/render.py

format: $(DEV)  ## Format the code and mend what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

include e2e/cluster/targets.mk

# The files hold for Python 3.11 to 3.13 on Linux and macOS. Pins stay as they are where pyproject.toml allows.
LOCK_VENV := $(VENV)-lock
COMPILE := $(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(ARGS)
lock:  ## Pin anew after a change of dependencies; newer versions too: make lock ARGS=--upgrade
	$(PYTHON) -m venv --clear $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip --disable-pip-version-check --quiet install uv
	$(COMPILE) pyproject.toml --extra dev --output-file constraints/dev.txt
	echo hatchling | $(COMPILE) pyproject.toml - --extra all --constraints constraints/dev.txt --output-file constraints/all.txt
	echo aiosmtplib | $(COMPILE) pyproject.toml - --extra otel --constraints constraints/dev.txt \
		--output-file constraints/worker.txt
	echo aiosmtplib | $(COMPILE) pyproject.toml - --extra otel --extra llm --extra mcp --constraints constraints/dev.txt \
		--output-file constraints/worker-llm.txt
	$(COMPILE) pyproject.toml --extra cli --extra operator --extra otel --constraints constraints/dev.txt \
		--output-file constraints/operator.txt
	echo hatchling | $(COMPILE) - --constraints constraints/dev.txt --output-file constraints/build.txt
	rm -rf $(LOCK_VENV)

clean:  ## Remove the virtual environment, builds and caches; the runs in .watchbill/ stay
	rm -rf $(VENV) $(LOCK_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find operator tests e2e bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

# A Python that was asked for by name must be the one of the environment.
ifneq ($(origin PYTHON),file)
WHICH := -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null
ifneq ($(shell $(PYTHON) $(WHICH)),$(shell $(BIN)/python $(WHICH)))
.PHONY: $(BIN)/pip
endif
endif

# Not bin/python, which is there before the environment is whole, and as old as the Python it links to.
$(BIN)/pip:
	@command -v "$(PYTHON)" >/dev/null || { echo "There is no '$(PYTHON)' here. Install Python 3.11, 3.12 or 3.13, or name one: PYTHON=python3.12 make ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info[:3]; (3, 11) <= v < (3, 14) or sys.exit( \
		"Watchbill needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is %d.%d.%d. Install one of these, or name it: PYTHON=python3.12 make ..." % v)'
	@"$(PYTHON)" -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear $(VENV)

$(ALL): pyproject.toml constraints/all.txt $(BIN)/pip
	@echo "Installing what watchbill needs into $(VENV) (once, about a minute)"
	@$(PINNED) constraints/all.txt
	@$(EDITABLE)
	@touch $@

$(DEV): pyproject.toml constraints/dev.txt $(BIN)/pip
	@echo "Installing watchbill and its development tools into $(VENV) (once, about a minute)"
	@$(PINNED) constraints/dev.txt
	@$(EDITABLE)
	@touch $@
