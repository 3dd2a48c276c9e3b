"""The widgets as a reader meets them: JupyterLab on this machine, driven in headless Chromium.

Screenshots are kept in out/browser/. Without Chromium the tests are skipped, under CI=true they fail.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import jupytext
import nbformat
import pytest

pytest.importorskip("selenium")
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
SCREENSHOTS = ROOT / "out" / "browser"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
COURSE = ROOT / "notebooks" / "02_weight_decay_scheduling.py"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
SECONDS = 240  # for one step of a test; the machine may be busy
RUN_SECONDS = 300  # for all the cells of a notebook

if not (CHROMIUM and CHROMEDRIVER):
    reason = "needs Chromium: apt-get install chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--no-proxy-server --window-size=1280,1500"
).split()

# Every widget in one notebook, small enough to run in a few seconds.
CELLS = [
    "from clora_lab.course import widgets\nfrom clora_lab.lab.data import registry as datasets\n"
    "from clora_lab import studies\nfrom clora_lab.lab import bench\nimport numpy as np\n"
    "toy = studies.get('toy')",
    "widgets.schedule_explorer()",
    "widgets.noise_explorer({'laplace': np.random.default_rng(0).laplace(size=(64, 64))})",
    "data = datasets.load('digits')\n"
    "net, _, _ = bench.original_net(toy.run(dataset='digits', method='dense', epochs=4))\n"
    "widgets.rank_explorer(net)",
    "from clora_lab.course import notebook\n"
    "grid = toy.grid(dataset='digits', rank=8, variant='slides', epochs=2)[:4]\n"
    "widgets.results_explorer(*notebook.run_live(grid))",
    "live = widgets.live_training(net, data, epochs=120)\nlive",
]


# --- server and browser -------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def write_notebooks(folder):
    """The notebooks to open: one of the course, not yet executed, and one with every widget."""
    notebook = jupytext.read(COURSE)
    notebook.metadata["kernelspec"] = KERNEL
    nbformat.write(notebook, folder / COURSE.with_suffix(".ipynb").name)
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    metadata = {"kernelspec": KERNEL}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / "all.ipynb")


def write_setting(home, plugin, text):
    path = home / "jupyterlab_settings_dir" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own; a function of a notebook's name."""
    home = tmp_path_factory.mktemp("lab")
    notebooks = home / "notebooks"
    notebooks.mkdir()
    write_notebooks(notebooks)
    folders = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    folders += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    env = {**os.environ, **{name: str(home / name.lower()) for name in folders}}
    env |= {"CLORA_RUN": "quick", "CLORA_DATASET": "digits", "CLORA_OFFLINE": "1"}
    env |= {"PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    env.pop("MPLBACKEND", None)  # a kernel brings its own
    # All cells in the page, also those that can't be seen; no question that covers it.
    write_setting(home, "notebook-extension/tracker", '{"windowingMode": "none"}')
    write_setting(home, "apputils-extension/notification", '{"fetchNews": "false"}')
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={notebooks}"]
    command += ["--LabApp.news_url=None", "--LabApp.extension_manager=readonly"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(home / "server.log", "wb") as log:
        server = subprocess.Popen(command, cwd=home, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for_server(server, f"http://127.0.0.1:{port}/api?token={token}", home / "server.log")
            yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}&reset"
        finally:
            server.terminate()  # it ends its kernels
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_for_server(server, address, log):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + SECONDS
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), direct.open(address, timeout=5):
            return
        time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}", pytrace=False)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    patch = pytest.MonkeyPatch()
    patch.setenv("NO_PROXY", "127.0.0.1,localhost")
    patch.setenv("no_proxy", "127.0.0.1,localhost")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()
    patch.undo()


# --- what a reader does -------------------------------------------------------------------------


