# Two commands: `make book` and `make test`. Both set up what they need in .venv first.
# PYTHON=python3 (any interpreter that already has the packages: Colab, a container) skips the venv.

VENV := .venv
export PYTHONHASHSEED := 0

ifdef PYTHON
  RUN := $(PYTHON)
  READY := supported
  export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
  RUN := $(VENV)/bin/python
  READY := $(VENV)/.ready
endif

.PHONY: help supported experiments book pdf check test lint refresh serve bench coverage mutants lock set-repository \
  release release-check clean
help:
	@echo "make book      build the book to _build/html"
	@echo "make pdf       print the whole book as _build/normtut.pdf (needs Chromium)"
	@echo "make check     lint, types, the quick tests and the chapters that changed: in three minutes"
	@echo "make test      run every test, and every chapter against its stored outputs"
	@echo "make refresh   re-execute the chapters in place (ONLY='book/02_inverse.ipynb' for some)"
	@echo "make serve     serve the built book on localhost"
	@echo "make experiments   run what is missing in the results that chapters 6, 8, 10, 13 and 14 draw"
	@echo "make bench     measure everything beside its peers, in a quarter of an hour (ONLY='pixels layers' for some)"
	@echo "make coverage   which branches of the package no test takes (ARGS='tests/test_core.py' for some tests)"
	@echo "make mutants   break the library on purpose, and see what its tests do not notice (an hour; ARGS='--known')"
	@echo "make lock      resolve requirements.txt anew from pyproject.toml"
	@echo "make set-repository URL=https://github.com/you/normtut"
	@echo "make release VERSION=1.2.0   set the version, pin the chapters to it, say what comes next"
	@echo "make release-check   build the archives, check them, and run every chapter alone"

$(VENV)/.ready: requirements.txt pyproject.toml
	@sh book/_tools/make_venv.sh $(VENV)
	@touch $@

supported:
	@$(PYTHON) book/_tools/missing.py

book: $(READY)
	@$(RUN) book/_tools/build.py

pdf: book
	@$(RUN) book/_tools/pdf.py

# Tests, the examples in docstrings, and chapters against their stored outputs, in JOBS processes of one thread
# each. A file stays in one process; the chapters, which take longest, are begun first. Whatever takes more than
# ten seconds is listed, and should be marked as slow.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 PYTHONPATH=book/_tools:$(if $(PYTHON),$(PYTHONPATH),$(CURDIR)) $(RUN) -m pytest -p nbnumbers --nbval --nbval-current-env \
  -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 0 --durations-min 10

# For every change: all but what is slow or needs a browser, and the chapters that differ from the main branch.
check: $(READY) lint
	@$(PYTEST) -m "not slow and not browser" \
	  $$(git diff --name-only --diff-filter=d $$(git merge-base HEAD main || echo HEAD) -- 'book/*.ipynb') \
	  $$(git ls-files --others --exclude-standard -- 'book/*.ipynb') tests normtut $(ARGS)

# One run of everything.
test: $(READY) lint book
	@$(PYTEST) $(wildcard book/*.ipynb) tests normtut $(ARGS)

lint: $(READY)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

refresh: $(READY)
	@$(RUN) book/_tools/refresh.py $(ONLY)

serve: book
	@$(RUN) -m http.server --bind 127.0.0.1 --directory _build/html 8000

experiments: $(READY)
	@$(RUN) -m normtut.book.placement
	@$(RUN) -m normtut.book.critics
	@$(RUN) -m normtut.book.denoising
	@$(RUN) -m normtut.experiments $(ARGS)

# The peers beside which things are measured are installed only here.
bench: $(READY)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[bench]'
	@$(RUN) -m benchmarks $(ONLY)

# Every process of the tests is measured, those that they start as well. What the chapters run does not count.
coverage: $(READY)
	@$(RUN) -m pip install --quiet --disable-pip-version-check 'coverage>=7.10'
	@$(RUN) -m coverage erase
	@OMP_NUM_THREADS=1 $(RUN) -m coverage run -m pytest -m "not browser" -n $(JOBS) --dist loadfile $(ARGS)
	@$(RUN) -m coverage combine --quiet
	@$(RUN) -m coverage report

# All extras but the peers of the benchmarks.
EXTRAS = $(filter-out bench,$(shell sed -n '/^\[project.optional/,/^\[project.scripts/s/^\([a-z]*\) = .*/\1/p' pyproject.toml))
mutants: $(READY)
	@$(RUN) -m pip install --quiet --disable-pip-version-check cosmic-ray coverage
	@OMP_NUM_THREADS=1 $(RUN) tests/mutants.py $(ARGS)

lock: $(READY)
	@$(RUN) -m pip install --quiet uv
	@$(RUN) -m uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.10 \
	  --no-annotate --no-emit-index-url --custom-compile-command 'make lock' -o requirements.txt

set-repository: $(READY)
	@$(RUN) book/_tools/set_repository.py $(URL)

release: $(READY)
	@$(RUN) book/_tools/release.py $(VERSION)

# What a release must pass beyond `make test`: the archives as a package index wants them, and every chapter, alone
# in an empty folder, with normtut installed by the chapter's own cell.
release-check: $(READY)
	@rm -rf build dist
	@$(RUN) -m pip install --quiet build twine
	@$(RUN) -m build --quiet
	@$(RUN) -m twine check --strict dist/*
	@EVERY_CHAPTER=1 OMP_NUM_THREADS=1 $(RUN) -m pytest tests/test_alone.py -n $(JOBS) $(ARGS)

clean:
	rm -rf _build $(VENV)
