# Two commands on a fresh machine with Python 3.11: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# On by default on most processors, not on all; without it TensorFlow's CPU lacks NCHW convolutions.
export TF_ENABLE_ONEDNN_OPTS ?= 1

.PHONY: demo test test-fast test-rest lint types unit coverage test-backends test-torch test-jax test-lowest \
	test-browser test-peers test-older bench docs site study study-quick pictures fuzz release-check clean

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
	$(BIN)/lint-imports

types: $(VENV)/ready
	$(BIN)/mypy

unit: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal -m "not rest"

# What takes two thirds of the time: further variants of tests that take seconds each, and whole
# trainings.
test-rest: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal -m rest

# For daily work: every module, without what is marked `slow`, which variants after a test's first are.
test-fast: $(VENV)/ready
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

# How much of the rooms that decide (pyproject.toml lists them) their own tests reach.
coverage: $(VENV)/ready
	$(BIN)/coverage run -m pytest -k "not by_the_commands and not example_of_the_docs" $(DECISION_TESTS)
	$(BIN)/coverage report

DECISION_TESTS := tests/penalties tests/constraints tests/model_config tests/plan/test_plan.py \
	tests/plan/test_plan_edges.py tests/plan/test_constrained_slots.py tests/plan/test_scale_auto.py \
	tests/rules tests/report/test_measure.py tests/report/test_kernels_in_blocks.py \
	tests/report/test_report_data.py tests/report/test_operator_figures.py tests/plan/test_found.py \
	tests/report/test_operator_reports.py tests/report/test_not_looked_into.py tests/verbs/test_strip_all.py \
	$(addprefix tests/plan/test_needs.py::,test_what_a_module_gives test_what_leads_nowhere \
		test_code_is_seen_wherever_it_stands test_bytecode_alone_is_code_too)

# The penalties and their regularizers on Keras's other backends. JAX compiles anew for each shape,
# which takes longer than what is compiled runs: it does not optimise here, and the gradients are
# tested on the penalties alone.
test-backends: test-torch test-jax

test-torch: $(VENV)/backends
	KERAS_BACKEND=torch $(BIN)/pytest -n 2 --dist worksteal $(BACKEND_TESTS)
	$(BIN)/pytest tests/data/test_data.py -k DataLoader
	$(BIN)/pytest tests/training/test_without_tensorflow.py -k torch

test-jax: $(VENV)/backends
	XLA_FLAGS=--xla_backend_optimization_level=0 KERAS_BACKEND=jax $(BIN)/pytest -n 2 --dist worksteal $(BACKEND_TESTS) -k "not test_gradient_agrees"
	$(BIN)/pytest tests/training/test_devices.py
	$(BIN)/pytest tests/training/test_without_tensorflow.py -k jax

BACKEND_TESTS := tests/penalties tests/constraints tests/costs/test_in_a_row.py tests/costs/test_programs.py tests/regularizers/test_regularizers.py tests/loading/test_optimizers.py \
	$(addprefix tests/training/,test_factor_auto.py test_distillation.py test_schedules.py \
		test_monitor.py test_pull.py test_true_figures.py test_carried_over.py)

# The HTML page in a real browser: Chromium and its driver, as Debian packages them.
test-browser: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt selenium
	$(BIN)/pytest tests/report/test_html_in_browser.py

# What nobody here wrote: the layers of Keras's own layer tests, and small models of KerasHub, live
# and through both formats.
test-peers: $(VENV)/ready
	$(BIN)/python tests/peers/keras_layers.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	$(BIN)/python tests/peers/keras_hub_models.py

# Models of earlier releases of Keras 3, each installed beside the environment for as long as it
# writes them, read here: their outputs are what they were.
test-older: $(VENV)/ready
	$(BIN)/python tests/peers/older_keras.py

# The oldest versions of everything that pyproject.toml allows, in an environment of their own.
$(LOWEST)/ready: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt -e . $(LOWEST_TOOLS)
	touch $@

test-lowest: $(LOWEST)/ready
	$(LOWEST)/bin/pytest -n 2 --dist worksteal $(LOWEST_TESTS) -k "not ($(LOWEST_LACKS))"
	$(LOWEST)/bin/pytest tests/training/test_history.py tests/training/test_repeatable.py tests/training/test_finetune.py \
		-k "$(LOWEST_TRAINING)"

LOWEST_TOOLS := pytest pytest-xdist hypothesis
LOWEST_TESTS := tests/project/test_lowest.py tests/test_keras_inside.py tests/model_config \
	tests/report/test_measure.py tests/stores/test_stores.py tests/verbs/test_files.py tests/live/test_live.py \
	tests/loading
# Keras 3.8 cannot trace its own LossScaleOptimizer's update, nor does a copy of one have its variables.
LOWEST_LACKS := scaled and loss or with_its_loss_scale
LOWEST_TRAINING := make_up_the_loss or split or of_a_file or penalty_in_the_history

bench: $(VENV)/ready
	$(BIN)/python benchmarks/bench_penalties.py
	$(BIN)/python benchmarks/bench_steps.py resnet50 --batch 8 --policy float32
	$(BIN)/python benchmarks/bench_files.py
	$(BIN)/python benchmarks/bench_constraints.py

# The pages that are made from the code, the schema and the study's runs.
docs: $(VENV)/ready
	$(BIN)/python docs/regularizers.py
	$(BIN)/python docs/schema.py
	$(BIN)/python -m orthwrap_cli.reference words > docs/words.md
	$(BIN)/python -m orthwrap_cli.reference commands > docs/commands.md
	$(BIN)/python -m studies.page

$(VENV)/site: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[site]'
	touch $@

# The documentation in site/, of what is in docs/. A link that leads nowhere is an error, and so is
# what is said of docstrings, which `--strict` lets pass.
site: $(VENV)/site
	$(BIN)/zensical build --strict --clean 2>&1 | tee $(VENV)/site.log
	@! grep -qE "^griffe:|Aborted" $(VENV)/site.log

# aeon for the series that it ships alone: what it requires does not go with what is tested here.
$(VENV)/study: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[study]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps aeon
	touch $@

# Runs of which there is no JSON yet, for as long as it is let. All of them are about four CPU hours
# (docs/study.md), in one process; two that are given different experiments share them.
study: $(VENV)/study
	$(BIN)/python -m studies
	$(BIN)/python -m studies.page

# A run of two arms of each experiment, to see that they work: under 5 minutes on 2 cores.
study-quick: $(VENV)/study
	$(BIN)/python -m studies --quick

# The pictures of the README, of what the demo gives. Needs Chromium.
pictures: demo
	$(BIN)/python docs/pictures.py

# Broken and hostile files by the ten thousand, and runs that are killed: about an hour and a half.
fuzz: $(VENV)/ready
	ORTHWRAP_FUZZ=20 ORTHWRAP_KILLS=200 $(BIN)/pytest -n 2 tests/fuzz tests/walls/test_hostile.py \
		tests/walls/test_killed.py

# What would be released: the sdist, the wheel made from it, what is in them, and how the wheel does
# in a clean environment, outside the checkout.
release-check: $(VENV)/ready
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	$(PYTHON) -m venv "$$place/venv"; \
	"$$place/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt "$$(ls dist/*.whl)[demo]"; \
	ORTHWRAP_DIST=dist ORTHWRAP_INSTALLED="$$place/venv" $(BIN)/pytest tests/project/test_wheel.py; \
	cp examples/demo.py "$$place"; cd "$$place"; \
	env -u PYTHONPATH PATH="$$place/venv/bin:$$PATH" python demo.py

clean:
	rm -rf $(VENV) $(LOWEST) build dist demo .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
