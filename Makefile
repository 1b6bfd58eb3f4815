# Everything that the project needs is installed into .venv, from requirements.txt with its hashes. Nothing else on the host is touched.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
WORKERS ?= $(shell echo $$(($$(nproc) * 2)))  # tests wait more than they work
FIRST = $(shell [ "$$(id -u)" = 0 ] && echo nice -n -10)  # a start of the real t3 takes seconds of a processor: it comes before what mostly waits
COMPILE = $(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
  --no-annotate --custom-compile-command "make requirements"

.PHONY: demo check units test suite durations box real box-and-real lint format bench bench-short requirements hooks release clean soak

demo: $(VENV)/.ready  ## plays the main job in a sandbox; REAL=1: its good nightly is the real t3
	@$(BIN)/t3flow demo $(if $(REAL),--real)

BESIDE = rm -f .box.log .real.log; $(MAKE) --no-print-directory -j2 suite box-and-real LATER=">>.box.log 2>&1" REAL_LATER=">>.real.log 2>&1"; \
  code=$$?; cat .box.log .real.log; exit $$code

check: $(VENV)/.ready  ## lint, types and the unit tests, which start no process (tests/units.py): for daily work
	@$(MAKE) --no-print-directory -j2 lint units

units: $(VENV)/.ready
	@$(BIN)/python -m t3flow.sandbox.enter --memory $(BIN)/python -m pytest -p no:cacheprovider -q -n $(shell nproc) -r fE --timeout 60 --units $(ARGS)

test: lint  ## everything that CI runs; what runs on a real systemd or with the real t3 goes beside the rest, one after the other, and is shown after it
	@$(if $(ARGS),$(MAKE) --no-print-directory suite,$(BESIDE))

suite: $(VENV)/.ready
	@sh tests/monitoring/prepare.sh
	@sh tests/redis_faults/prepare.sh
	@sh tests/compiler.sh
	@$(BIN)/python -m compileall -q t3flow tests
	@$(BIN)/python -m t3flow.sandbox.enter --memory $(BIN)/python -m pytest -p no:cacheprovider -n $(WORKERS) --durations=15 --ignore=tests/box --ignore=tests/root --ignore=tests/real $(ARGS)

soak: $(VENV)/.ready  ## ten minutes of a simulated year on one host; SEED=N repeats one
	@$(BIN)/python tests/soak/year.py --minutes 10 --nights 1000 --users 4 --days-each 4 --keep-days 24 $(if $(SEED),--seed $(SEED)) $(ARGS) || [ $$? = 2 ]

durations: $(VENV)/.ready  ## writes anew how long each test takes, for tests/ordering.py: on a quiet machine
	@chmod a+w tests/durations.json; $(MAKE) --no-print-directory suite ARGS=--record-durations; code=$$?; chmod 644 tests/durations.json; exit $$code

box: $(VENV)/.ready  ## on a real systemd, as root, in namespaces; elsewhere it says that it was skipped
	@sh tests/box/prepare.sh $(LATER)
	@$(BIN)/python -m pytest -p no:cacheprovider -s tests/box --ignore=tests/box/test_real.py $(BOX) $(LATER)
	@$(if $(BOX),,$(BIN)/python -m pytest -p no:cacheprovider -n 2 tests/root $(LATER))

real: $(VENV)/.ready  ## with the real t3, in the sandbox and on a real systemd; where npm cannot fetch it, it says that it was skipped
	@$(BIN)/python -m t3flow.sandbox.real $(REAL_LATER) || [ $$? = 2 ]
	@$(BIN)/python tests/real/verdaccio.py $(REAL_LATER) || [ $$? = 2 ]
	@$(FIRST) $(BIN)/python -m t3flow.sandbox.enter $(BIN)/python -m pytest -p no:cacheprovider -s tests/real $(REAL_LATER)
	@sh tests/box/prepare.sh $(REAL_LATER)
	@$(FIRST) $(BIN)/python -m pytest -p no:cacheprovider -s tests/box/test_real.py $(REAL_LATER)

box-and-real: $(VENV)/.ready
	@code=0; $(MAKE) --no-print-directory box || code=1; $(MAKE) --no-print-directory real || code=1; exit $$code

lint: $(VENV)/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: $(VENV)/.ready
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.ready  ## figures, as ratios to a reference measured in the same run
	@for each in bench/[a-z]*.py; do $(BIN)/python $$each $(if $(SHORT),--short) || exit 1; done

bench-short:  ## each benchmark in its short form, which only proves that it runs: `make suite` does the same (tests/bench)
	@$(MAKE) --no-print-directory bench SHORT=1

requirements: $(VENV)/.ready  ## newer versions of everything, pinned by hash: for work on it, and for hosts
	@$(BIN)/python -m pip install -q uv
	@$(COMPILE) --upgrade --extra test pyproject.toml -o requirements.txt
	@echo hatchling | $(COMPILE) -c requirements.txt --extra web --extra notify --extra fleet pyproject.toml - -o deploy/requirements.txt

hooks: $(VENV)/.ready  ## check each commit in about two seconds
	@sh tools/hooks.sh

release: $(VENV)/.ready  ## make release VERSION=1.2.3, or make release 1.2.3: commit, tag and dist/1.2.3
	@$(BIN)/python tools/release.py "$(VERSION)"

ifeq (release,$(firstword $(MAKECMDGOALS)))
VERSION ?= $(word 2,$(MAKECMDGOALS))
$(wordlist 2,2,$(MAKECMDGOALS)): release
	@:
endif

$(VENV)/.ready: requirements.txt pyproject.toml
	@sh tools/setup.sh $(VENV) $(PYTHON)
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .import_linter_cache .pytest_cache .hypothesis
