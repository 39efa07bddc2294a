# Each target works on a fresh machine with Python 3.11, make, git, pip and a package index.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint format bench soak newcomer docs clean

demo: .venv/ready
	@$(BIN)/zoo train digits_nin_dsn --runs demo/runs --name demo
	@$(BIN)/zoo export demo/runs/digits_nin_dsn/demo --out demo/saved_models/digits_nin_dsn
	@echo; echo "The export, loaded without Keras as a server loads it, classifies test images:"
	@$(BIN)/zoo predict demo/saved_models/digits_nin_dsn demo/runs/digits_nin_dsn/demo/examples/*.png
	@echo; echo "Everything is in demo/. Open demo/runs/digits_nin_dsn/demo/report.html, and next:"
	@echo "  $(BIN)/zoo list                                   other recipes"
	@echo "  $(BIN)/zoo train photos --data FOLDER             your own images, in class folders"
	@echo "  $(BIN)/zoo predict demo/saved_models/digits_nin_dsn IMAGE..."

test: .venv/ready
	@$(BIN)/python -m pytest

lint: .venv/ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/ready
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: .venv/ready
	@$(BIN)/python benchmarks/step.py

# Half an hour or more: kills, bad inputs, hostile servers. docs/reliability.md has its last figures.
soak: .venv/ready
	@$(BIN)/python benchmarks/soak

# The wheel in a fresh environment, and the first steps of three people with it: 520 CPU seconds.
newcomer: .venv/ready
	@$(BIN)/python benchmarks/newcomer.py

docs: .venv/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html. To edit the pages and watch them: $(BIN)/mkdocs serve"

.venv/ready: setup.cfg pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "Installing into .venv (a minute or two) ..."
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint constraints.txt
	@touch $@

.venv/docs: .venv/ready
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	@touch $@

clean:
	rm -rf .venv demo build site *.egg-info
