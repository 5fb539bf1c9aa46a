# make demo    install, and serve a made-up fleet from an embedded PostgreSQL
# make test    install into .venv, and run every check
# make bench   measure the service against the floor that PostgreSQL sets
# make reference writes the tables of docs/reference.md and docs/migctl.md that are made from the program
# make capacity  measure what docs/capacity.md plans with
# make attacks measure what other clients notice of expensive requests
# make retention measure what schedulers and readers notice of mig-api prune
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each Python has its own: the demo works at once with any that fits, also after one that does not.
DEMO_VENV = $(VENV)/demo-$(notdir $(PYTHON))
DEMO_EXTRAS := demo,client
SOURCES := $(shell find mig twisted typings -name '*.py' -o -name '*.sql' -o -name '*.pyi')

.PHONY: demo demo-check demo-time test lint unit soak properties reference bench capacity attacks retention clean

demo: demo-check $(DEMO_VENV)/installed
	@exec $(DEMO_VENV)/bin/mig-api demo $(DEMO)

# Before anything is installed: Python, what only the system can install, and the port.
demo-check:
	@sh etc/system-tools.sh $(PYTHON)
	@$(PYTHON) -m mig.demo.check $(DEMO)

# The time from a fresh clone to the first answer of the demo.
demo-time:
	@$(PYTHON) -m benchmarks.first_answer

$(DEMO_VENV)/installed: setup.cfg setup.py pyproject.toml $(SOURCES) | demo-check
	@echo "installing mig-api[$(DEMO_EXTRAS)] with pip into $(DEMO_VENV): a minute or two the first time"
	@rm -rf build
	@test -x $(DEMO_VENV)/bin/pip || $(PYTHON) -m venv --clear $(DEMO_VENV)
	@$(DEMO_VENV)/bin/pip install -q --disable-pip-version-check '.[$(DEMO_EXTRAS)]'
	@touch $@

test: lint unit

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The whole suite uses every core, with all tests of a module on one. It starts with what waits for
# other programs for most of its time, and ends with short modules. TESTS=... uses one process.
# -P and pytest's import mode (pyproject.toml) keep the sources out of the way: the tests run the
# installed package.
PYTEST := $(BIN)/python -P -m pytest $(if $(TESTS),$(TESTS),--numprocesses auto --maxprocesses 8 --dist loadscope \
	--no-loadscope-reorder tests/test_installation.py tests/web tests)

unit: $(VENV)/installed $(VENV)/test-tools $(VENV)/wheels $(BIN)/schemathesis
	$(PYTEST)

# What is done to the service in docs/operations.md, often, and then each expensive request.
FAULTS := $(addprefix tests/, \
	access/test_two_services.py access/test_killed_changes.py actions/test_killed_daemons.py \
	actions/test_two_services.py \
	sockets/test_many_readers.py sockets/test_flood.py sockets/test_fairness.py \
	sockets/test_cuts.py service/test_clock_steps.py api/test_schemathesis.py)

soak: $(VENV)/installed $(VENV)/test-tools $(BIN)/schemathesis
	REPETITIONS=50 $(BIN)/python -P -m pytest $(or $(TESTS),$(FAULTS))
	$(if $(TESTS),,$(MAKE) attacks retention)

# Run the property tests with 50 times as many examples.
properties: $(VENV)/installed $(VENV)/test-tools $(VENV)/wheels $(BIN)/schemathesis
	REPETITIONS=50 $(PYTEST)

reference: $(VENV)/installed
	$(BIN)/python -m tests.support.reference
	$(BIN)/python -m tests.support.migctl_page

# The measured daemon is installed as by an operator, without the packages of the tests.
bench: $(VENV)/installed $(VENV)/daemon/installed
	$(BIN)/python -m benchmarks --twistd $(VENV)/daemon/bin/twistd $(BENCH)

# The figures of docs/capacity.md.
capacity: $(VENV)/installed $(VENV)/test-tools $(VENV)/daemon/installed
	$(BIN)/python -m benchmarks.capacity --twistd $(VENV)/daemon/bin/twistd $(CAPACITY)

attacks: $(VENV)/installed $(VENV)/daemon/installed
	$(BIN)/python -m benchmarks.attacks --twistd $(VENV)/daemon/bin/twistd $(ATTACKS)

retention: $(VENV)/installed $(VENV)/daemon/installed
	$(BIN)/python -m benchmarks.retention --twistd $(VENV)/daemon/bin/twistd $(RETENTION)

# Both installations delete build/: setuptools would install modules that exist only there.
$(VENV)/daemon/installed: $(VENV)/installed
	$(PYTHON) -m venv --without-pip $(VENV)/daemon
	rm -rf build
	$(BIN)/pip --python $(VENV)/daemon install -q --upgrade .
	touch $@

$(VENV)/installed: setup.cfg setup.py pyproject.toml $(SOURCES) | $(VENV)/system
	rm -rf build
	$(BIN)/pip install -q '.[client,demo,test]'
	touch $@

$(VENV)/test-tools: | $(VENV)/system
	sh etc/system-tools.sh $(PYTHON) tests
	touch $@

# It needs other versions of some packages than our tests do, and takes a while to install: all clones
# share one environment.
SCHEMATHESIS := schemathesis==4.32.5
SCHEMATHESIS_VENV := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/mig-api/$(subst ==,-,$(SCHEMATHESIS))

$(BIN)/schemathesis: | $(VENV)/system
	$(SCHEMATHESIS_VENV)/bin/schemathesis --version >/dev/null 2>&1 || { \
	    $(PYTHON) -m venv --clear $(SCHEMATHESIS_VENV) && \
	    $(SCHEMATHESIS_VENV)/bin/pip install -q $(SCHEMATHESIS); }
	ln -sf $(SCHEMATHESIS_VENV)/bin/schemathesis $@

# What docs/installation.md installs, for a machine without the network.
$(VENV)/wheels: setup.cfg pyproject.toml | $(VENV)/system
	rm -rf build $@ $@.new
	$(BIN)/pip wheel -q --wheel-dir $@.new . 'setuptools>=77'
	rm $@.new/mig_api-*
	mv $@.new $@

$(VENV)/system:
	sh etc/system-tools.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
