# `make demo` and `make test` each do everything that a fresh machine needs: virtual environment, installation, job.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin
EXTRAS ?= dev,dlib
JOBS ?= 2
comma := ,
# Named after what was asked for: with other extras the environment is another one.
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))

.PHONY: demo test lint docs install clean

demo: $(INSTALLED)
	mkdir -p outputs
	$(RUN)/talkhead demo --output outputs/demo.mp4

test: $(INSTALLED)
	$(RUN)/python -m pytest --numprocesses $(JOBS) --dist loadfile

lint: $(INSTALLED)
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy talkhead

docs: $(INSTALLED)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict

install: $(INSTALLED)

# The stamp is younger than what it depends on only after an installation that doctor has found to work.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	$(RUN)/talkhead doctor --fix
	touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
