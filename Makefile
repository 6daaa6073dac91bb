# clsync: make run, make test. Everything else: make help.
.SUFFIXES:
MAKEFLAGS += --no-print-directory

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -q
SEEDS = 1..20
JOBS = 2
MODES = rsyncdirect copy
MONITORS = fanotify inotify
# By the environment: paths and names may hold anything.
export W =
export D =
export ARGS =
export SCENARIO =
HOURS = 1
BENCH_ARGS =
ORACLE_ARGS =
# Tests wait more than they work.
PYTEST_ARGS = -n 4 --dist=loadgroup
FUZZ_TIME = 300
FUZZ_ARGS =

TEST_PACKAGES = openssh-server attr acl iproute2 xfsprogs btrfs-progs fuse3 bindfs man-db zsh clsync libclsync-dev
# For modes so and rsyncso; all else works without.
NATIVE_PACKAGES = gcc libc6-dev pkg-config
NATIVE = src/clsync/handler/plugin/host.c $(wildcard include/clsync/*.h) hatch_build.py
CHECKED = src tests benchmarks hatch_build.py
# What an ordinary installation has to follow; an editable one follows by itself.
SOURCES = `find src include pyproject.toml -type f ! -name '*.pyc' -newer $(VENV)/.stamp-installed 2>/dev/null | head -n 1`

help:
	@echo "make run [W=/source D=/destination] [ARGS='...']  mirror a tree live; without W and D a small sample"
	@echo "make test [PYTEST_ARGS='...']                     all tests and checks"
	@echo "make check                                        only the checks: ruff, mypy, import-linter"
	@echo "make proofs                                       properties of the core, with fifty times the examples"
	@echo "make fuzz [FUZZ_TIME=300] [FUZZ_ARGS='TARGET...'] fuzz all that parses, for so many seconds"
	@echo "make bench [BENCH_ARGS='...']                     measure clsync beside clsync 0.4 and lsyncd"
	@echo "make soak [SEEDS=1..200] [JOBS=2]                 seeded churn, all modes and monitors"
	@echo "make faults [SEEDS=1..3] [SCENARIO='disk full']   faults at random instants; a table of what was lost"
	@echo "make soak-faults [HOURS=1]                        one program for hours with faults; its memory"
	@echo "make oracle                                       record anew what clsync 0.4 gives its handlers"
	@echo "make docs                                         make manual page, option list, completions"
	@echo "make clean                                        remove what was made here"
	@echo
	@echo "run and test install what is missing: packages by apt-get (as root or by sudo), the rest in $(VENV)."

run: installed
	@tools/demo $(BIN)/clsync "$$W" "$$D"

test: check
	@PYTHON=$(PYTHON) tools/need --optional $(TEST_PACKAGES)
	@$(BIN)/python -m compileall -q src tests  # as an installation does: a start takes half the time
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.stamp-bench
	@PYTHON=$(PYTHON) tools/need --optional clsync lsyncd
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

soak: $(VENV)/.stamp-dev
	@failed=; for mode in $(MODES); do for monitor in $(MONITORS); do \
	    $(BIN)/python -m tests.support.churn_run --seeds $(SEEDS) --jobs $(JOBS) --mode $$mode --monitor $$monitor \
	        || failed="$$failed $$mode/$$monitor"; \
	done; done; \
	if [ "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

faults: SEEDS = 1..3
faults: $(VENV)/.stamp-dev
	@PYTHON=$(PYTHON) tools/need --optional $(TEST_PACKAGES) $(NATIVE_PACKAGES)
	$(BIN)/python -m tests.faults --seeds $(SEEDS) --scenario "$$SCENARIO"

soak-faults: $(VENV)/.stamp-dev
	@PYTHON=$(PYTHON) tools/need --optional $(TEST_PACKAGES) $(NATIVE_PACKAGES)
	$(BIN)/python -m tests.faults.soak --hours $(HOURS)

proofs: $(VENV)/.stamp-dev
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest tests/properties --timeout=0 $(PYTEST_ARGS)

fuzz: $(VENV)/.stamp-dev
	@$(PIP) install -e '.[dev,fuzz]' 2>/dev/null || echo "going on without atheris: by mutation alone"
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_TIME) $(FUZZ_ARGS)

oracle: $(VENV)/.stamp-dev
	@PYTHON=$(PYTHON) tools/need clsync libclsync-dev $(NATIVE_PACKAGES)
	$(BIN)/python -m tests.oracle.record $(ORACLE_ARGS)

docs: $(VENV)/.stamp-dev
	$(BIN)/python -m clsync.options.render --write

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# -- set-up, once --------------------------------------------------------------------------------------------------

installed: $(VENV)/.stamp-venv
	@if [ -e $(VENV)/.stamp-dev ]; then exit 0; fi; \
	if [ ! -e $(VENV)/.stamp-installed ] || [ "$(SOURCES)" ]; then \
	    echo "installing clsync in $(VENV)"; \
	    $(PIP) install --force-reinstall . && touch $(VENV)/.stamp-installed; \
	fi

$(VENV)/.stamp-venv:
	@PYTHON=$(PYTHON) tools/need python3-venv rsync \
	    || { PYTHON=$(PYTHON) tools/need python3-venv && echo "going on without rsync: only mode copy will work"; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "error: $(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-venv pyproject.toml $(NATIVE)
	@PYTHON=$(PYTHON) tools/need --optional $(NATIVE_PACKAGES)
	@echo "installing clsync and what its tests need in $(VENV)"
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/.stamp-bench: $(VENV)/.stamp-dev
	@$(PIP) install -e '.[dev,bench]'
	@touch $@

.PHONY: help run test check bench soak faults soak-faults proofs fuzz oracle docs clean installed
