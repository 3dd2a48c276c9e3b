"""Imports go down only, and no module uses another's underscore name: the rooms of the package stay apart."""

import ast
from pathlib import Path

import clora_lab
from clora_lab import methods

ROOT = Path(clora_lab.__file__).parent
# From the top down; the library is all that is in none of the named rooms.
ROOMS = ("cli", "course", "slides", "studies", "lab", "library")
LONGEST = 500


def room(module):
    first = module.split(".")[1] if "." in module else ""
    return "cli" if first in ("cli", "__main__") else first if first in ROOMS else "library"


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(["clora_lab", *path.relative_to(ROOT).with_suffix("").parts])
        yield name.removesuffix(".__init__"), path, ast.parse(path.read_text())


def imported(tree):
    """(module, name) of every import of the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clora_lab"):
            for alias in node.names:
                yield node.module, alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("clora_lab"):
                    yield alias.name, ""


def test_imports_go_down_only():
    wrong = []
    for name, _, tree in modules():
        for module, attribute in imported(tree):
            target = f"{module}.{attribute}" if module == "clora_lab" and attribute else module
            if ROOMS.index(room(target)) < ROOMS.index(room(name)):
                wrong.append(f"{name} imports {target}")
    assert not wrong, "\n".join(wrong)


def test_rules_know_no_method():
    found = [
        f"{name} imports {module}.{attribute}"
        for name, _, tree in modules()
        for module, attribute in imported(tree)
        if name.startswith("clora_lab.rules") and "methods" in (module.split(".")[-1], attribute)
    ]
    assert not found


def test_no_underscore_name_of_another_module_is_used():
    found = []
    for name, _, tree in modules():
        local = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clora_lab"):
                local |= {alias.asname or alias.name for alias in node.names}
                found += [
                    f"{name}: {node.module}.{alias.name}"
                    for alias in node.names
                    if alias.name.startswith("_") and alias.name != "_checks"
                ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                own = node.attr.startswith("_") and not node.attr.startswith("__")
                if own and node.value.id in local:
                    found.append(f"{name}: {node.value.id}.{node.attr}")
    assert not found, "\n".join(found)


def test_no_module_is_longer_than_a_sitting():
    long = {name: len(path.read_text().splitlines()) for name, path, _ in modules()}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST}


def test_nothing_outside_of_methods_compares_with_a_methods_name():
    names = {entry.name for entry in methods.REGISTRY}
    found = []
    for name, _, tree in modules():
        if name.startswith("clora_lab.methods"):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            words = [side.value for side in sides if isinstance(side, ast.Constant)]
            about = ast.unparse(node)
            if "method" in about and set(words) & names:
                found.append(f"{name}:{node.lineno}: {about}")
    assert not found, "\n".join(found)
