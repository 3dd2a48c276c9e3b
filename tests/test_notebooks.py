"""The notebooks: pairs in step, outputs fresh and clean, one form for all, and each runs as in Colab.

Each notebook runs by nbval in quick mode in a folder of its own that holds nothing but the .ipynb, with
the package from a freshly built wheel and every connection to the network refused and noted.
"""

import ast
import base64
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import jupytext
import nbformat
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))
MAX_BYTES = 1_200_000
MAX_LINES = 14  # of a function that is defined in a notebook; longer ones belong into the package
RUN_SECONDS = 900

each = pytest.mark.parametrize("source", SOURCES, ids=[source.stem for source in SOURCES])


def load_build():
    """notebooks/build.py, which is a script and no package."""
    spec = importlib.util.spec_from_file_location("build", NOTEBOOKS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def executed(source):
    path = source.with_suffix(".ipynb")
    assert path.exists(), f"{path.name} is missing: make notebooks NOTEBOOKS=notebooks/{source.name}"
    return nbformat.read(path, as_version=4)


def tags(cell):
    return cell.metadata.get("tags", [])


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in tags(cell)]


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def repository():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def test_there_are_notebooks():
    assert [source.stem for source in SOURCES][:2] == ["01_lora", "02_weight_decay_scheduling"]


# --- the pair -----------------------------------------------------------------------------------


@each
def test_pair_is_in_step_and_not_stale(source):
    notebook = executed(source)
    remedy = f"make notebooks NOTEBOOKS=notebooks/{source.name}"
    written = [(cell.cell_type, cell.source, tags(cell)) for cell in jupytext.read(source).cells]
    stored = [(cell.cell_type, cell.source, tags(cell)) for cell in notebook.cells]
    assert stored == written, remedy
    assert notebook.metadata["clora_lab"]["source_sha256"] == build.digest(source), remedy


@each
def test_every_cell_was_executed_in_order(source):
    cells = [cell for cell in executed(source).cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_outputs_are_clean(source):
    notebook = executed(source)
    assert source.with_suffix(".ipynb").stat().st_size < MAX_BYTES
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
        text = str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
        found = re.findall(r"(?<![\w.~-])/(?:home|root|work|tmp|usr|opt|Users|content)/\S*", text)
        assert not found, f"a path of one machine: {found}"


@each
def test_every_picture_has_a_description_and_fits(source):
    pictures = [output for output in outputs(executed(source)) if "image/png" in output.get("data", {})]
    assert pictures
    for picture in pictures:
        assert len(picture.metadata["image/png"]["alt"]) > 30
        width = struct.unpack(">I", base64.b64decode(picture.data["image/png"])[16:20])[0]
        assert 600 <= width <= 2000


# --- the form -----------------------------------------------------------------------------------


@each
def test_opening(source):
    cells = executed(source).cells
    first = cells[0].source
    assert re.match(rf"# {source.stem[:2]} · .*[가-힣]", first), "number and title with a Korean gloss"
    for part in ("**You will learn**", "**Time**", "laptop", "Colab"):
        assert part in first
    assert re.search(r"\*\*(It needs|You need)\*\*", first)
    owner = repository().removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{owner}/blob/main/notebooks/{source.stem}.ipynb"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    assert f"[![Open in Colab]({badge})]({link})" in first
    assert tags(cells[1]) == ["setup"]
    assert re.search(r'^RUN = "recorded"', cells[2].source, flags=re.MULTILINE)


@each
def test_set_up_cell_is_the_same_everywhere_and_names_the_repository(source):
    (setup,) = tagged(executed(source), "setup")
    (model,) = tagged(executed(SOURCES[0]), "setup")
    assert setup.source == model.source, "run: make format"
    assert f'"git+{repository()}"' in setup.source
    assert len(re.findall(r"https?://", setup.source)) == 1


@each
def test_exercises(source):
    notebook = executed(source)
    kinds = [
        tag for cell in notebook.cells for tag in tags(cell) if tag in ("exercise", "student", "solution")
    ]
    order = "".join(kind[1] for kind in kinds)  # exercise -> x, student -> t, solution -> o
    assert re.fullmatch(r"(x+t+o+){4,}", order), f"exercise, student, solution, in this order: {kinds}"
    for cell in tagged(notebook, "student"):
        assert "# Your code here" in cell.source
    solutions = [cell for cell in tagged(notebook, "solution") if cell.cell_type == "code"]
    assert all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions)
    checked = sum("assert" in cell.source for cell in solutions)
    assert checked >= order.count("xt"), "every solution checks itself"


@each
def test_asks_to_predict_first(source):
    text = "\n".join(cell.source for cell in executed(source).cells if cell.cell_type == "markdown")
    assert re.search(r"[Pp]redict first", text)
    assert re.search(r"^## .*Summary", text, flags=re.MULTILINE)


