# `make demo` and `make test` work on a fresh machine. Each command sets up what it needs, once; `make help` lists them.
PYTHON ?= python3
PY := .venv/bin/python
# Tests run in a process for each core, four at most.
PARALLEL := -n auto --maxprocesses 4 --dist loadgroup

.PHONY: help demo doctor test fuzz check pages notebooks site site-check figures student try mine grade pack dev-data verify bench versions gpu train clean

help:                       ## say what each command does
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: .venv/core            ## run the embedded models on real input, within a minute
	$(PY) -m tiny demo

doctor: .venv/core          ## check the installation, in seconds
	$(PY) -m tutorial.check_install

fuzz: .venv/core            ## damage files of every kind for ten minutes: make fuzz, or make fuzz N=1000000
	$(PY) -m tests.fuzz $(if $(N),--count $(N),--seconds 600)
	$(PY) -m tests.fuzz.guided

test: .venv/core            ## all tests that need neither torch nor the network
	$(PY) -m pytest $(PARALLEL)

check: .venv/dev            ## style, types, the rules of the house, the tests of the book but the slow ones
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pytest $(PARALLEL) -m "not verify and not slow" tests/house tests/book

pages: .venv/core           ## write the generated parts of all pages
	$(PY) -m tutorial.pages

notebooks: .venv/notebooks  ## build and run the notebooks
	$(PY) -m notebooks.build

site: .venv/site            ## the tutorial as a site in runs/site/html, which a browser opens without a network
	$(PY) -m tutorial.site

site-check: .venv/browser   ## look at every page of the site, and at the page of explore, in Chromium, if it is installed
	$(PY) -m pytest -m "not verify" tests/site tests/explore/test_browser.py

figures: .venv/core         ## draw the pictures of the README and the chapters
	$(PY) -m tutorial.draw_figures

student: .venv/core         ## write the exercises to student/; work that is there stays
	$(PY) -m tutorial.make_coursework

# A function that is not right yet is no failure of make: status 1 ends quietly.
try: .venv/core             ## try one exercise: make try EX=5.2; with one hint more: make try EX=5.2 HINTS=2
	@$(PY) -m tutorial.attempt "$(or $(EX),$(error Say which exercise: make try EX=5.2))" $(if $(HINTS),--hints $(HINTS)) || [ $$? = 1 ]

mine: .venv/core            ## run the embedded models with your own functions, and compare their numbers
	@$(PY) -m tutorial.mine || [ $$? = 1 ]

grade: .venv/core           ## grade a folder of submissions: make grade SUBMISSIONS=folder
	$(PY) -m tutorial.grader "$(or $(SUBMISSIONS),$(error Say which folder: make grade SUBMISSIONS=folder))"

pack: .venv/core            ## what a teacher hands out: the students' archive and Gradescope's, in runs/pack/
	$(PY) -m tutorial.pack $(PACK)

dev-data: .venv/dev         ## fetch the released tokenizers of Mixtral and Pixtral, for the tests that compare with them
	$(PY) tests/helpers/fetch_tokenizer.py

verify: .venv/verify/ready  ## tests against torch and transformers, in an environment of their own
	.venv/verify/bin/python -m pytest -m verify tests/verify

bench: .venv/core           ## prefill and decode speed on a synthetic 0.8 B Mixtral
	$(PY) -m tiny bench

versions: .venv/core        ## tests with the oldest and the newest packages that are allowed
	$(PY) -m tutorial.pages.versions_record

gpu:                        ## check and time the kernels on a GPU, within 8 minutes; needs CuPy, no .venv
	$(PYTHON) -m kernels.gpu

train: .venv/core           ## train tiny-mixtral from nothing; interrupt it and start it again as you like
	$(PY) -m tiny.training

clean:                      ## remove what the commands above made, but no training run
	rm -rf .venv runs/bench runs/demo runs/pack runs/site

.venv/core: requirements.txt
	@$(PYTHON) -c "import sys; sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.11 ...' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

.venv/evals: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[evals]"
	@touch $@

.venv/notebooks: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[notebooks]"
	@touch $@

.venv/serve: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[serve]"
	@touch $@

.venv/parallel: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[parallel]"
	@touch $@

.venv/site: .venv/core pyproject.toml
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[site]"
	@touch $@

.venv/browser: .venv/site
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[browser,serve]"
	@touch $@

# transformers wants a newer regex than the book's Tekken may have, so this is an environment of its own.
VERIFY := import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['verify'])
.venv/verify/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv/verify
	.venv/verify/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	.venv/verify/bin/python -m pip install --quiet --disable-pip-version-check $$($(PYTHON) -c "$(VERIFY)")
	@touch $@
