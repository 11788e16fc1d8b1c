# Needs python3 (3.10 or newer), make and git. Everything is installed into .venv; no target writes outside this folder.
PYTHON ?= python3
PYTEST_ARGS ?= -q -n auto --dist loadgroup
# Always ".venv/bin/python -m tool": it works in a path with spaces, and relative, so make never sees one.
PY := .venv/bin/python
INSTALLED := .venv/installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types layers licences audit wheel niivue benchmarks arena_mini unet_mini nnunet_env nnunet_fixtures clean

help:  ## this list
	@sed -n 's/^\([a-z_]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

install: $(INSTALLED)  ## make .venv with the tested versions and the commands

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 10) else "Python 3.10 or newer is needed, this is %d.%d: make PYTHON=/path/to/python3" % v[:2])'
	@echo "installing into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)

demo: $(INSTALLED)  ## the whole job on data it makes itself (about 10 minutes)
	@$(PY) -c 'import sys; from arena_pipeline.cli.demo import main; sys.exit(main())'

test: $(INSTALLED)  ## the test suite
	@$(PY) -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED)  ## ruff
	@$(PY) -m ruff check --quiet .

types: $(INSTALLED)  ## mypy
	@$(PY) -m mypy

layers: $(INSTALLED)  ## imports point one way
	@$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()' --no-logo

licences: $(INSTALLED)  ## the licence of every dependency; fails for one that pyproject.toml does not allow
	@$(PY) -m piplicenses --packages $$(sed -n 's/^\([A-Za-z0-9._-]*\)==.*/\1/p' constraints.txt)

audit: $(INSTALLED)  ## known vulnerabilities of the dependencies (asks PyPI)
	@$(PY) .ci/audit.py

wheel: $(INSTALLED)  ## dist/*.whl
	@rm -rf dist && mkdir dist
	@$(PY) -m build --wheel --outdir dist . >dist/build.log 2>&1 || { cat dist/build.log; exit 1; }
	@echo dist/*.whl

niivue:  ## the viewer of the pages anew, from its npm package (needs node and npm, which nothing else does)
	@.ci/niivue/build.sh "$(CURDIR)/arena_pipeline/view/static"

benchmarks: $(INSTALLED)  ## the measurements in benchmarks/, each beside what it is compared with
	@$(PY) -m benchmarks

# About 3 hours on 2 cores; typed again after an interruption, it goes on. Small structures need a balanced loss to be learned at all, and the plain
# one afterwards, because the balanced one makes them too large.
arena_mini: $(INSTALLED)  ## the weights of the embedded foundation anew, into pretraining/
	@$(PY) -m arena_pipeline.cli.pretrain -o pretraining/1 --phantoms 300
	@$(PY) -m arena_pipeline.cli.pretrain -o pretraining/2 --phantoms 300 --phantom_seed 0 --seed 1 -pretrained_weights pretraining/1/arena_mini.safetensors \
		--loss dice_balanced_ce --steps 2400 --learning_rate 0.003 --cooldown_steps 600
	@$(PY) -m arena_pipeline.cli.pretrain -o pretraining/3 --phantoms 300 --phantom_seed 0 --seed 2 -pretrained_weights pretraining/2/arena_mini.safetensors \
		--steps 1200 --learning_rate 0.002 --warmup_steps 50 --cooldown_steps 1000

# Convolutions in the place of attention, on the same phantoms with the same steps. Install it with: arena_install_foundation
# pretraining/unet/3/unet_mini.json pretraining/unet/3/unet_mini.safetensors
unet_mini: $(INSTALLED)  ## a small U-Net pre-trained as arena_mini is, into pretraining/unet/
	@$(PY) -m arena_pipeline.cli.pretrain -foundation benchmarks/unet_mini.json -o pretraining/unet/1 --phantoms 300
	@$(PY) -m arena_pipeline.cli.pretrain -foundation benchmarks/unet_mini.json -o pretraining/unet/2 --phantoms 300 --phantom_seed 0 --seed 1 \
		-pretrained_weights pretraining/unet/1/unet_mini.safetensors --loss dice_balanced_ce --steps 2400 --learning_rate 0.003 --cooldown_steps 600
	@$(PY) -m arena_pipeline.cli.pretrain -foundation benchmarks/unet_mini.json -o pretraining/unet/3 --phantoms 300 --phantom_seed 0 --seed 2 \
		-pretrained_weights pretraining/unet/2/unet_mini.safetensors --steps 1200 --learning_rate 0.002 --warmup_steps 50 --cooldown_steps 1000

# nnU-Net needs a torchvision that does not go with every torch: it has an environment of its own, .venv-nnunet, which no test needs.
nnunet_env:  ## .venv-nnunet with nnunetv2, for the fixtures alone
	@test -x .venv-nnunet/bin/python || $(PYTHON) -m venv .venv-nnunet
	@.venv-nnunet/bin/python -m pip install -qq --disable-pip-version-check torch==2.13.0 nnunetv2==2.8.1 dynamic-network-architectures==0.4.4

nnunet_fixtures: $(INSTALLED) nnunet_env  ## tests/fixtures/nnunet anew: tiny models that nnU-Net plans, trains and runs on phantoms (some minutes)
	@$(PY) -c 'import sys; from arena_pipeline.cli.make_phantoms import main; sys.exit(main())' -o pretraining/nnunet/isotropic -n 5 --layout flare22 \
		--spacing 6 6 6 --field_of_view abdomen --size 0.8
	@$(PY) -c 'import sys; from arena_pipeline.cli.make_phantoms import main; sys.exit(main())' -o pretraining/nnunet/anisotropic -n 5 --layout flare22 \
		--spacing 5 5 18 --field_of_view torso --size 0.8 --seed 1
	@.venv-nnunet/bin/python tests/fixtures/make_nnunet.py pretraining/nnunet tests/fixtures/nnunet
	@$(PY) -m tests.fixtures.make_exported .venv-nnunet/bin/python

clean:  ## remove everything made here, .venv too
	rm -rf .venv .venv-nnunet dist build .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