class Reader:
    """A reader with a notebook open in JupyterLab."""

    def __init__(self, driver, address, name):
        self.driver, self.name = driver, name
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        driver.get(address)
        self.wait(lambda: self.all(".jp-Notebook .jp-CodeCell"), "the notebook to open")
        self.wait(lambda: not self.all("#jupyterlab-splash"), "JupyterLab to be ready")
        # The indicator above the notebook says "idle" also before there is a kernel.
        self.wait(self._is_idle, "a kernel")

    def all(self, css, inside=None):
        return (inside or self.driver).find_elements(By.CSS_SELECTOR, css)

    def wait(self, condition, what, seconds=SECONDS):
        """The first true value of `condition`; a screenshot and a failure after `seconds`."""
        ignored = (StaleElementReferenceException,)
        waiting = WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=ignored)
        try:
            return waiting.until(lambda driver: condition())
        except TimeoutException:
            self.shoot("failed")
            pytest.fail(f"{self.name}: waited {seconds} s for {what}; see {SCREENSHOTS}/", pytrace=True)

    def shoot(self, what):
        self.driver.save_screenshot(str(SCREENSHOTS / f"{self.name}-{what}.png"))

    def run_all(self):
        """Run → Run All Cells, and wait until every code cell has run; an error in one is a failure."""
        menu = self.driver.find_element(By.XPATH, "//*[@role='menubar']//*[text()='Run']")
        menu.click()
        item = "//*[contains(@class, 'lm-Menu-itemLabel')][text()='Run All Cells']"
        self.wait(lambda: self.driver.find_elements(By.XPATH, item), "the Run menu")[0].click()
        self.wait(self._have_run, "the cells", RUN_SECONDS)

    def _have_run(self):
        stopped_by = "[data-mime-type='application/vnd.jupyter.error'], dialog.jp-Dialog"
        if errors := self.all(stopped_by):
            self.shoot("error")
            pytest.fail(f"{self.name}: a cell failed:\n{errors[0].text[-3000:]}", pytrace=False)
        # A cell below the screen may not be in the page yet; one that is folded or empty has no number.
        script = """return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')].map(cell => {
            const source = cell.querySelector('.cm-content')
            if (cell.querySelector('.jp-Placeholder')) return '[0]:'
            if (source && !source.textContent.trim()) return '[0]:'
            return cell.querySelector('.jp-InputPrompt')?.textContent || '' })"""
        prompts = self.driver.execute_script(script)
        numbered = prompts and all(prompt.strip("[]: ").isdigit() for prompt in prompts)
        return numbered and self._is_idle()

    def _is_idle(self):
        return "| Idle" in self.all("#jp-main-statusbar")[0].text

    def widget(self, label):
        """The widget, controls, picture and all, that has a control with this label."""
        path = f"//label[normalize-space(text())='{label}']/ancestor::*[contains(@class, 'widget-vbox')][1]"
        found = self.wait(lambda: self.driver.find_elements(By.XPATH, path), f"the control {label!r}")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'start'})", found[0])
        return found[0]

    def handle(self, widget, label):
        """The handle of a slider."""
        path = f".//label[normalize-space(text())='{label}']/..//*[contains(@class, 'noUi-handle')]"
        return widget.find_element(By.XPATH, path)

    def picture(self, widget):
        """The displayed bytes of a widget's picture, as text, and its description."""
        script = """const [widget, done] = arguments, image = widget.querySelector('img');
            if (!image || !image.naturalWidth) return done(null);  // not there yet, or not decoded
            fetch(image.src).then(r => r.blob()).then(blob => { const reader = new FileReader();
            const alt = widget.querySelector('.clora-alt').textContent;
            reader.onload = () => done([reader.result, alt, image.naturalWidth]);
            reader.readAsDataURL(blob) }).catch(() => done(null))"""
        # Between two pictures the address of the old one is invalid.
        found = self.wait(lambda: self.driver.execute_async_script(script, widget), "a picture")
        assert found[0].startswith("data:image/png;base64,") and found[2] > 100
        return found[0], found[1]

    def new_picture(self, widget, old):
        """The picture's description, once its bytes are others than `old`."""
        return self.wait(lambda: (now := self.picture(widget))[0] != old and now, "a new picture")[1]

    def press(self, widget, description):
        button = f".//button[contains(normalize-space(.), '{description}')]"
        widget.find_element(By.XPATH, button).click()

    def message(self, widget):
        return " ".join(element.text for element in self.all(".clora-message", widget))


@pytest.fixture
def reader(lab, browser, request):
    def open_notebook(name):
        return Reader(browser, lab(name), Path(name).stem)

    yield open_notebook
    browser.get("about:blank")


def try_schedule_explorer(reader):
    """Key, drag, set absurdly, and reset the sliders of the schedule explorer."""
    widget = reader.widget("end (of all steps)")
    first, title = reader.picture(widget)
    assert "from 5% to 85%" in title
    reader.shoot("schedule")

    handle = reader.handle(widget, "end (of all steps)")
    handle.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    reader.wait(lambda: "to 83%" in reader.picture(widget)[1], "the keys' effect")
    keyed = reader.picture(widget)[0]
    assert keyed != first

    ActionChains(reader.driver).drag_and_drop_by_offset(handle, -40, 0).perform()
    title = reader.new_picture(widget, keyed)
    assert "to 83%" not in title
    reader.shoot("schedule-dragged")

    before = reader.picture(widget)[0]
    reader.handle(widget, "begin (of all steps)").send_keys(Keys.END)
    reader.wait(lambda: "must be smaller than `end`" in reader.message(widget), "the message")
    assert "Move `end`" in reader.message(widget)
    assert reader.picture(widget)[0] != first and "clora-stale" in widget.get_attribute("innerHTML")
    reader.shoot("schedule-absurd")
    reader.handle(widget, "begin (of all steps)").send_keys(Keys.HOME)
    reader.wait(lambda: not reader.message(widget), "the message to vanish")
    reader.new_picture(widget, before)

    reader.press(widget, "Reset")
    reader.wait(lambda: reader.picture(widget)[0] == first, "the first picture again")


def test_course_notebook(reader):
    notebook = reader("02_weight_decay_scheduling.ipynb")
    notebook.run_all()
    try_schedule_explorer(notebook)


def test_every_widget(reader):
    notebook = reader("all.ipynb")
    notebook.run_all()
    try_schedule_explorer(notebook)

    noise = notebook.widget("σ (sd of W)")
    old, title = notebook.picture(noise)
    assert "laplace, d = 0.50" in title
    notebook.shoot("noise")
    notebook.handle(noise, "d (decay)").send_keys(Keys.HOME)
    assert "d = 0.00" in notebook.new_picture(noise, old)
    box = noise.find_elements(By.CSS_SELECTOR, "input[type='number']")[-1]
    box.send_keys(Keys.CONTROL, "a")
    box.send_keys("0")
    notebook.wait(lambda: "must be a number above 0" in notebook.message(noise), "the message")
    notebook.shoot("noise-absurd")

    rank = notebook.widget("rank r")
    old, title = notebook.picture(rank)
    assert "Rank 16 for all layers" in title
    notebook.shoot("rank")
    notebook.handle(rank, "rank r").send_keys(Keys.ARROW_RIGHT)
    assert "Rank 17" in notebook.new_picture(rank, old)
    notebook.handle(rank, "rank r").send_keys(Keys.HOME)
    notebook.wait(lambda: "at least 1" in notebook.message(rank), "the message")

    results = notebook.widget("ratio counted as")
    old, _ = notebook.picture(results)
    notebook.shoot("results")
    choice = results.find_element(By.XPATH, ".//label[text()='metric']/..//select")
    choice.send_keys("loss")
    assert "Loss" in notebook.new_picture(results, old)

    live = notebook.widget("epochs")
    old, _ = notebook.picture(live)
    notebook.press(live, "Start")
    reached = re.compile(r"at epoch (\d+)")
    notebook.wait(
        lambda: (found := reached.search(notebook.picture(live)[1])) and int(found[1]) > 11,
        "twelve epochs",
    )
    notebook.shoot("live")
    notebook.press(live, "Stop")
    notebook.wait(lambda: "Stopped" in live.text, "the training to stop")
    assert notebook.picture(live)[0] != old
    notebook.press(live, "Finalize anyway")
    notebook.wait(lambda: "stock Keras net" in live.text, "the finalized net")
    notebook.shoot("live-stopped")

    ActionChains(notebook.driver).key_down(Keys.CONTROL).send_keys("b").perform()  # no side bar
    notebook.driver.set_window_size(560, 1000)
    try:
        widget = notebook.widget("end (of all steps)")
        inside = notebook.driver.execute_script(
            "const w = arguments[0].getBoundingClientRect();"
            "return [...arguments[0].querySelectorAll('img, .widget-slider')]"
            ".every(e => e.getBoundingClientRect().right <= w.right + 2)", widget,
        )  # fmt: skip
        notebook.shoot("small-screen")
        assert inside, "a control or the picture is wider than the widget"
    finally:
        notebook.driver.set_window_size(1280, 1500)
