# `make demo` and `make test` need git, make and CPython >= 3.11; they install the rest into $(VENV).
#   PYTHON=/path/to/python   the interpreter to build $(VENV) from (default: the newest that works)
#   VENV=.venv-311           another environment
#   PYTEST_ARGS="-k sort"    more arguments for pytest;  WORKERS=4  its processes

VENV ?= .venv
GPU_PYTHON ?= python3
GPU_PATH ?= .
GPU_WORKERS ?=
PYTHON ?=
WORKERS ?= auto
PYTEST_ARGS ?=

export PYTHON
# What an active environment leaves behind must not reach ours.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

venv = sh ci/venv.sh "$(VENV)"

.NOTPARALLEL:
.PHONY: help demo test kernels gpu tune tune-beside bench compiling scaling memory gate baseline peers report lint format check nightly aot baseline-aot clean

help:
	@echo "make demo    train differentiable k-nearest neighbours on digits, write digits_knn.png"
	@echo "make test    run the test suite, without what is marked slow; SUITE=all make test runs that, too"
	@echo "make kernels run every test of the Pallas kernels, the slow ones too"
	@echo "make gpu     the kernels' parity suite and benchmark on this machine's GPU, by GPU_PYTHON=python3 as it is"
	@echo "make tune    tile sizes and thresholds of this machine's GPU or TPU, measured, by GPU_PYTHON as it is"
	@echo "make tune-beside  the same in seven processes at once, for a machine with many cores"
	@echo "make bench   what softness costs, as multiples of jnp.sort; BENCH_ARGS=--save keeps the results"
	@echo "make compiling  instructions of compiled programs, the time to compile them, and first eager calls"
	@echo "make scaling the powers of n and batch by which time grows, beside theory's; SCALING_ARGS=--save"
	@echo "make memory  temporary memory at two sizes, by the compiler; MEMORY_ARGS=--save"
	@echo "make gate    compiled programs against perf/baseline.json: memory, operations, fusions, loops"
	@echo "make baseline  write perf/baseline.json, to accept what has changed"
	@echo "make peers   other libraries against this package, each in its own environment; PEERS_ARGS=\"ott pot\" for some"
	@echo "make report  docs/performance.md and its plots from perf/results"
	@echo "make lint    formatting, lint, types and layer rules"
	@echo "make format  rewrite the sources in the project's format"
	@echo "make check   everything that must hold before a change lands, in 15 minutes on two idle cores"
	@echo "make nightly everything: slow tests, all kernels ahead of time, all of Python 3.11, other libraries"
	@echo "make aot     compile every kernel for H200, v5e, v5p and v6e, none of which is needed; against perf/baseline-aot.json;"
	@echo "             KNOWN=perf/fingerprints-aot.json leaves out most of what is as it was when that file was written"
	@echo "make baseline-aot  write perf/baseline-aot.json, to accept what make aot says has changed"
	@echo "make clean   remove what these commands made"

demo:
	@$(venv) examples
	@"$(VENV)/bin/python" examples/digits_knn.py

test:
	@$(venv) test
	@"$(VENV)/bin/python" -m pytest -n $(WORKERS) --maxprocesses 8 $(PYTEST_ARGS)

kernels:
	@$(venv) test
	@"$(VENV)/bin/python" -m pytest -n $(WORKERS) --maxprocesses 8 -m "slow or not slow" tests/pallas $(PYTEST_ARGS)

# Nothing is installed: GPU_PYTHON brings JAX, pytest, hypothesis and scipy; GPU_PATH what it has not, as .:more/packages.
# GPU_WORKERS=16 runs the suite in as many processes, with pytest-xdist.
gpu_python = XLA_PYTHON_CLIENT_PREALLOCATE=false PYTHONPATH="$(GPU_PATH)" "$(GPU_PYTHON)"
gpu_suite = -m pytest $(if $(GPU_WORKERS),-n $(GPU_WORKERS) -p no:benchmark) -m "slow or not slow" -k "not Interpreted"

gpu:
	@$(gpu_python) perf/gpu_check.py
	@status=0; \
	$(gpu_python) $(gpu_suite) tests/pallas/test_hardware.py $(PYTEST_ARGS) || status=1; \
	$(gpu_python) perf/bench.py --save $(BENCH_ARGS) || status=1; \
	$(gpu_python) perf/bench.py --set kernels --save $(GPU_ARGS) || status=1; \
	exit $$status

tune:
	@$(gpu_python) perf/tune.py $(TUNE_ARGS)

# The same, in processes that compile at once and take turns to measure.
tune-beside:
	@$(gpu_python) perf/gpu_check.py
	@PERF_LOCK=$$(mktemp); export PERF_LOCK; waiting=; status=0; \
	for what in rows columns transport \
	    "thresholds --methods ot" "thresholds --methods softsort" "thresholds --methods neuralsort"; do \
	    $(gpu_python) perf/tune.py $$what $(TUNE_ARGS) & waiting="$$waiting $$!"; \
	done; \
	for process in $$waiting; do wait $$process || status=1; done; \
	rm -f "$$PERF_LOCK"; exit $$status

bench:
	@$(venv) test
	@"$(VENV)/bin/python" perf/bench.py $(BENCH_ARGS)

compiling:
	@$(venv) test
	@JAX_PLATFORMS=cpu "$(VENV)/bin/python" perf/bench.py --set compiling $(COMPILING_ARGS)
	@JAX_PLATFORMS=cpu "$(VENV)/bin/python" perf/bench.py --set first-calls $(COMPILING_ARGS)

scaling:
	@$(venv) test
	@"$(VENV)/bin/python" perf/bench.py --set scaling $(SCALING_ARGS)

memory:
	@$(venv) test
	@"$(VENV)/bin/python" perf/bench.py --set memory $(MEMORY_ARGS)

gate:
	@$(venv) test
	@JAX_PLATFORMS=cpu "$(VENV)/bin/python" perf/gate.py $(GATE_ARGS)

baseline:
	@$(venv) test
	@JAX_PLATFORMS=cpu "$(VENV)/bin/python" perf/gate.py --update

peers:
	@$(venv) test
	@"$(VENV)/bin/python" perf/peers/compare.py --save $(PEERS_ARGS)

report:
	@$(venv) test
	@"$(VENV)/bin/python" perf/report.py

lint:
	@$(venv) dev
	@"$(VENV)/bin/python" -m ruff format --check .
	@"$(VENV)/bin/python" -m ruff check .
	@"$(VENV)/bin/python" -m pyright --pythonpath "$(VENV)/bin/python"
	@"$(VENV)/bin/python" ci/layers.py

format:
	@$(venv) dev
	@"$(VENV)/bin/python" -m ruff check --fix .
	@"$(VENV)/bin/python" -m ruff format .

check:
	@bash ci/check.sh

nightly:
	@bash ci/nightly.sh

aot:
	@sh ci/aot.sh $(if $(KNOWN),--known $(KNOWN)) $(TARGETS)

baseline-aot:
	@AOT_GATE=--update sh ci/aot.sh $(TARGETS)

clean:
	rm -rf .venv .venv-311 .venv-aot-cuda .venv-aot-tpu .venv-peers .pytest_cache .ruff_cache .hypothesis .benchmarks build dist digits_knn.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
