# Two commands do everything on a fresh machine: `make demo` and `make test`. Each sets up what it needs, once.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test lint dev-data verify bench train clean

demo: .venv/core            ## run the embedded models on real input, within a minute
	$(PY) -m tiny demo

test: .venv/core            ## all tests that need neither torch nor the network
	$(PY) -m pytest

lint: .venv/dev             ## style and types
	$(PY) -m ruff check .
	$(PY) -m mypy

dev-data: .venv/dev         ## fetch Mixtral's own tokenizer.model, for the tests that compare with it
	$(PY) tests/fetch_tokenizer.py

verify: .venv/verify        ## tests against torch and transformers
	$(PY) -m pytest -m verify tests/verify

bench: .venv/core           ## prefill and decode speed on a synthetic 0.8 B Mixtral
	$(PY) -m tiny bench

train: .venv/core           ## train tiny-mixtral from nothing; interrupt it and start it again as you like
	$(PY) -m tiny.training

clean:                      ## remove what the commands above made
	rm -rf .venv runs

.venv/core: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

.venv/verify: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[verify]"
	@touch $@
