# Every target does the set-up it needs; nothing is repeated when nothing changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TASK ?= classify
MINUTES ?= 9
ARGS ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup serve test test-nightly test-gpu check fmt bench bench-gpu sanitize train-demo evaluate-demo screenshots docs load loadtest gates soak prove-ray prove-image bench-http clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.dev  ## virtual environment with everything for development

serve: $(VENV)/.serve  ## serve the demo models on http://127.0.0.1:8000
	$(BIN)/smserve serve $(ARGS)

# What measures time runs alone, and waits for most of it. Meanwhile, and where it leaves a core idle, what only
# computes: at the lowest priority, so that it is never waited for.
TIMED := tests/loadtests tests/service
COMPUTING_SERVICE := $(patsubst %,tests/service/test_%.py,answers batch_run cli_predict compiled_service overlay ranking torch_backend)
COMPUTING := $(filter-out $(addsuffix /,$(TIMED) tests/data tests/__pycache__),$(wildcard tests/*/)) $(wildcard tests/test_*.py) $(COMPUTING_SERVICE)

test: check  ## everything that CI runs
	@log=$$(mktemp); trap 'kill $$computing 2>/dev/null; rm -f $$log' EXIT; \
	OMP_NUM_THREADS=1 nice -n 19 $(BIN)/python -m pytest -m "not nightly" -n auto --dist worksteal $(COMPUTING) $(ARGS) >$$log 2>&1 & computing=$$!; \
	$(BIN)/python -m pytest -m "not nightly" $(TIMED) $(addprefix --ignore=,$(COMPUTING_SERVICE)) $(ARGS); timed=$$?; \
	echo "the tests that only compute:"; wait $$computing; computed=$$?; cat $$log; exit $$((timed || computed))

test-nightly: $(VENV)/.dev  ## the longest tests, which `make test` leaves out
	$(BIN)/python -m pytest -m nightly tests $(ARGS)

check: $(VENV)/.dev  ## format, lint, strict types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev  ## CPU benchmarks; results go to benchmarks/results
	$(BIN)/python -m benchmarks.bench_cpu

test-gpu: $(VENV)/.dev  ## what needs a GPU: marked tests, every kernel against float64, reference cases
	$(BIN)/python -m pytest -m gpu $(ARGS)
	$(BIN)/python -m pytest tests/kernels/test_inference_kernels.py tests/kernels/test_label_map.py $(ARGS)
	$(BIN)/python -m benchmarks.kernel_matrix
	$(BIN)/python -m benchmarks.golden_gpu --out benchmarks/results/golden-gpu-float16.json

sanitize: $(VENV)/.dev  ## small kernel tests under NVIDIA's memory and race checkers (GPU, compute-sanitizer)
	$(BIN)/python -m benchmarks.sanitize --out benchmarks/results/sanitizer-h100.json

bench-gpu: $(VENV)/.dev  ## models, peers (pip install timm) and kernels on a GPU; results and docs/performance.md
	$(BIN)/python -m benchmarks.all_gpu $(ARGS)
	$(BIN)/python -m benchmarks.plot_performance --results benchmarks/results/gpu-h100.json benchmarks/results/rivals-h100.json

train-demo: $(VENV)/.demo  ## train one demo model: make train-demo TASK=detect (GPU)
	$(BIN)/python -m demo.train_$(TASK) --pack pack --out runs/$(TASK) --minutes $(MINUTES) $(ARGS)

evaluate-demo: $(VENV)/.demo  ## measure the shipped demo models on new scenes
	$(BIN)/python -m demo.evaluate --pack pack $(ARGS)

screenshots: $(VENV)/.dev  ## refresh the pictures of docs/images with a headless browser
	UPDATE_SCREENSHOTS=1 $(BIN)/python -m pytest -m browser tests/service

docs: $(VENV)/.dev  ## write the pages and tables that come from the code and from result files
	$(BIN)/python -m docs.reference
	$(BIN)/python -m deploy.grafana.generate
	$(BIN)/python -m benchmarks.scaling_table

load: $(VENV)/.dev  ## 200 concurrent mixed requests against a server of its own
	$(BIN)/python -m loadtests.mixed_load $(ARGS)

loadtest: $(VENV)/.dev  ## Locust with thresholds: make loadtest [URL=http://host:8000] ARGS="--rate 20 --run-time 60s"
	$(BIN)/python -m loadtests.run_locust $(if $(URL),--url $(URL)) $(ARGS)

prove-image: $(VENV)/.dev  ## build the image, run the compose file's CPU profile (Docker, promtool): ARGS=--no-registry
	$(BIN)/python -m deploy.prove_image $(ARGS)

GATES := drain crash overload abandon faults exactness
gates: $(VENV)/.dev  ## reliability gates against a service of its own, some minutes: make gates ARGS="--frontends 2"
	@failed=; for gate in $(GATES); do \
	    $(BIN)/python -m loadtests.gates.$$gate --out loadtests/results/gate-$$gate.json $(ARGS) \
	        || failed="$$failed $$gate"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

soak: $(VENV)/.dev  ## memory stays flat: make soak MINUTES=10 ARGS="--backend auto"
	$(BIN)/python -m loadtests.gates.soak --minutes $(MINUTES) --out loadtests/results/gate-soak.json $(ARGS)

prove-ray: $(VENV)/.dev  ## a Ray cluster on this machine: kill, updates, scaling, a hanging device; about 6 minutes
	$(BIN)/python -m loadtests.gates.on_ray --out loadtests/results/gate-ray.json
	$(BIN)/python -m loadtests.gates.on_ray_deploy --out loadtests/results/gate-ray-deploy.json

bench-http: $(VENV)/.dev  ## the service over HTTP beside peers (pip install '.[peers]'): make bench-http ARGS=--quick
	$(BIN)/python -m loadtests.bench_http --out loadtests/results/http.json $(ARGS)

clean:  ## remove the virtual environment and all caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; say which: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "The venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.serve: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,demo]'
	@touch $@ $(VENV)/.serve

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@ $(VENV)/.serve
