# make demo    the API with a made-up fleet, from nothing
# make test    install into .venv and run every check
# make bench   measure the service against its floor
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find mig twisted typings -name '*.py' -o -name '*.sql' -o -name '*.pyi')

.PHONY: demo test lint unit soak bench clean

demo: $(VENV)/installed
	exec $(BIN)/mig-api demo $(DEMO)

test: lint unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The whole suite runs on every core, the tests of a module on one; chosen tests run in one process.
PYTEST := $(BIN)/python -P -m pytest $(if $(TESTS),$(TESTS),--numprocesses auto --maxprocesses 8 --dist loadscope)

unit: $(VENV)/installed $(VENV)/proxies
	$(PYTEST)

# The property tests with many more examples.
soak: $(VENV)/installed $(VENV)/proxies
	REPETITIONS=50 $(PYTEST)

# The daemon runs as an operator installs it, without what the tests need.
bench: $(VENV)/installed $(VENV)/daemon/installed
	$(BIN)/python -m benchmarks --twistd $(VENV)/daemon/bin/twistd $(BENCH)

$(VENV)/daemon/installed: $(VENV)/installed
	$(PYTHON) -m venv $(VENV)/daemon
	rm -rf build
	$(VENV)/daemon/bin/pip install -q --upgrade .
	touch $@

$(VENV)/installed: setup.cfg setup.py pyproject.toml $(SOURCES) | $(VENV)/system
	rm -rf build
	$(BIN)/pip install -q '.[demo,test]'
	touch $@

$(VENV)/proxies: | $(VENV)/system
	sh etc/system-tools.sh $(PYTHON) proxies
	touch $@

$(VENV)/system:
	sh etc/system-tools.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
