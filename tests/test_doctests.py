"""The examples in the docstrings of the method's modules run as they stand, imports included."""

import doctest
import importlib

import keras
import pytest

MODULES = ["schedules", "noise", "factorize", "layers", "graph", "surgery", "methods", "methods.base"]
MODULES += ["saving", "callbacks", "accounting"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run_by_themselves(name):
    module = importlib.import_module(f"clora_lab.{name}")
    examples = [test for test in doctest.DocTestFinder().find(module, globs={}) if test.examples]
    assert examples
    for example in examples:
        keras.utils.clear_session()  # layer names begin at 'dense' again
        results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
        assert results.failed == 0, example.name
        assert not any("SKIP" in line.source for line in example.examples), example.name
