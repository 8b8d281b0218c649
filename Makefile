# What each target does is in CONTRIBUTING.md. `make demo` and `make test` need nothing installed but Python 3.11 to 3.13.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER := $(PYTHON) hack/cluster

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	@echo "== environment"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.PHONY: env
env: $(VENV)/.installed ## The Python environment in .venv

.PHONY: test
test: env ## Everything: lint, types, layers, unit, golden, chart, apiserver, faults, e2e
	@$(BIN)/python -m hack.test

.PHONY: check
check: env ## What takes seconds: lint, types, layers, unit, golden
	@$(BIN)/python -m hack.test --quick

.PHONY: demo
demo: env ## From nothing to a streamed answer on a cluster of this machine
	@$(BIN)/python -m hack.demo

.PHONY: demo-down
demo-down: ## Takes the cluster down and leaves nothing of it
	@$(CLUSTER) down

.PHONY: table
table: env ## What each framework and scheme gains for the demo's model, measured by the pipeline
	@$(BIN)/python -m hack.table

.PHONY: image-sizes
image-sizes: env ## The size of each image, and that none carries what it should not
	@$(BIN)/python -m hack.image_sizes

.PHONY: generate
generate: env ## What is generated: crds/, the chart's copies, the API reference
	@$(BIN)/python -m hack.generate

.PHONY: format
format: env ## Formats the code
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

# The pipelines' torch is taken without CUDA: see runtime-images/torch/cpu_torch.py.
WITHOUT_CUDA := $(addprefix --no-emit-package ,cuda-bindings cuda-pathfinder cuda-toolkit triton $(addprefix nvidia-, \
  cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 \
  nvjitlink nvshmem-cu13 nvtx))
# optimum-intel asks for torchvision, which does not load without CUDA, and does without it.
WITHOUT_VISION := $(addprefix --no-emit-package ,pillow torchvision)
PINNED := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
  --no-header --python-version 3.11
PIN := $(PINNED) pyproject.toml
# What a pipeline needs beside torch and what comes with that, which several of them have in common.
BESIDE_TORCH := --constraint requirements/torch.txt $(WITHOUT_CUDA) \
  $$(sed -n 's/^\([^ =]*\)==.*/--no-emit-package \1/p' requirements/torch.txt)
SERVING := $(PINNED) --constraint requirements/torch.txt

.PHONY: requirements
requirements: env ## Pins the dependencies anew
	@$(BIN)/python -m pip install --quiet uv
	@$(PIN) --output-file requirements/operator.txt
	@$(PIN) --group dev --constraint requirements/operator.txt --output-file requirements/dev.txt
	@$(PIN) --group torch --constraint requirements/operator.txt $(WITHOUT_CUDA) --output-file requirements/torch.txt
	@$(PIN) --extra llamacpp $(BESIDE_TORCH) --output-file requirements/llamacpp.txt
	@$(PINNED) --group llamacpp-cuda --output-file requirements/llamacpp-cuda.txt
	@$(PIN) --extra onnx $(BESIDE_TORCH) --output-file requirements/onnx.txt
	@$(SERVING) --group onnx-serve --constraint requirements/onnx.txt --output-file requirements/onnx-serve.txt
	@$(PIN) --extra openvino $(BESIDE_TORCH) $(WITHOUT_VISION) --output-file requirements/openvino.txt
	@$(SERVING) --group openvino-serve --constraint requirements/openvino.txt --output-file requirements/openvino-serve.txt
	@$(PIN) --extra qnn $(BESIDE_TORCH) --output-file requirements/qnn.txt
	@$(SERVING) --group qnn-serve --constraint requirements/qnn.txt --output-file requirements/qnn-serve.txt
	@$(PIN) --extra mlx --constraint requirements/operator.txt --universal --output-file requirements/mlx.txt
