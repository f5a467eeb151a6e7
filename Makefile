# Two commands are all a person needs: `make demo` and `make test`. Both install what they use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The stamp carries what was installed, so that a changed pin installs again.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; install one and run make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@# One that was killed in the middle has no pip that works.
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# The usual OpenCV wants a desktop's libraries, which bare servers and containers lack.
	@$(BIN)/python -c 'import cv2' 2> /dev/null || $(MAKE) --no-print-directory headless
	@touch $@

# The same OpenCV without windows, in place of the one that detectors' packages ask for.
headless:
	$(BIN)/pip uninstall --quiet --yes opencv-python
	$(BIN)/pip install --quiet --force-reinstall --no-deps \
	  "opencv-python-headless==$$(sed -n 's/^opencv-python==//p' constraints.txt)"

.PHONY: headless install demo test test-all lint lock clean \
  docs bench-decode bench-network bench-preprocessing bench-training gpu-check

install: $(VENV)/installed

demo: install
	$(BIN)/xnemo demo

test: install lint
	$(BIN)/pytest -m "not slow and not gpu"

test-all: install lint
	$(BIN)/pytest

# The documentation site, in site/; broken links fail the build.
docs: install
	$(BIN)/python scripts/build_docs.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-decode: install
	$(BIN)/python benchmarks/bench_decode.py

bench-network: install
	$(BIN)/python benchmarks/bench_network.py

bench-preprocessing: install
	$(BIN)/python benchmarks/bench_preprocessing.py

bench-training: install
	$(BIN)/python benchmarks/bench_training.py

# Tests marked gpu, training steps and animation at the published size, on the GPU of this machine.
gpu-check: install
	$(BIN)/python benchmarks/gpu_check.py

# A CPU build of torch calls itself 2.13.0+cpu; the pin must fit the CUDA build as well.
lock: install
	$(BIN)/pip install --quiet --editable '.[dev,cluster]'
	{ echo "# Every package of a tested installation, exactly. Regenerate with: make lock"; \
	  $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//; s/^opencv-python-headless==/opencv-python==/' | sort -f; } > constraints.txt

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
