# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow soak fuzz lint docs clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Supervised-only against CIFP on synthetic hearts, about three minutes on one core.
demo: .venv/ready
	$(BIN)/python -m cifp_jax.main --config=configs/demo.py --workdir=runs/demo

# Everything but the tests marked slow, two at a time.
test: .venv/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow' $(TEST_FLAGS)

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow $(TEST_FLAGS)

# Runs killed at random moments, against runs that were left alone.
soak: .venv/ready
	rm -rf runs/soak runs/soak_3d
	$(BIN)/python -m tests.soak --kills=32 --out=runs/soak
	$(BIN)/python -m tests.soak --kills=12 --rank=3d --out=runs/soak_3d

# Damaged files for every reader: more than a hundred thousand.
fuzz: .venv/ready
	$(BIN)/python -m pytest tests/test_fuzz.py --fuzz=10000

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The documentation as a site, in build/site.
docs: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv runs build *.egg-info
