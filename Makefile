# Two commands for a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

# Supervised-only against CIFP on synthetic hearts, about three minutes on two cores.
demo: .venv/ready
	$(BIN)/python -m cifp_jax.main --config=configs/demo.py --workdir=runs/demo

# Everything but the tests marked slow.
test: .venv/ready
	$(BIN)/python -m pytest -m 'not slow' $(TEST_FLAGS)

test-slow: .venv/ready
	$(BIN)/python -m pytest -m slow $(TEST_FLAGS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv runs build *.egg-info
