# One command a task. Every target sets up its own environment first, once.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SILENT:

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
ARGS ?=
JOBS ?= auto
NOTEBOOKS ?= $(sort $(wildcard notebooks/[0-9][0-9]_*.py))
export TF_CPP_MIN_LOG_LEVEL ?= 3

# Tests of the method itself. They need no TensorFlow and must pass under each backend.
UNIT_TESTS := $(patsubst %,tests/test_%.py,\
  schedules noise rules spatial lorita as_coded layers embeddings surgery contract pins callbacks clock accounting training distill)
PIP = -m pip install -qq --disable-pip-version-check
UV_COMPILE = $(VENV)/bin/uv pip compile pyproject.toml --quiet --universal \
  --python-version 3.10 --no-header --no-annotate $(ARGS)
RUN := $(VENV)/bin/python
PARALLEL = -q -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: help setup reproduce figures report lab notebooks exercises test test-jax test-torch \
  test-notebooks test-browser site lint format bench lock clean

help: ## list the targets
	echo "usage: make TARGET [ARGS=\"...\"] [PYTHON=python3.11] [VENV=.venv]"
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.ready ## install everything into .venv (the other targets do this by themselves)

reproduce: $(VENV)/.ready ## the slides' toy table, published beside measured; ARGS="--dataset digits"
	$(RUN) -m clora_lab reproduce toy $(ARGS)

figures: $(VENV)/.ready ## draw the slides' figures from the recorded rows
	$(RUN) -m clora_lab figures $(ARGS)

report: $(VENV)/.ready ## print the comparison tables of the recorded rows
	$(RUN) -m clora_lab report $(ARGS)

lab: $(VENV)/.ready ## open JupyterLab at the start page of the course
	mkdir -p $(VENV)/share/jupyter/lab/settings
	echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}}}' \
	  > $(VENV)/share/jupyter/lab/settings/overrides.json
	$(RUN) -m jupyterlab --notebook-dir=notebooks --LabApp.default_url=/lab/tree/README.md $(ARGS)

notebooks: $(VENV)/.ready ## run every notebooks/NN_*.py and write its .ipynb; NOTEBOOKS=FILE for one
	$(RUN) notebooks/build.py run $(NOTEBOOKS)

exercises: $(VENV)/.ready ## hand-outs with and without solutions, into out/exercises
	$(RUN) notebooks/build.py exercises

test: $(VENV)/.ready ## the tests, under TensorFlow, on all cores; ARGS="-k decay" for some
	$(RUN) -m pytest $(PARALLEL) tests \
	  --ignore-glob='tests/test_notebooks*.py' --ignore=tests/test_browser.py --ignore=tests/test_site.py $(ARGS)

test-jax: $(VENV)-jax/.ready ## the method's unit tests under JAX, without TensorFlow
	KERAS_BACKEND=jax $(VENV)-jax/bin/python -m pytest $(PARALLEL) $(UNIT_TESTS) $(ARGS)

test-torch: $(VENV)-torch/.ready ## the method's unit tests under PyTorch, without TensorFlow
	KERAS_BACKEND=torch $(VENV)-torch/bin/python -m pytest $(PARALLEL) $(UNIT_TESTS) $(ARGS)

test-notebooks: $(VENV)/.ready ## run the notebooks as tests, in quick mode
	$(RUN) -m pytest -q $(or $(wildcard tests/test_notebooks*.py),tests/test_notebooks.py) $(ARGS)

test-browser: $(VENV)/.ready site ## drive widgets and site in headless Chromium (needs chromium, chromium-driver)
	$(RUN) -m pytest -q tests/test_browser.py tests/test_site.py $(ARGS)

site: $(VENV)-site/.ready ## build the documentation from README and notebooks into out/site/_build/html
	$(VENV)-site/bin/python docs/site.py out/site

lint: $(VENV)/.ready ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check . || { echo "formatting differs: make format" >&2; exit 1; }

format: $(VENV)/.ready ## apply the formatting and the safe fixes
	$(RUN) -m ruff check --quiet --fix-only .
	$(RUN) -m ruff format .

bench: $(VENV)/.ready ## run benchmarks/*.py: speed, as ratios measured side by side
	for script in $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py))); do \
	  echo "$$script"; \
	  $(RUN) "$$script" $(ARGS); \
	done

# An override that never applies is uv's way to leave a package and all that only it needs out.
lock: | $(VENV)/bin/python ## renew the locks after a change of pyproject.toml; ARGS=--upgrade
	[ -x $(VENV)/bin/uv ] || $(RUN) $(PIP) 'uv>=0.5,<1'
	$(UV_COMPILE) --extra notebooks --extra test --extra bench --extra text -o requirements.lock
	echo "tensorflow; python_version < '3'" > $(VENV)/without-tensorflow.txt
	$(UV_COMPILE) --extra jax -c requirements.lock --overrides $(VENV)/without-tensorflow.txt \
	  -o requirements-jax.lock
	$(VENV)/bin/uv pip compile docs/requirements.in --quiet --universal --python-version 3.10 --no-header \
	  --no-annotate $(ARGS) -o docs/requirements.lock

clean: ## remove what was built and drawn (keeps the environments, recorded rows and caches)
	rm -rf build dist out ./*.egg-info .pytest_cache .ruff_cache
	find $(wildcard clora_lab tests notebooks benchmarks) \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# Environments. The stamp .ready is written last, so an interrupted set-up is simply done again.
$(VENV)/.ready: requirements.lock pyproject.toml | $(VENV)/bin/python
	echo "setting up $(VENV) (a few minutes, once)"
	$(RUN) $(PIP) -r requirements.lock
	$(RUN) $(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)-jax/.ready: BACKEND = -r requirements-jax.lock
$(VENV)-torch/.ready: BACKEND = -r <(grep -v '^jax' requirements-jax.lock) '$(TORCH)'
$(VENV)-jax/.ready $(VENV)-torch/.ready: $(VENV)-%/.ready: \
  requirements-jax.lock requirements.lock pyproject.toml | $(VENV)-%/bin/python
	echo "setting up $(@D), without TensorFlow (a few minutes, once)"
	$(@D)/bin/python $(PIP) -c requirements.lock $(BACKEND) pytest pytest-timeout pytest-xdist setuptools
	$(@D)/bin/python $(PIP) --no-deps --no-build-isolation -e .
	$(@D)/bin/python -c 'import importlib.util as u, sys; sys.exit(bool(u.find_spec("tensorflow")) and \
	  "TensorFlow is installed in $(@D): remove that folder and run this again")'
	touch $@

$(VENV)-site/.ready: docs/requirements.lock | $(VENV)-site/bin/python
	echo "setting up $(@D) (a minute, once)"
	$(@D)/bin/python $(PIP) -r docs/requirements.lock
	touch $@

$(VENV)/bin/python $(VENV)-jax/bin/python $(VENV)-torch/bin/python $(VENV)-site/bin/python: %/bin/python:
	command -v '$(PYTHON)' > /dev/null || \
	  { echo "'$(PYTHON)' was not found; name a Python: make PYTHON=python3.11" >&2; exit 1; }
	'$(PYTHON)' -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "Python 3.10, 3.11 or 3.12 is needed, and '$(PYTHON)' is" \
	    "$$('$(PYTHON)' --version 2>&1); name another: make PYTHON=python3.11" >&2; exit 1; }
	'$(PYTHON)' -m venv '$*' || \
	  { echo "'$(PYTHON)' can't create $* (Debian: apt-get install python3-venv)" >&2; exit 1; }
