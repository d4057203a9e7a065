# `make` alone lists the targets. `make demo` and `make test` set everything up on a fresh machine.

DEMO_IMAGE      = microscopygpt/examples/demo.tif
DEMO_FORMULA    = MoSe2
DEMO_PIXEL_SIZE = 0.1
DEMO_OUT        = out/demo

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV   ?= .venv
EXTRAS ?= app,io,dev
WORKERS ?= 2

BIN   := $(VENV)/bin
READY := $(VENV)/.ready
IN_VENV = PATH="$(CURDIR)/$(BIN):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-sync test-lint test-nbs test-py test-docs gpu lab doctor package contents docs readme pictures screenshots clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## the environment: .venv with the tested versions

$(READY): constraints.txt settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer was not found: install it, or say where it is with PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV): some minutes, the first time only"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	$(BIN)/python -m pip check
	@touch $@

demo: $(READY) ## from a simulated micrograph to crystal structures
	$(BIN)/microscopygpt predict $(DEMO_IMAGE) --formula $(DEMO_FORMULA) --pixel-size $(DEMO_PIXEL_SIZE) --k 5 --out $(DEMO_OUT)
	@echo; echo "The results are in $(CURDIR)/$(DEMO_OUT):"
	@echo "  report.png       the micrograph, what the best candidate would look like, and the difference"
	@echo "  rank_1.cif ...   the candidates, best first"
	@echo "  prediction.json  scores, measured lattice, warnings"

test: $(READY) test-sync test-lint test-nbs test-py test-docs ## every check: library in step, notebooks run, tests pass

test-sync: $(READY) ## the library is what the notebooks export
	@$(IN_VENV) .ci/in_step

test-lint: $(READY) ## no unused name, no long line, no known trap in the library
	$(BIN)/ruff check microscopygpt

test-nbs: $(READY) ## every notebook runs
	$(IN_VENV) OMP_NUM_THREADS=1 nbdev_test --n_workers $(WORKERS) --timing

test-py: $(READY) ## the tests that would make poor pages
	$(IN_VENV) OMP_NUM_THREADS=1 pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --ignore tests/test_browser.py --ignore tests/test_browser_sites.py --ignore tests/test_site.py tests
	$(IN_VENV) OMP_NUM_THREADS=1 pytest -q tests/test_browser.py tests/test_browser_sites.py # alone: a browser, JupyterLab and a kernel are busy enough

test-docs: docs ## the site: every link, and pages in a browser
	$(IN_VENV) OMP_NUM_THREADS=1 pytest -q tests/test_site.py

gpu: $(READY) ## what only a GPU can tell, in nine minutes at most; small where there is none
	$(IN_VENV) python nbs/timings/gpu.py $(GPU_OPTIONS)

lab: $(READY) ## JupyterLab on the notebooks; the app is nbs/explorer.ipynb
	$(IN_VENV) microscopygpt lab nbs

doctor: $(READY) ## what is installed, and what to install for the rest
	@$(BIN)/microscopygpt doctor

package: $(READY) ## wheel and source distribution in dist, checked and tried; FRESH=python3.12 tries an environment of its own too
	$(BIN)/python .ci/package.py $(if $(FRESH),--fresh $(FRESH))

contents: $(READY) ## what an install brings, for the page of that name
	$(BIN)/python .ci/contents.py

docs: $(READY) ## the documentation site in _docs, every link and picture checked
	$(IN_VENV) OMP_NUM_THREADS=1 python .ci/docs.py site
	$(IN_VENV) OMP_NUM_THREADS=1 python .ci/docs.py check

readme: $(READY) ## README.md from nbs/index.ipynb
	$(IN_VENV) OMP_NUM_THREADS=1 python .ci/docs.py readme

pictures: $(READY) ## the picture of the front page, and the card for links to the site
	$(IN_VENV) OMP_NUM_THREADS=1 python .ci/pictures.py

screenshots: $(READY) ## the documentation's pictures of the app, taken in Chromium
	$(IN_VENV) OMP_NUM_THREADS=1 python .ci/screenshots.py

clean: ## remove everything that was made, the environment too
	rm -rf $(VENV) _docs _proc _pages out build dist *.egg-info nbs/nbdev.yml .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +
