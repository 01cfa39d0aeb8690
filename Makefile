# Every target only calls a script; without make, call the script.
# The first of these that really runs (a version manager's shim may exist and fail).
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c "" >/dev/null 2>&1 && echo $$p && break; done)
VENV_PYTHON := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)/bin/python

.PHONY: help install quickstart test check ci
help:            ## what there is
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## */\t/' | sort | expand -t 14
install:         ## an environment with everything training needs
	@$(PYTHON) scripts/setup.py install
quickstart:      ## install, then train a first model on pictures that come along
	@$(PYTHON) scripts/setup.py quickstart
test:            ## install with the developers' tools, then run the tests
	@$(PYTHON) scripts/setup.py test
check:           ## lint, types, licences, the README's code blocks
	@$(VENV_PYTHON) scripts/check.py
ci:              ## all that the continuous integration runs
	@.ci/run
