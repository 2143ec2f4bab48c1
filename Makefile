# Two commands do all the set-up: `make demo` and `make test`. Both put an environment into $(VENV) and reuse it
# as long as what an installation is made of stays as it is.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TESTFLAGS ?= -n 2
BIN = $(VENV)/bin

.PHONY: demo test lint types clean

demo: $(VENV)/installed
	$(BIN)/irverify demo

test: lint types
	$(BIN)/python -m pytest $(TESTFLAGS)

lint: $(VENV)/installed-test
	$(BIN)/ruff check .

types: $(VENV)/installed-test
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/pip: # the last thing that venv makes: after a failure half-way it is made again
	$(PYTHON) -m venv $(VENV)

# what an installation is made of
SOURCES = pyproject.toml constraints.txt setup.py $(wildcard irverify/kernels/*.[ch])

$(VENV)/installed: $(SOURCES) | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(SOURCES) | $(BIN)/pip
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e ".[test]"
	touch $(VENV)/installed $@
