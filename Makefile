# `make` lists what there is. Every target sets up what it needs by itself.
VENV := .venv
PY := $(VENV)/bin/python
AGENT := $(VENV)/bin/breenix-gdbagent
PACKAGE := $(VENV)/.installed
MACHINE := $(VENV)/.machine
THOROUGH := $(VENV)/.thorough
DOCS := $(VENV)/.docs

.DEFAULT_GOAL := help
.PHONY: help setup demo test check guest selftest bench thorough fresh pythons readme docs examples picture clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(PACKAGE) $(MACHINE)  ## the virtual environment, the package, QEMU with firmware

$(PACKAGE): pyproject.toml breenix_gdbagent/version.py tools/setup-python.sh
	sh tools/setup-python.sh $(VENV)
	touch $@

$(MACHINE): tools/setup-machine.sh $(PACKAGE)
	sh tools/setup-machine.sh
	touch $@

demo: setup  ## boot the lab guest into a fault and read why it faulted
	sh tools/demo.sh $(AGENT)

check: $(PACKAGE)  ## ruff, mypy strict, import directions, unit tests; no QEMU
	$(VENV)/bin/ruff check breenix_gdbagent tests
	$(VENV)/bin/mypy
	$(PY) -m pytest tests/unit -n 2

test: setup check  ## everything: the checks and all that needs QEMU
	$(PY) -m pytest tests/guest tests/breenix -n 2 -rs

guest: $(PACKAGE)  ## build the lab guest's ELFs again (needs cargo)
	sh fixtures/labguest/build.sh
	sh fixtures/labguest-aarch64/build.sh
	sh fixtures/selftest/build.sh

selftest: setup  ## the page-fault matrix on this machine's QEMU
	$(AGENT) selftest

bench: setup  ## ratios measured in one run; PEERS=DIR names checkouts of gdb-pt-dump and gef
	sh tools/setup-peers.sh build/peers
	$(PY) -m tests.bench --peers "$(PEERS)"

thorough: setup $(THOROUGH)  ## counts no CI has time for; TOPIC=fuzz, QEMUS=DIR:DIR beside PATH's
	$(PY) -m pytest tests/thorough -rs $(if $(TOPIC),-k "$(TOPIC)") $(if $(JOBS),-n $(JOBS),-n 2)

$(THOROUGH): $(PACKAGE)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[dev,thorough]'
	touch $@

fresh:  ## the README's two commands on a minimal Debian of its own (root); SUITE=trixie or bookworm
	sh tools/fresh.sh $(or $(SUITE),trixie)

pythons: setup  ## the wheel, a lab run and the unit tests on every Python from 3.11 up that is here
	sh tools/pythons.sh $(PYTHONS)

readme: setup  ## write the README's session and report again from a real run
	$(PY) tools/readme.py README.md

picture: setup  ## the README's picture of a report (needs chromium)
	$(PY) -m tools.picture docs/report.png

docs: setup $(DOCS)  ## the man page, and the docs site in build/site
	$(PY) tools/manpage.py docs/breenix-gdbagent.1
	$(PY) tools/site.py build/docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build -q --strict

examples: setup  ## the examples of finding codes in docs/examples again, from real runs
	$(PY) tools/examples.py docs/examples

$(DOCS): $(PACKAGE)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	touch $@

clean:  ## remove what the other targets made
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
