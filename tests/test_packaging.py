"""What is shipped: one list of dependencies, locks within bounds, a whole wheel, clean files."""

import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12")
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    "macos": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
}


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def wanted(project, *extras):
    """Requirements of the base and of the named extras."""
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def environment(python, platform):
    """Marker environment of another Python (its last patch release) and platform."""
    patch = {"python_version": python, "python_full_version": f"{python}.99"}
    return {**default_environment(), **PLATFORMS[platform], **patch}


def pins(lock, env):
    """Versions by package name that a lock file gives in a marker environment."""
    found = {}
    for line in (ROOT / lock).read_text(encoding="utf-8").splitlines():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(env):
            continue
        (pin,) = requirement.specifier  # exactly one clause
        name = canonicalize_name(requirement.name)
        assert pin.operator == "==" and requirement.url is None, line
        assert name not in found, f"{lock} pins {name} twice under {env['python_version']}"
        found[name] = pin.version
    return found


def outside_bounds(requirements, pinned, env):
    """Requirements that apply in the environment and that no pin satisfies."""
    return [
        f"{requirement} but locked: {pinned.get(canonicalize_name(requirement.name))}"
        for requirement in requirements
        if not (requirement.marker and not requirement.marker.evaluate(env))
        and not requirement.specifier.contains(
            pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True
        )
    ]


