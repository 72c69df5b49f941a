# Three commands matter: `make run`, `make lab` and `make test`. Each does all its set-up first.

VENV := .venv
PYTHON := $(VENV)/bin/python
SOURCES := pyproject.toml setup.py $(wildcard proxy/*.pyx proxy/*.pxd)

.PHONY: run lab lab-down test lint unit cluster suites roles fleet chaos fuzz asan bench soak clean

run: $(VENV)/.run
	@$(PYTHON) -m lab $(if $(SERVERS),--servers $(SERVERS))

lab: $(VENV)/.lab
	@$(PYTHON) -m lab.fleet up

lab-down:
	@$(PYTHON) -m lab.fleet down

# The quick ones first; of the others, two at once.
test: $(VENV)/.test
	$(MAKE) --jobs=2 --output-sync=target lint unit
	$(MAKE) --jobs=2 --output-sync=target fleet cluster chaos roles

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH=$(VENV)/bin:$$PATH cython-lint proxy
	$(PYTHON) -m mypy
	$(VENV)/bin/yamllint --strict .
	PATH=$(VENV)/bin:$$PATH ansible-lint -q

unit: $(VENV)/.test
	$(PYTHON) -m pytest -x tests/unit tests/fuzz

cluster: $(VENV)/.test
	$(PYTHON) -m pytest -x tests/cluster

# Redis's and redis-py's own tests, through the proxy; they are fetched.
suites: $(VENV)/.test
	$(PYTHON) -m tests.suites.redis_py_tests
	$(PYTHON) -m tests.suites.redis_tests

roles: $(VENV)/.test
	$(PYTHON) -m pytest -x tests/roles

fleet: $(VENV)/.test
	$(PYTHON) -m pytest -x -rP tests/fleet

# Servers and proxies fail at random, and all that clients were told is checked.
chaos: $(VENV)/.test
	$(PYTHON) -m tests.chaos --minutes $(or $(MINUTES),3)

fuzz: $(VENV)/.test
	$(PYTHON) tests/fuzz/run.py --seconds $(or $(SECONDS),600)
	scripts/asan.sh run tests.fuzz.dataplane --seconds $(or $(SECONDS),600)

asan:
	scripts/asan.sh

bench: $(VENV)/.test
	$(PYTHON) -m bench

soak: $(VENV)/.test
	$(PYTHON) -m bench.soak

clean:
	rm -rf $(VENV) build *.egg-info proxy/*.c proxy/*.so tests/fuzz/build tests/clients/node_modules

$(VENV)/.run: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh run $(VENV)
	@touch $@

$(VENV)/.lab: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh lab $(VENV)
	@touch $@ $(VENV)/.run

$(VENV)/.test: $(SOURCES) scripts/setup.sh tests/clients/package.json
	@scripts/setup.sh test $(VENV)
	@touch $@ $(VENV)/.run $(VENV)/.lab
