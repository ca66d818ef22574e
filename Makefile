# reproduce and test make their environment themselves, from requirements.lock.

PYTHON ?= python3
PROFILE ?= demo
DATA ?=
# one seed of the demo is reproduced, to lie within the spread of the three that are published
SEEDS ?= $(if $(filter demo,$(PROFILE)),0)
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export BSRNN_ROOT := $(CURDIR)
unexport VIRTUAL_ENV
# compiled modules are kept: a dozen kernels start here, each of which would compile torch anew
unexport PYTHONDONTWRITEBYTECODE

STRIP = nbstripout --keep-output --keep-count --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution"
LAB_SETTINGS = {"@jupyterlab/docmanager-extension:plugin": {"autosave": false}, "@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}

.PHONY: install reproduce publish open-set test test-slurm test-cuda lab figures benchmark notebooks lock clean help

help:
	@echo 'make install                                           the environment in .venv, which the others make as well'
	@echo 'make reproduce [PROFILE=demo] [DATA=folder] [JOBS=n] [SEEDS=0,1,2]   every experiment, table and figure of a profile, under runs/, and do the scores agree with those published?'
	@echo 'make publish   [PROFILE=demo]                          what was reproduced, copied to results/ and figures/'
	@echo 'make open-set                                          the songs of the open profile, rendered and sung to runs/open-set'
	@echo 'make figures   [PROFILE=demo]                          the figures and tables again, from the scores in results/'
	@echo 'make test                                              all tests, the notebooks among them'
	@echo 'make test-slurm                                        a study on SLURM, which is started for that: minutes'
	@echo 'make test-cuda                                         what only a GPU can tell: trainings with graphs, and their speed'
	@echo 'make benchmark                                         speed and memory, beside a plain version of the model'
	@echo 'make lab                                               JupyterLab'
	@echo 'make notebooks                                         execute the notebooks in place, as they are committed'
	@echo 'make lock                                              resolve requirements.lock anew'
	@echo 'make clean                                             remove runs/: trainings and their models, generated and rendered songs'

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12"'
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv/bin/uv pip install --quiet --python .venv/bin/python -r requirements.lock
	.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
	mkdir -p .venv/etc/ipython
	echo "c.IPKernelApp.log_level = 'ERROR'" > .venv/etc/ipython/ipython_kernel_config.py  # no advice on networks
	touch $@

install: .venv/ready

# glibc: large pages, and freed memory kept for the next step of a training, which takes a fifth less time on a CPU
reproduce: export GLIBC_TUNABLES = glibc.malloc.hugetlb=1:glibc.malloc.top_pad=2000000000:glibc.malloc.trim_threshold=40000000000:glibc.malloc.mmap_threshold=4000000000
reproduce: .venv/ready
	snakemake --cores $(JOBS) --nolock --rerun-incomplete --rerun-triggers mtime --quiet rules --config profile=$(PROFILE) $(if $(DATA),data='$(DATA)') $(if $(SEEDS),seeds='[$(SEEDS)]')
	if [ -d results/$(PROFILE)/scores ]; then python -m study.results compare $(PROFILE); fi

publish: .venv/ready
	python -m study.results publish $(PROFILE)
	if [ -d results/$(PROFILE)/notebooks ]; then $(STRIP) results/$(PROFILE)/notebooks/*.ipynb; fi
	$(MAKE) figures

# Debian packages it wants: fluidsynth musescore-general-soundfont-small fluid-soundfont-gm timgm6mb-soundfont
open-set: .venv/ready
	.venv/bin/uv pip install --quiet --python .venv/bin/python pretty_midi pyworld
	python open-set/build.py runs/open-set

figures: .venv/ready
	rm -f runs/$(PROFILE)/figures/0[157]_*
	mkdir -p runs/$(PROFILE)/figures figures/$(PROFILE)
	for name in 01_band_schemas 05_usdr_comparison 07_model_size; do \
		papermill --cwd . --no-progress-bar --log-level WARNING -p profile $(PROFILE) notebooks/$$name.ipynb runs/$(PROFILE)/figures/$$name.ipynb || exit 1; \
	done
	cp runs/$(PROFILE)/figures/0[157]_*.png figures/$(PROFILE)
	python -m study.results tables $(PROFILE)

test: .venv/ready
	pytest

# Debian packages it wants: slurm-wlm munge
test-slurm: .venv/ready
	.venv/bin/uv pip install --quiet --python .venv/bin/python --constraint requirements.lock snakemake-executor-plugin-slurm==2.8.0
	tests/slurm.sh

benchmark: .venv/ready
	for script in benchmark hop memory loader metrics; do python benchmarks/$$script.py || exit 1; done

# on a machine with a GPU: the tests of graphs, and results/benchmark/cuda.csv
test-cuda: .venv/ready
	pytest -k graph tests/test_train.py
	python benchmarks/benchmark.py --device cuda

# the whole repository, for links out of notebooks; uploads of a song's size; and notebooks are saved only by hand
lab: .venv/ready
	mkdir -p .venv/share/jupyter/lab/settings
	echo '$(LAB_SETTINGS)' > .venv/share/jupyter/lab/settings/overrides.json
	jupyter lab --ServerApp.root_dir=. --ServerApp.tornado_settings='{"websocket_max_message_size": 1000000000}' notebooks/00_quickstart.ipynb

notebooks: .venv/ready
	for notebook in notebooks/*.ipynb; do \
		OMP_NUM_THREADS=1 papermill --cwd . --no-progress-bar --log-level WARNING $$notebook $$notebook || exit 1; \
	done
	$(STRIP) notebooks/*.ipynb

lock: .venv/ready
	uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-emit-index-url --no-annotate --no-header \
		pyproject.toml -o requirements.lock

clean:
	rm -rf runs .snakemake
