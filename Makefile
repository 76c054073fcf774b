# Two commands: `make demo` runs the main job, `make test` the tests. Both set up what they need first.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CONFIG := configs/detection/detection_nano_shapes.py
WORK := work_dirs/detection_nano_shapes

.PHONY: help setup demo test test-slow lint clean

help:
	@echo "make demo       train nano on shapes, evaluate COCO AP, draw a picture (about 12 minutes after set-up)"
	@echo "make test       lint and the default tests (under 5 minutes after set-up)"
	@echo "make test-slow  the tests that train for a minute or more"
	@echo "make setup      only the virtual environment (about 10 minutes the first time)"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@echo "== set-up: virtual environment in $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "== set-up: torch and build tools"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch numpy setuptools wheel ninja packaging
	@echo "== set-up: mmcv's ops are compiled from source, 6 to 7 minutes on 2 cores; nothing is printed meanwhile"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation onedl-mmcv
	@echo "== set-up: everything else"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[train,lora,text,dev]'
	@touch $(READY)
	@echo "== set-up: done"

demo: $(READY)
	@echo "== 1/4 the nano LMM: random weights, own tokenizer"
	@test -d data/nano || $(BIN)/python tools/make_nano.py
	@echo "== 2/4 the data set: 6,300 images of shapes"
	$(BIN)/python tools/make_shapes.py
	@echo "== 3/4 training from nothing, about 10 minutes on one core, and COCO AP"
	$(BIN)/python tools/train.py $(CONFIG) --work-dir $(WORK) --resume
	$(BIN)/python tools/test.py $(CONFIG) $(WORK) --work-dir $(WORK)/test
	@echo "== 4/4 a picture: phrases in, boxes and heatmaps out"
	$(BIN)/lumen predict data/shapes/val/000002.jpg star triangle circle --model $(WORK) --out out/demo
	@echo "== look at out/demo"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

test: lint
	$(BIN)/python -m pytest

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
