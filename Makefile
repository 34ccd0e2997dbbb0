# Two commands on a fresh clone: `make demo` runs the main job, `make test` passes the tests. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Threads that spin while they wait would take the machine from its other processes.
export GOMP_SPINCOUNT := 0

# An index that breaks off in the middle of a package is asked anew, twice.
define install
	for attempt in 1 2 3; do \
		if $(BIN)/python -m pip install --quiet $(1); then exit 0; fi; \
		echo "installing $(1) broke off, attempt $$attempt of 3" >&2; \
		sleep $$((attempt * 5)); \
	done; \
	exit 1
endef

.PHONY: demo test test-slow lint browser docs bench clean

demo: .venv/ready
	$(BIN)/equipoise demo ct

test: .venv/ready browser lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

# What takes minutes: every operator in every command, long trainings.
test-slow: .venv/ready browser
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m slow

lint: .venv/ready
	$(BIN)/ruff check src tests benchmarks docs/site.py
	$(BIN)/ruff format --check src tests benchmarks docs/site.py
	$(BIN)/mypy

# The report page is tested in headless Chromium, which is Debian's, driven by playwright; those tests skip where
# either cannot be had.
browser: .venv/ready
	@command -v chromium >/dev/null || (apt-get update -qq && apt-get install -qq -y chromium) >/dev/null 2>&1 || echo "no chromium: the page's tests will skip"
	@$(BIN)/python -c "import playwright" 2>/dev/null || ($(call install,-e '.[browser]')) || echo "no playwright: the page's tests will skip"

# torch and torchvision come together, so that the one fits the other.
.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "equipoise needs Python >= 3.10; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	@$(call install,--upgrade pip)
	@$(call install,torch torchvision)
	@$(call install,-e '.[dev]')
	touch $@

# The documentation as a site: site/index.html.
docs: .venv/ready
	$(BIN)/mkdocs build --strict

bench: .venv/ready
	@$(call install,-e '.[bench]')
	for script in native active gradient memory projector train_step warm_start inexactness brain steps penalty alpha stability time_to_quality overhead; do $(BIN)/python benchmarks/$$script.py || exit 1; done

clean:
	rm -rf .venv build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
