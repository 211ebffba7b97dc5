# The two commands of the README are `make book` and `make test`; both set everything up first.
PYTHON  ?= python3
PROFILE ?= quick
BIN     := .venv/bin
# SOURCE=pala SET='seed=7 track.max_gap=1' make book, notebooks, figures and PDF with other data and settings.
CHANGE  = $(if $(SOURCE),--source '$(SOURCE)') $(if $(SET),--set '$(SET)')
# One BLAS thread per process: the work is parallel over blocks already.
export OMP_NUM_THREADS ?= 1
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup lab lab-page book notebooks figures pack unpack site pdf linkcheck sync test test-slow check types bench fetch weights \
	finetune lock clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: .venv/.ready ## make .venv and install the package with everything it needs

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, this is %d.%d: make setup PYTHON=python3.12" % v[:2])'
	@echo "Setting up .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,book,cluster,dev]'
	@touch $@

lab: setup ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

lab-page: setup ## the lab, ULM live in a web page, in one file to hand out: build/lab.html
	@$(BIN)/python book/tools/build_lab.py build/lab.html

book: setup ## execute the notebooks (PROFILE=smoke|quick|paper SOURCE=pala SET='seed=7') and build the book: build/out/_build/html/index.html
	@$(BIN)/python book/tools/build_book.py $(PROFILE) $(CHANGE)

notebooks: setup ## execute the notebooks only
	@$(BIN)/python book/tools/run_notebooks.py $(PROFILE) $(CHANGE)

figures: notebooks ## all figures (PNG, the paper's as PDF too) and tables (CSV, LaTeX): build/figures/PROFILE
	@$(BIN)/python book/tools/collect_figures.py $(PROFILE) $(CHANGE)

pack: setup ## executed notebooks and what they wrote: build/runs-PROFILE.zip
	@$(BIN)/python book/tools/publish.py pack $(PROFILE)

unpack: setup ## put such archives, build/runs/*.zip, where `make book` and `make site` find them
	@$(BIN)/python book/tools/publish.py unpack $(wildcard build/runs/*.zip)

site: setup ## the book to publish, from the profile paper where that was run for this content, else from quick; zipped
	@$(BIN)/python book/tools/publish.py site

pdf: setup ## the book as PDF, with LaTeX: build/ulmpaper-book.pdf
	@$(BIN)/python book/tools/build_book.py $(PROFILE) $(CHANGE) --pdf

linkcheck: setup ## ask every link that leaves the book (network)
	@$(BIN)/python book/tools/build_book.py $(PROFILE) $(CHANGE) --check-links

sync: setup ## after editing notebooks/*.md: update and format the paired .ipynb
	@$(BIN)/python book/tools/setup_cell.py
	@$(BIN)/jupytext --quiet --update --to ipynb notebooks/*.md
	@$(BIN)/ruff format --quiet notebooks
	@$(BIN)/jupytext --quiet --to md:myst notebooks/*.ipynb

test: setup ## the default test suite, in two processes
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup ## the tests that take minutes, in two processes
	@$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

check: setup types ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: setup
	@$(BIN)/mypy

bench: setup ## speed and memory, printed as a table
	@$(BIN)/python benchmarks/bench.py

fetch: setup ## download the small real files (NAME=pala-insilico and others for more)
	@$(BIN)/ulmpaper fetch $(or $(NAME),--small)

RUNS := build/weights/$(PROFILE)
# In quick the trainings are to serve many kinds of recordings: PSFs of many widths, fast flow, dense bubbles, noise, flaws,
# resampled frames. On 3DML-ResNet a layer is trained that tells how far off each place may be.
WIDE = --set train.psf=varied --set train.stretch=0.75,1.35 --set train.speed=1,30 --set train.denser=1,2 \
  --set train.crossing=0.3 --set train.noise_db=15,45 --set train.flawed=0.15 --set train.resampled=0.6,1.6 \
  --set train.quieter_share=0.5 --set train.validation_frames=200
WIDE_ml3d = $(WIDE) --set ml3d.epochs=30 --set ml3d.steps=600
WIDE_count = $(WIDE) --set train.gain=0.2,1
WIDE_mspcn = $(WIDE) --set mspcn.epochs=24
SIGMA = --set ml3d.sigma=true --set ml3d.epochs=5 --set ml3d.steps=100
weights: setup ## train the networks, two at a time (PROFILE=quick: some hours on 2 cores; stops and resumes)
	@$(MAKE) --no-print-directory --jobs=2 train-ml3d train-count train-mspcn
	@[ $(PROFILE) != quick ] || $(BIN)/ulmpaper train --recipe ml3d --start $(RUNS)/ml3d/best.safetensors \
	  $(WIDE) $(SIGMA) -o $(RUNS)/ml3d_sigma

train-%:
	@$(BIN)/ulmpaper train --recipe $* --profile $(PROFILE) $(if $(filter quick,$(PROFILE)),$(WIDE_$*)) -o $(RUNS)/$*

finetune: setup ## train 3DML-ResNet and mSPCN on, with sequences 16 to 20 of the phantom, as the paper does with PALA's
	@$(BIN)/ulmpaper simulate phantom --split validation --profile $(PROFILE) -o $(RUNS)/phantom
	@$(BIN)/ulmpaper store $(RUNS)/phantom/IQ/*.mat -o $(RUNS)/phantom.h5
	@$(MAKE) --no-print-directory --jobs=2 tune-ml3d tune-mspcn

tune-%:
	@$(BIN)/ulmpaper train --recipe $* --data $(RUNS)/phantom.h5 --start shipped \
	  --profile $(PROFILE) --set $*.epochs=8 --set $*.steps=200 --set $*.learning_rate=5e-4 -o $(RUNS)/$*_phantom

lock: ## after changing dependencies: write the installed versions to constraints.txt and environment.yml
	@$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' > constraints.txt
	@{ printf 'name: ulmpaper\nchannels: [conda-forge]\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	   sed 's/^/      - /' constraints.txt; echo '      - -e .[all,book,cluster,dev]'; } > environment.yml

clean: ## remove what was built (not .venv, not data)
	rm -rf build outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis
