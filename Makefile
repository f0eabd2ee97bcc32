# The project's commands; `make help` lists them. They all use the environment in .venv, which is made
# on first use and again after a change of the requirements.

PYTHON ?= python3
# Test processes; each takes about one core.
TEST_WORKERS ?= 2
# Extra arguments of pytest, e.g. make test TESTS=tests/configs
TESTS ?=

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEMO := runs/demo
# Of the study, with their numbers of seeds: most for the baseline and the method named beforehand.
MASK2FORMER_METHODS := baseline:5,frequency_matcher:5,rfs:3,copy_paste:3,seesaw:3,rfs+copy_paste+frequency_matcher:3
DEEPLABV3PLUS_METHODS := baseline:5,rfs:5,copy_paste:3,seesaw:3,rfs+copy_paste:3
EOMT_METHODS := baseline:3,frequency_matcher:3,seesaw:3
# The newest of everything, on the newest of these Pythons that is there.
NEWEST := .venv-newest
NEWEST_PYTHON ?= $(shell for minor in 14 13 12 11; do \
  python3.$$minor -c "" 2>/dev/null && echo python3.$$minor && break; done)
# Compilers for accelerators that are not there, each in an environment of its own.
AOT_TPU := .venv-aot-tpu
AOT_GPU := .venv-aot-gpu
TRAIN_STEP := -m benchmarks.aot_train_step
EOMT_L := configs/ade20k.py:model=eomt,backbone=dinov3_l
EOMT_G := configs/ade20k.py:model=eomt,backbone=dinov2_g

.DEFAULT_GOAL := help
.PHONY: help demo study study-mask2former study-deeplabv3plus study-eomt test test-slow test-newest lint format \
  bench aot aot-eomt aot-all clean

help:
	@echo "Times are of two CPU cores, without the first installation (about a minute and a half)."
	@echo "make demo     3-6 min  draw the embedded data set, train and evaluate on it"
	@echo "make study      4-5 h  compare the methods for long tails on it, with all models; goes on where stopped"
	@echo "make test      25 min  the tests, without the slow ones"
	@echo "make test-slow 24 min  complete runs that must reach the README's results, and longer checks"
	@echo "make test-newest       the same tests with the newest Python found and the newest releases allowed"
	@echo "make lint              check style and formatting"
	@echo "make format            format the code"
	@echo "make bench     30 min  time the hot paths, side by side with alternatives (36 min where torch is)"
	@echo "make aot       12 min  compile kernels and training step for TPU v5e and H100, which need not be there"
	@echo "make aot-eomt          training steps of EoMT-L and -g for slices of TPUs and an H100"
	@echo "make aot-all   30 min  the kernels for TPU v4, v5p, v6e and TPU7x as well"
	@echo "make clean             remove .venv*, caches and the demo's run; data and other runs stay"
	@echo "The first of them installs the requirements into .venv (Python 3.11 or newer: PYTHON=...)."

# A demo shows a run from its beginning, so a finished or broken one is not resumed.
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(RUN) main.py --config=configs/shapes_lt.py --workdir=$(DEMO)

# Where a run of one part failed, `make -k study` does the others all the same.
study: study-mask2former study-deeplabv3plus study-eomt

study-mask2former: $(INSTALLED)
	$(RUN) -m ltss_jax.study --config=configs/shapes_lt.py:model=mask2former \
	  --methods=$(MASK2FORMER_METHODS)

study-deeplabv3plus: $(INSTALLED)
	$(RUN) -m ltss_jax.study --config=configs/shapes_lt.py:model=deeplabv3plus \
	  --methods=$(DEEPLABV3PLUS_METHODS)

study-eomt: $(INSTALLED)
	$(RUN) -m ltss_jax.study --config=configs/shapes_lt.py:model=eomt --methods=$(EOMT_METHODS)

test: $(INSTALLED)
	$(RUN) -m pytest -n $(TEST_WORKERS) --dist worksteal -m "not slow" $(TESTS)

# One at a time: slow tests time things and use every core themselves.
test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow $(TESTS)

# No stamp: releases that have come out since the last time are wanted.
test-newest:
	$(NEWEST_PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
	  --upgrade-strategy eager -r requirements-dev.txt
	$(NEWEST)/bin/python --version
	$(NEWEST)/bin/python -m pip list --format=freeze | grep -E "^(jax|flax|optax|orbax|grain|numpy|scipy)"
	$(NEWEST)/bin/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m "not slow" $(TESTS)

lint: $(INSTALLED)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: $(INSTALLED)
	$(RUN) -m ruff check --fix-only --quiet
	$(RUN) -m ruff format

bench: $(INSTALLED)
	$(RUN) -m benchmarks.first_step
	$(RUN) -m benchmarks.run
	$(RUN) -m benchmarks.statistics
	$(RUN) -m benchmarks.input_pipeline
	$(RUN) -m benchmarks.methods
	$(RUN) -m benchmarks.checkpoints

# The installations, 6 GB, take some minutes more.
aot: $(AOT_TPU)/.installed $(AOT_GPU)/.installed
	$(AOT_TPU)/bin/python -m kernels.ms_deform_attn.aot v5e
	$(AOT_GPU)/bin/python -m kernels.ms_deform_attn.aot h100
	$(AOT_TPU)/bin/python -m benchmarks.aot_train_step --target=v5e --config=configs/coco_stuff_lt.py
	$(AOT_TPU)/bin/python -m benchmarks.aot_criterion --target=v5e --config=configs/coco_stuff_lt.py
	$(AOT_GPU)/bin/python -m benchmarks.aot_train_step --target=h100 --config=configs/coco_stuff_lt.py \
	  --config.batch_size=4

# Two to ten minutes of processor time each.
aot-eomt: $(AOT_TPU)/.installed $(AOT_GPU)/.installed
	$(AOT_TPU)/bin/python $(TRAIN_STEP) --target=v5e --config=$(EOMT_L) --config.mesh.fsdp=4 \
	  --config.model.remat=True
	$(AOT_TPU)/bin/python $(TRAIN_STEP) --target=v6e --config=$(EOMT_L) --config.mesh.fsdp=4 \
	  --config.model.remat=True
	$(AOT_TPU)/bin/python $(TRAIN_STEP) --target=v5e --config=$(EOMT_L) \
	  --config.model.freeze_backbone=True
	$(AOT_TPU)/bin/python $(TRAIN_STEP) --target=v5e:16x16 --config=$(EOMT_L) --config.mesh.fsdp=16 \
	  --config.batch_size=256
	$(AOT_TPU)/bin/python $(TRAIN_STEP) --target=v5e:4x4 --config=$(EOMT_G) --config.mesh.fsdp=16 \
	  --config.model.remat=True
	$(AOT_GPU)/bin/python $(TRAIN_STEP) --target=h100 --config=$(EOMT_L)

aot-all: aot
	for target in v4 v5p v6e tpu7x; do \
	  echo $$target && $(AOT_TPU)/bin/python -m kernels.ms_deform_attn.aot $$target || exit 1; done

clean:
	rm -rf $(VENV) $(NEWEST) $(AOT_TPU) $(AOT_GPU) $(DEMO) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(AOT_TPU)/.installed: JAX := jax[tpu]
$(AOT_GPU)/.installed: JAX := jax[cuda13]
$(AOT_TPU)/.installed $(AOT_GPU)/.installed: requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt "$(JAX)"
	@touch $@

# A Python that is asked for by name and is another than that of .venv makes it anew.
ifneq ($(origin PYTHON),file)
ifneq ($(wildcard $(RUN)),)
MINOR := -c "import sys; print(sys.version_info[:2])"
ifneq ($(shell $(RUN) $(MINOR)),$(shell $(PYTHON) $(MINOR)))
.PHONY: $(INSTALLED)
$(INSTALLED): CLEAR := --clear
endif
endif
endif

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(\
	  "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
