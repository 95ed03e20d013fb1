# SPDX-License-Identifier: Apache-2.0
.DEFAULT_GOAL := help
.PHONY: help setup run test stress differential check bench proto lock clean

python := .venv/bin/python
members := kernel sdk $(wildcard plugins/*/*)
inputs := requirements.lock pyproject.toml $(wildcard $(addsuffix /pyproject.toml,$(members))) .ci/setup .ci/apt-packages
sources := $(members) tests $(wildcard examples)

help: ## print this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

setup: .venv/.stamp ## install what is missing: Debian packages, .venv, the locked requirements, every member

.venv/.stamp: $(inputs)
	@.ci/setup

run: .venv/.stamp ## start a daemon, run a first container in it, and show what happened
	@$(python) examples/first_container/run.py

test: .venv/.stamp ## run the test suite; ARGS="-k word" narrows it
	@$(python) -m pytest tests $(wildcard $(addsuffix /tests,$(members))) $(ARGS)

stress: .venv/.stamp ## run the tests that take long: many containers, calls and plugin changes; ARGS="-k word" narrows it
	@$(python) -m pytest tests -m stress -s $(ARGS)

differential: .venv/.stamp ## play all scenarios and 12,000 generated steps on containerd and on orlopd, and count
	@ORLOP_DIFFERENTIAL_STEPS=12000 $(python) -m pytest tests/differential $(ARGS)

check: .venv/.stamp ## formatting, lint, types, import contracts, spelling
	@.ci/check $(sources)

bench: .venv/.stamp ## measure against containerd and print both sides
	@set -e; for name in $(notdir $(basename $(wildcard tests/benchmarks/bench_*.py))); do \
		$(python) -m tests.benchmarks.$$name $(ARGS); done

proto: .venv/.stamp ## generate the SDK's wire modules from its .proto files
	@$(python) sdk/proto/generate.py

lock: .venv/.stamp ## resolve all dependencies anew into requirements.lock; ARGS=--upgrade takes newer ones
	@.ci/lock $(ARGS)

clean: ## remove .venv and what tools left behind
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find $(sources) -name __pycache__ -type d -prune -exec rm -rf {} +