def repository_files():
    """Files that git tracks or would track, as paths relative to the root."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git checkout, so what is tracked can't be told")
    listing = subprocess.run(
        # The checkout may belong to another user, as in a container.
        ["git", "-c", "safe.directory=*", "ls-files", "-z"] + ["--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [name for name in listing.split("\0") if name and (ROOT / name).is_file()]


def test_every_dependency_has_a_lower_and_an_upper_bound(project):
    for requirement in wanted(project, *project["optional-dependencies"]):
        operators = {clause.operator for clause in requirement.specifier}
        assert operators == {">=", "<"}, str(requirement)


def test_environment_yml_lists_what_pyproject_lists(project):
    recipe = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(line for line in recipe["dependencies"] if str(line).startswith("python="))
    (by_pip,) = [entry["pip"] for entry in recipe["dependencies"] if isinstance(entry, dict)]
    listed = [Requirement(line) for line in by_pip if not line.startswith("-e ")]
    assert python.removeprefix("python=") in PYTHONS
    assert "-e ." in by_pip
    assert sorted(map(str, listed)) == sorted(map(str, wanted(project, "notebooks", "test", "bench", "text")))


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_locks_satisfy_every_bound(project, python, platform):
    env = environment(python, platform)
    everything = pins("requirements.lock", env)
    assert not outside_bounds(wanted(project, "notebooks", "test", "bench", "text"), everything, env)

    without_tensorflow = pins("requirements-jax.lock", env)
    needed = [r for r in wanted(project, "jax") if r.name != "tensorflow"]
    assert not outside_bounds(needed, without_tensorflow, env)
    assert "tensorflow" not in without_tensorflow
    differing = {
        name: (version, everything[name])
        for name, version in without_tensorflow.items()
        if everything.get(name, version) != version
    }
    assert not differing, "the two locks must not contradict each other"


def test_a_pin_outside_its_bound_is_noticed():
    env = environment("3.11", "linux")
    bound = [Requirement("numpy>=1.26,<3"), Requirement("tomli>=2; python_version < '3.11'")]
    assert not outside_bounds(bound, {"numpy": "2.4.6"}, env)
    assert len(outside_bounds(bound, {"numpy": "3.0"}, env)) == 1
    assert len(outside_bounds(bound, {}, env)) == 1


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, since a build leaves folders beside its source."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("clora_lab", "data"):
        skipped = shutil.ignore_patterns("__pycache__", ".*", "*.lock", "*.tmp")
        shutil.copytree(ROOT / name, source / name, ignore=skipped)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    run = subprocess.run(
        [*command, "--no-index", "--wheel-dir", target, source], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = target.glob("*.whl")
    return built


def test_wheel_carries_the_package_and_the_tables_and_nothing_else(wheel):
    package = ROOT / "clora_lab"
    modules = [path.relative_to(ROOT) for kind in ("*.py", "*.j2") for path in package.rglob(kind)]
    tables = [
        Path("clora_lab/_data") / path.relative_to(ROOT / "data")
        for pattern in ("*.csv", "*.md")
        for path in (ROOT / "data").rglob(pattern)
    ]
    assert Path("clora_lab/_data/published/toy.csv") in tables
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {path.as_posix() for path in modules + tables}


def test_wheel_states_its_licence_and_its_command(wheel, project):
    archive = zipfile.ZipFile(wheel)
    info = f"clora_lab-{project['version']}.dist-info"
    metadata = message_from_bytes(archive.read(f"{info}/METADATA"))
    assert metadata["Version"] == project["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert archive.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "clora-lab = clora_lab.cli:app" in archive.read(f"{info}/entry_points.txt").decode()


def test_wheel_finds_its_tables_without_a_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from clora_lab.lab.paths import data_dir; print(data_dir());"
        "print((data_dir() / 'published/toy.csv').read_text(), end='')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    folder, _, table = run.stdout.partition("\n")
    assert Path(folder) == tmp_path / "site/clora_lab/_data"
    assert table == (ROOT / "data/published/toy.csv").read_text(encoding="utf-8")


# Written in pieces, so that this file does not match itself.
PRIVATE = {
    "a path of one machine": "|".join(
        [
            r"(?<![\w.~-])/" + r"(?:home|Users)/(?!jovyan\b)[\w.-]+/",
            r"(?<![\w.~-])/" + r"(?:root|work|workspace|tmp/w)/",
            r"(?<![\w.~-])/[\w./-]+/" + r"site-" + "packages/",
        ]
    ),
    "a package index": "|".join(
        [
            r"py" + r"pi\.(?:org|python)",
            r"python" + r"hosted\.",
            r"registry\." + r"npm",
            r"(?:extra-)?index" + r"-url",
            r"find" + r"-links",
            r"file:" + r"///",
        ]
    ),
}


def leaks(text):
    """What a text gives away, as 'kind: matched text'."""
    own = {str(ROOT), str(Path.home()), sys.prefix} - {"/"}
    found = [f"this machine: {path}" for path in own if f"{path}/" in text]
    for kind, pattern in PRIVATE.items():
        found += [f"{kind}: {match.group()}" for match in re.finditer(pattern, text)]
    return found


def test_no_file_names_a_machine_path_or_a_package_index():
    given_away = {
        name: found
        for name in repository_files()
        if (found := leaks((ROOT / name).read_text(encoding="utf-8", errors="ignore")))
    }
    assert not given_away


@pytest.mark.parametrize(
    "pieces",
    [
        ("/ho", "me/ann/lab/x.py"),
        ("'/ro", "ot/.keras'"),
        ("/opt/v/lib/python3.11/site-", "packages/keras/x.py"),
        ("https://py", "pi.org/simple"),
        ("--extra-index", "-url"),
        (str(ROOT), "/README.md"),
    ],
)
def test_a_leak_is_noticed(pieces):
    assert leaks("see " + "".join(pieces))


def test_ordinary_paths_are_no_leak():
    assert not leaks("docs/homework/x, ~/.keras/data, ../other/keras-home, https://a.b/home/c/")


def test_licence_is_apache_2(project):
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert project["license"] == "Apache-2.0"
    assert re.match(r"\s*Apache License\s+Version 2\.0, January 2004\s", text)
    assert re.findall(r"^ {3}(\d)\. [A-Z]", text, flags=re.MULTILINE) == list("123456789")
    assert "END OF TERMS AND CONDITIONS" in text


def test_citation_names_this_version_and_its_sources(project):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]
    slides, lora = citation["references"]
    assert slides["title"] == "C-LoRA: Compression - Low Rank Adaptation"
    assert [author["alias"] for author in slides["authors"]] == [
        "맹선재",
        "박혜원",
        "양주영",
        "황인준",
    ]
    assert {"type": "other", "value": "arXiv:2106.09685"}.items() <= lora["identifiers"][0].items()


def make(*arguments):
    # What an outer make hands down would change what the inner one does and prints.
    outer = ("MAKE", "MFLAGS")
    env = {key: value for key, value in os.environ.items() if not key.startswith(outer)}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=env, capture_output=True, text=True)


needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


@needs_make
def test_make_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, flags=re.MULTILINE).group(1)
    listing = make()
    assert listing.returncode == 0, listing.stderr
    listed = re.findall(r"^  ([a-z-]+) +\w", listing.stdout, flags=re.MULTILINE)
    assert sorted(listed) == sorted(phony.replace("\\\n", " ").split())


@needs_make
@pytest.mark.parametrize(
    "python, message", [("absent-python", "was not found"), ("python3.9", "3.10, 3.11 or 3.12")]
)
def test_make_refuses_a_python_that_will_not_do(tmp_path, python, message):
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.18\nexit 1\n')
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    run = make("setup", f"PYTHON={tmp_path / python}", f"VENV={tmp_path / 'venv'}")
    assert run.returncode != 0
    assert message in run.stderr and "make PYTHON=" in run.stderr
    assert not (tmp_path / "venv").exists()


def test_ci_script_can_be_executed():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
