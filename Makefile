# Two commands matter: `make run` and `make test`. Each does all its set-up first.

VENV := .venv
PYTHON := $(VENV)/bin/python
SOURCES := pyproject.toml setup.py $(wildcard proxy/*.pyx proxy/*.pxd)

.PHONY: run test lint unit cluster fuzz asan bench clean

run: $(VENV)/.run
	@$(PYTHON) -m lab $(if $(SERVERS),--servers $(SERVERS))

test: lint
	$(PYTHON) -m pytest -x tests/unit tests/fuzz tests/cluster

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PATH=$(VENV)/bin:$$PATH cython-lint proxy
	$(PYTHON) -m mypy

unit: $(VENV)/.test
	$(PYTHON) -m pytest -x tests/unit

cluster: $(VENV)/.test
	$(PYTHON) -m pytest -x tests/cluster

fuzz: $(VENV)/.test
	$(PYTHON) tests/fuzz/run.py --seconds $(or $(SECONDS),600)

asan:
	scripts/asan.sh

bench: $(VENV)/.test
	$(PYTHON) -m bench

clean:
	rm -rf $(VENV) build *.egg-info proxy/*.c proxy/*.so tests/fuzz/build tests/clients/node_modules

$(VENV)/.run: $(SOURCES) scripts/setup.sh
	@scripts/setup.sh run $(VENV)
	@touch $@

$(VENV)/.test: $(SOURCES) scripts/setup.sh tests/clients/package.json
	@scripts/setup.sh test $(VENV)
	@touch $@ $(VENV)/.run
