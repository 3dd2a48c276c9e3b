"""The examples in the docstrings of the method's modules run as they stand, imports included."""

import doctest
import importlib
import pkgutil

import keras
import pytest

from clora_lab import lab, studies

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


@pytest.mark.parametrize("package", [lab, studies], ids=["lab", "studies"])
def test_examples_of_the_lab_say_what_comes(package):
    """Those that need no rows, files or training; the figures' are run beside their own tests."""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if found.name.startswith("clora_lab.lab.figures"):
            continue
        for example in doctest.DocTestFinder().find(importlib.import_module(found.name)):
            results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
            assert results.failed == 0, example.name
