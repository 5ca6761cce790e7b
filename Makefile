# make setup   a virtual environment in .venv with pinned packages; nothing is compiled
# make demo    the whole road on a tiny model: evaluate, distil, reinforce, evaluate again   (ARGS="--seed 1")
# make test    every test that needs no GPU                                                  (ARGS="-k packing")
# make lint    style and imports
# make clean   deletes what the commands above made, and nothing else
#
# PYTHON=/path/to/python3.12   the interpreter to build .venv with; otherwise the first 3.12 or 3.11 that is found
# TORCH=/path/to/torch.whl     another build of torch 2.13.0, such as a CPU-only wheel instead of the CUDA one
# VENV=/path                   another place for the environment
# JOBS=4                       test files side by side; 0 runs the tests in one process

VENV   ?= .venv
TORCH  ?= torch==2.13.0
PYTHON ?=
JOBS   ?= 2
ARGS   ?=

BIN  := $(VENV)/bin
MADE := $(VENV)/made-by-open-r1
DONE := $(VENV)/open-r1-installed
PIP  := $(BIN)/python -m pip install --disable-pip-version-check --no-input

.PHONY: setup demo test lint clean
.DELETE_ON_ERROR:

setup: $(DONE)

demo: setup
	$(BIN)/open-r1 run recipes/demo/pipeline.yaml $(ARGS)

test: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "not gpu" -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=15 $(ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf runs/demo .pytest_cache .ruff_cache .hypothesis build src/open_r1.egg-info
	find src tests recipes scripts benchmarks -type d -name __pycache__ -prune -exec rm -rf {} +
	if [ -e "$(MADE)" ]; then rm -rf "$(VENV)"; fi

# torch first and by itself: whatever comes later finds it there and cannot bring another one
$(DONE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) "$(TORCH)"
	$(PIP) -c constraints.txt -e ".[dev]"
	touch $@

$(BIN)/python:
	@reason="no Python 3.11 or 3.12 was found: install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=/path/to/python3.12"; \
	for python in $(or $(PYTHON),python3.12 python3.11 python3); do \
	  "$$python" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null || continue; \
	  if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv "$(VENV)" && touch "$(MADE)" && exit 0; \
	    exit 1; \
	  fi; \
	  reason="$$python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"; \
	done; \
	echo "$$reason" >&2; exit 1