@each
def test_definitions_live_in_the_package(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def links(text):
    """Targets of Markdown links that are no addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in targets if not re.match(r"[a-z]+:|#", target)]


@pytest.mark.parametrize("path", [*SOURCES, NOTEBOOKS / "README.md"], ids=lambda path: path.stem)
def test_links_inside_the_course_hold(path):
    missing = [
        target
        for target in links(path.read_text(encoding="utf-8"))
        if not (NOTEBOOKS / target.split("#")[0]).exists()
    ]
    assert not missing


def test_start_page_names_every_notebook():
    page = (NOTEBOOKS / "README.md").read_text(encoding="utf-8")
    assert {f"{source.stem}.ipynb" for source in SOURCES} <= set(links(page))


# --- hand-outs ----------------------------------------------------------------------------------


def test_hand_outs_with_and_without_solutions(tmp_path):
    build.exercises(tmp_path)
    for source in SOURCES:
        whole = executed(source)
        student, teacher = (
            nbformat.read(tmp_path / kind / f"{source.stem}.ipynb", as_version=4)
            for kind in ("student", "teacher")
        )
        assert not tagged(student, "solution") and tagged(student, "student")
        assert not tagged(teacher, "student") and tagged(teacher, "solution")
        for notebook, missing in ((student, "solution"), (teacher, "student")):
            kept = [cell.source for cell in whole.cells if missing not in tags(cell)]
            assert [cell.source for cell in notebook.cells] == kept


def test_of_the_outputs_only_bars_of_progress_are_left_out(tmp_path):
    source = tmp_path / "01_bars.py"
    source.write_text(
        "# %%\nimport sys\nfrom clora_lab.course import notebook\n"
        "bar = notebook.progress('training')\nbar.set_params({'epochs': 2})\n"
        "bar.on_train_begin()\nbar.on_train_end()\nprint('mind this', file=sys.stderr)\n"
    )
    written = nbformat.read(build.run(source), as_version=4)
    assert [output.get("text") for output in outputs(written)] == ["mind this\n"]


# --- each runs by itself ------------------------------------------------------------------------

GUARD = '''
"""Refuses every connection that leaves this machine, and notes it."""
import ipaddress
import os
import socket


def _refuse(where):
    with open(os.environ["CLORA_TEST_NETWORK_LOG"], "a") as log:
        log.write(f"{where}\\n")
    raise OSError(f"the network is closed in this test: {where}")


def _guarded(function):
    def connect(self, address):
        if isinstance(address, tuple):
            host = address[0]
            try:
                local = ipaddress.ip_address(host).is_loopback
            except ValueError:
                local = host in ("localhost", "")
            if not local:
                _refuse(address)
        return function(self, address)

    return connect


def _resolve(host, *arguments, _resolver=socket.getaddrinfo, **settings):
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", socket.gethostname()):
        _refuse(host)
    return _resolver(host, *arguments, **settings)


socket.socket.connect = _guarded(socket.socket.connect)
socket.socket.connect_ex = _guarded(socket.socket.connect_ex)
socket.getaddrinfo = _resolve
'''


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """A folder with the package as its wheel installs it; the build leaves nothing in the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("clora_lab", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--wheel-dir", source, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


@pytest.fixture
def alone(tmp_path, site):
    """(folder, environment) of a reader who has the package, no checkout and no network."""
    guard, folder, home = tmp_path / "guard", tmp_path / "folder", tmp_path / "home"
    for made in (guard, folder, home):
        made.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD, encoding="utf-8")
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CLORA_", "PYTEST", "KERAS_HOME", "PYTHON"))
    }
    env = {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(guard), str(site)]),
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "CLORA_CACHE": os.environ["CLORA_CACHE"],  # of this test session: dense nets are trained once
        "CLORA_RUN": "quick",
        "CLORA_DATASET": "digits",
        "CLORA_OFFLINE": "1",
        "CLORA_TEST_NETWORK_LOG": str(tmp_path / "network.log"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    return folder, env


def nbval(path, env):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax"]
    return subprocess.run(
        [*command, "--nbval-current-env", "--nbval-cell-timeout=600", "--rootdir=.", path.name],
        cwd=path.parent,
        env=env,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )


@pytest.mark.slow
@pytest.mark.timeout(RUN_SECONDS + 60)
@each
def test_notebook_runs_alone_in_quick_mode(source, alone):
    folder, env = alone
    notebook = shutil.copy(source.with_suffix(".ipynb"), folder)
    done = nbval(Path(notebook), env)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    log = Path(env["CLORA_TEST_NETWORK_LOG"])
    assert not log.exists(), f"touched the network: {log.read_text()}"


def test_lonely_notebook_uses_the_wheel_and_has_no_network(alone):
    folder, env = alone
    code = (
        "import clora_lab, urllib.request\n"
        "print(clora_lab.__file__)\n"
        "try:\n    urllib.request.urlopen('http://192.0.2.1', timeout=1)\n"
        "except OSError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    path, refusal = done.stdout.strip().splitlines()
    assert Path(path).is_relative_to(env["PYTHONPATH"].split(os.pathsep)[1])
    assert "the network is closed in this test" in refusal
    assert "192.0.2.1" in Path(env["CLORA_TEST_NETWORK_LOG"]).read_text()


@pytest.mark.parametrize("stored, passes", [("42\n", True), ("43\n", False)])
def test_tagged_outputs_are_compared(alone, stored, passes):
    folder, env = alone
    cell = nbformat.v4.new_code_cell("print(6 * 7)", metadata={"tags": ["nbval-check-output"]})
    cell.outputs = [nbformat.v4.new_output("stream", text=stored)]
    cell.execution_count = 1
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "one.ipynb")
    done = nbval(folder / "one.ipynb", env)
    assert (done.returncode == 0) == passes, done.stdout + done.stderr


def test_every_notebook_has_outputs_to_compare():
    for source in SOURCES:
        exact = tagged(executed(source), "nbval-check-output")
        assert exact and all(cell.outputs for cell in exact), source.name
