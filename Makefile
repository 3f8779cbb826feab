# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs on first use.
# `make notebooks` runs the five notebooks from top to bottom; `make docs` builds the documentation as a site.
PYTHON ?= python3

demo: .venv/installed
	.venv/bin/ibviz demo --out runs/demo --resume

test: .venv/installed-dev
	OMP_NUM_THREADS=1 .venv/bin/pytest -n auto  # a process a core, of one thread each

notebooks: .venv/installed-dev
	.venv/bin/python notebooks/render.py

docs: .venv/installed-dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict  # into site/; the variable silences an advertisement

.venv/installed .venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet --editable '.$(if $(findstring dev,$@),[dev])'
	touch $@

.PHONY: demo test notebooks docs
