# Every target prepares .venv by itself; the second time that takes a moment.
# PYTHON=/path/to/python3 chooses the interpreter of a new .venv.

.DEFAULT_GOAL := help
.PHONY: help demo test torture bench check lint format types imports migrations wheel old-tests matrix clean

bin := .venv/bin

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Play the main job on SQLite and a real SMTP server; KEEP=1 leaves it running
	@scripts/bootstrap demo
	@$(bin)/python example/demo.py $(if $(KEEP),--keep)

test: ## Run the test suite with coverage; ARGS="…" runs a part of it without
	@scripts/bootstrap test $(if $(filter mariadb,$(PILLARBOX_TEST_DB)),mariadb)
	@$(if $(ARGS),$(bin)/python -m pytest $(ARGS),scripts/test)

torture: ## Kill workers at every step on every database and engine, then the long storms; ARGS="--short": a minute
	@scripts/bootstrap test $(if $(shell command -v mariadb_config),mariadb)
	@$(bin)/python -m tests.torture $(ARGS)
	@$(if $(ARGS),,PILLARBOX_TORTURE=1 $(bin)/python -m pytest $(foreach name,storm database_stress broker_stress \
		deploys state_machine,tests/acceptance/test_$(name).py))

bench: ## Measure Pillarbox beside its peers; ARGS="--quick" in some minutes, DJANGO=5.2 on that one
	@VENV=.venv-bench$(DJANGO:%=-%) scripts/bootstrap bench
	@.venv-bench$(DJANGO:%=-%)/bin/python -m benchmarks $(ARGS)
	@.venv-bench$(DJANGO:%=-%)/bin/python -m benchmarks.report

check: lint types imports migrations ## Everything that judges the code without running it

lint: ## Style and common mistakes
	@scripts/bootstrap lint
	$(bin)/ruff check .
	$(bin)/ruff format --check .

format: ## Mend what lint can mend
	@scripts/bootstrap lint
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

types: ## mypy, strict
	@scripts/bootstrap lint
	$(bin)/mypy

imports: ## Which module may import which
	@scripts/bootstrap lint
	$(bin)/lint-imports

migrations: ## Models and migrations agree
	@scripts/bootstrap test
	$(bin)/python -m django makemigrations --check --dry-run --settings tests.settings pillarbox

wheel: ## Build the wheel and pass the tutorial with it in an empty environment
	@scripts/bootstrap lint
	$(bin)/python -m pytest tests/packaging

old-tests: ## The last tag's suite on the newest schema: old and new must run side by side
	@scripts/bootstrap lint
	$(bin)/nox -s old_tests

matrix: ## The suite on every supported pair of Python and Django
	@scripts/bootstrap lint
	$(bin)/nox

clean: ## Remove the environment and everything that was made
	rm -rf .venv .venv-bench* .nox .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist htmlcov
	find src tests example -name __pycache__ -type d -prune -exec rm -rf {} +
