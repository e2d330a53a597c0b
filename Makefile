# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test lint types unit test-backends bench docs fuzz clean

# The environment is made anew when its ingredients change.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	touch $@

$(VENV)/backends: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[backends]'
	touch $@

demo: $(VENV)/ready
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python examples/demo.py

test: lint types unit

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/ready
	$(BIN)/mypy

unit: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal

# The penalties and their regularizers on Keras's other backends. JAX compiles anew for each shape,
# so there the gradients are tested on the penalties alone.
test-backends: $(VENV)/backends
	KERAS_BACKEND=torch $(BIN)/pytest -n 2 --dist worksteal $(BACKEND_TESTS)
	KERAS_BACKEND=jax $(BIN)/pytest -n 2 --dist worksteal $(BACKEND_TESTS) -k "not test_gradient_agrees"
	$(BIN)/pytest tests/test_devices.py
	$(BIN)/pytest tests/test_data.py -k DataLoader

BACKEND_TESTS := tests/penalties tests/test_regularizers.py \
	tests/test_factor_auto.py tests/test_distillation.py tests/test_schedules.py \
	tests/test_optimizers.py tests/test_monitor.py

bench: $(VENV)/ready
	$(BIN)/python benchmarks/bench_penalties.py
	$(BIN)/python benchmarks/bench_files.py

# What the docs say of the penalties, from their descriptors.
docs: $(VENV)/ready
	$(BIN)/python docs/regularizers.py

# Broken and hostile files by the ten thousand, and runs that are killed: about an hour and a half.
fuzz: $(VENV)/ready
	ORTHWRAP_FUZZ=20 ORTHWRAP_KILLS=200 $(BIN)/pytest -n 2 tests/fuzz tests/test_hostile.py \
		tests/test_killed.py

clean:
	rm -rf $(VENV) build dist demo .mypy_cache .pytest_cache .ruff_cache .hypothesis
