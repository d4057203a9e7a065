"A headless Chromium with WebGL in software, and the servers that it visits."
import os, secrets, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from contextlib import contextmanager
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--no-sandbox --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync "
         "--use-gl=angle --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist").split()

def _free_port():
    with socket.socket() as s: s.bind(("127.0.0.1", 0)); return s.getsockname()[1]

def _answers(url):
    try: urllib.request.urlopen(url, timeout=2); return True
    except urllib.error.HTTPError as e: return e.code < 500
    except OSError: return False

@contextmanager
def served(root, *command, path="", env=None):
    "The address of a server that was started in a folder, once it answers; it is stopped at the end."
    port = _free_port()
    log = open(Path(root)/f"server-{port}.log", "w+")
    process = subprocess.Popen([sys.executable, "-m", *[c.format(port=port, root=root) for c in command]], cwd=root, stdout=log, stderr=log, env=dict(os.environ, OMP_NUM_THREADS="1", **(env or {})))
    try:
        until = time.monotonic() + 60
        while not _answers(f"http://127.0.0.1:{port}/{path}"):
            if process.poll() is not None or time.monotonic() > until: log.seek(0); raise RuntimeError(f"the server did not start:\n{log.read()[-3000:]}")
            time.sleep(.2)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        try: process.wait(20)
        except subprocess.TimeoutExpired: process.kill()
        log.close()

@contextmanager
def jupyterlab(root):
    "JupyterLab in a folder: a function from a notebook's name to its address."
    token = secrets.token_hex(8)
    arguments = ["jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port={port}", f"--IdentityProvider.token={token}", "--ServerApp.root_dir={root}",
                 "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with served(root, *arguments, path=f"api?token={token}", env=dict(JUPYTERLAB_SETTINGS_DIR=str(Path(root)/"settings"), JUPYTERLAB_WORKSPACES_DIR=str(Path(root)/"workspaces"))) as address:
        yield lambda notebook: f"{address}lab/tree/{notebook}?token={token}&reset"

@contextmanager
def voila(root, notebook):
    "A notebook served by Voilà: its address."
    with served(root, "voila", notebook, "--no-browser", "--port={port}", "--Voila.ip=127.0.0.1", path="static/") as address: yield address

@contextmanager
def browser(profile, width=1280, height=1600, **options):
    "A page of a browser, and the list of what its console complains about."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(str(profile), executable_path=CHROMIUM, headless=True, viewport=dict(width=width, height=height), args=FLAGS, accept_downloads=True, **options)
        page, complaints = context.pages[0], []
        page.on("console", lambda m: complaints.append(f"{m.text} {m.location.get('url', '')}") if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(f"page error: {e}"))
        yield page, complaints
        context.close()

def run_all(page, address):
    "Open a notebook in JupyterLab and run it."
    page.goto(address, timeout=120_000)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=90_000)
    page.wait_for_function("document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status === 'idle'", timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).first.click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

def until_shown(load, awaited, timeout, tries=3):
    "Load a page until something is shown (ms for each try): JupyterLab may lose the order to run everything while it still connects to the kernel."
    from playwright.sync_api import TimeoutError
    for left in reversed(range(tries)):
        load()
        try: return awaited.wait_for(timeout=timeout)
        except TimeoutError:
            if not left: raise
