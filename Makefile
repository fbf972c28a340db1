# Every target does its own set-up: on a fresh machine `make demo` is the first command.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: help setup demo test test-slow test-extras test-fleet mutants mutants-changed check format bench labs course course-part docs lock clean

help:
	@echo "make demo       own environment, then train, prove and draw on the embedded base (CPU, minutes)"
	@echo "make test       the test suite        make test-slow  the slow tests (minutes, gigabytes)"
	@echo "make test-fleet   the picture server on a Ray cluster of two nodes, with Ray beside the environment"
	@echo "make test-extras  what needs bitsandbytes, torchao, scikit-learn or imageio, with them beside the environment"
	@echo "make mutants    does a test notice each of the named mistakes? (an hour; mutants-changed: minutes)"
	@echo "make check      lint and strict types make format     rewrite the code in the house format"
	@echo "make bench      speed, as ratios      make docs       regenerate the generated pages"
	@echo "make labs       run the solution of every lab, two at a time, and see every exercise fail its check (minutes)"
	@echo "make course     measure the figures of the course again, compare, and rewrite them (minutes)"
	@echo "make lock       pin the versions that are installed now"

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "detour needs Python 3.11 or newer; $$($(PYTHON) --version) was found. Try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned requirements into $(VENV) (a minute or two, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: setup
	@$(BIN)/detour demo

# One thread a process: two processes of two threads on two cores take several times as long.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal --durations 40 --durations-min 2

test-slow: setup
	$(BIN)/python -m pytest -m slow

# They stay out of the environment: where they are installed, the libraries import them in every process, which takes
# three to four seconds more and says so on the terminal.
EXTRAS := build/extras
$(EXTRAS)/.installed: requirements-extras.lock
	@rm -rf $(EXTRAS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(EXTRAS) -r requirements-extras.lock
	@touch $@

test-extras: setup $(EXTRAS)/.installed
	PYTHONPATH=$(EXTRAS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" \
	  -k "nf4 or int8 or adamw8bit or mp4 or test_classifier or test_intervals or test_safety" \
	  tests/training/test_memory_savers.py tests/training/test_library_optim.py tests/verbs/test_exact_resume.py \
	  tests/verbs/test_flow_methods.py tests/verbs/test_interpolate_pictures.py tests/safety/test_classifier.py tests/safety/test_intervals.py \
	  tests/cli/test_safety.py

# Ray stays out of the environment for the same cause.
FLEET := build/fleet
$(FLEET)/.installed: requirements-fleet.lock
	@rm -rf $(FLEET)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(FLEET) -r requirements-fleet.lock
	@touch $@

test-fleet: setup $(FLEET)/.installed
	PYTHONPATH=$(FLEET) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/serving/test_fleet_on_ray.py

mutants: setup
	$(BIN)/python tests/mutants/run.py

# First those of the entries, files and tests that changed since the branch left main (on main: since the commit before;
# of a merge, of all that it brought), then others in turn. Three minutes, and it says how many were left out. In CI the
# tests passed before this, so those that fail without a mutant are not looked for.
mutants-changed: setup
	$(BIN)/python tests/mutants/run.py --no-baseline --limit-s 175 --changed

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m benchmarks

labs: setup
	$(BIN)/python -m detour.labs.building

course: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.course --write

# What takes seconds, another part after each commit.
course-part: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.course --part

docs: setup
	$(BIN)/python -m detour.cli.reference docs/cli.md docs/doctor.md
	$(BIN)/python -m detour.cli.api_reference docs/api.md

lock: setup
	@{ sed -n '/^#/p' requirements.lock; \
	  $(BIN)/python -m pip freeze --all --exclude-editable --exclude pip | sed 's/^torch==\([0-9.]*\).*/torch==\1/'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache
