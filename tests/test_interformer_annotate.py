"""The annotation page: its server by hand, and the page in a real browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from eager_session import EagerSession
from PIL import Image

from edge import checkpoints
from edge.cli import invoke
from edge.errors import UsageError
from edge.families.base import Source, find
from edge.families.interformer import samples, server
from edge.families.interformer.interact import Interaction, encode
from edge.families.interformer.server import Page

HELD_OUT, _ = samples.read(checkpoints.demo_folder("interformer") / "samples.npz")


@contextmanager
def serving(page: Page) -> Iterator[str]:
    """The page's address while it is served by a thread of this process."""
    ready: Queue[str] = Queue()
    made: list[server.ThreadingHTTPServer] = []

    class Stoppable(server.ThreadingHTTPServer):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    original, server.ThreadingHTTPServer = server.ThreadingHTTPServer, Stoppable  # type: ignore[misc]
    thread = threading.Thread(target=server.serve, args=(page, 0, ready.put))
    thread.start()
    try:
        yield ready.get(timeout=10)
    finally:
        server.ThreadingHTTPServer = original  # type: ignore[misc]
        made[0].shutdown()
        thread.join()


@pytest.fixture
def page(tmp_path: Path) -> Page:
    session = EagerSession(find("interformer")[0].load("interformer", None, Source()))
    picture = HELD_OUT.pictures[0]
    return Page(Interaction(session.run, encode(session.run, picture, (128, 128)), 3), picture, tmp_path / "mask.png")


def ask(address: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_by_hand(page: Page, tmp_path: Path) -> None:
    with serving(page) as address:
        assert address.startswith("http://127.0.0.1:")
        assert b"<title>edge annotate</title>" in ask(address)[1]
        status, body = ask(address + "click", {"x": 60, "y": 30, "positive": True})
        state = json.loads(body)
        assert status == 200 and state["clicks"] == [{"x": 60, "y": 30, "positive": True}]
        assert state["pixels"] == np.count_nonzero(page.interaction.mask) and state["error"] is None
        status, body = ask(address + "click", {"x": 128, "y": 30, "positive": True})
        assert status == 400 and "outside the image of 128x128" in json.loads(body)["error"]
        assert json.loads(ask(address + "save", {})[1])["saved"] == str(tmp_path / "mask.png")
        assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, page.interaction.mask)
        assert json.loads(ask(address + "undo", {})[1])["clicks"] == []
        for name in ("picture.png", "overlay.png", "mask.png"):
            assert ask(address + name)[1][:4] == b"\x89PNG"


def test_what_the_server_refuses(page: Page) -> None:
    click = {"x": 1, "y": 1, "positive": True}
    with serving(page) as address:
        assert ask(address + "click", click, Host="evil.example:80")[0] == 403
        assert ask(address + "click", click, Origin="http://evil.example")[0] == 403
        assert ask(address + "click", click, **{"Content-Type": "text/plain"})[0] == 415
        assert ask(address + "click", b" " * 5000)[0] == 413
        assert ask(address + "click", b"{")[0] == 400 and ask(address + "click", {"x": "1"})[0] == 400
        assert ask(address + "elsewhere")[0] == 404 and ask(address + "elsewhere", {})[0] == 404
        port = int(address.rpartition(":")[2].rstrip("/"))
        with pytest.raises(UsageError, match=f"port {port} cannot be used"):
            server.serve(page, port, print)
    assert not page.interaction.clicks


def test_a_bundle_that_cannot_be_clicked_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["annotate", str(tmp_path / "none.edge"), "picture.png"]) == 2
    assert "none.edge" in capsys.readouterr().err


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """A person's way: click the object, click beside it, take it back, save."""
    from selenium import webdriver
    from selenium.webdriver import ActionChains
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    bundle, picture, mask = tmp_path / "both.edge", tmp_path / "scene.png", tmp_path / "out.png"
    Image.fromarray(HELD_OUT.pictures[0]).resize((384, 384)).save(picture)
    assert invoke(["export", "interformer", "--target", "cpu", "--runtime", "onnx", "--quantize", "fp32", "-o", str(bundle)]) == 0
    annotate = subprocess.Popen(
        [sys.executable, "-c", "from edge.cli import main; main()", "annotate", str(bundle), str(picture), "-o", str(mask), "--no-browser"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    options = webdriver.ChromeOptions()
    # A container has neither user namespaces for the sandbox nor much shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,700", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(argument)
    program = shutil.which("chromedriver")
    assert program is not None, "the browser test needs Debian's chromium and chromium-driver"
    try:
        assert annotate.stdout is not None
        address = next(word for word in annotate.stdout.readline().split() if word.startswith("http://"))
        browser = webdriver.Chrome(options, Service(program))
        try:
            wait = WebDriverWait(browser, 30)

            def status(text: str) -> None:
                wait.until(lambda found: found.find_element(By.ID, "status").text.startswith(text))

            browser.get(address)
            status("0 clicks")
            shown = browser.find_element(By.ID, "picture")
            assert shown.get_property("naturalWidth") == 384
            ActionChains(browser).move_to_element_with_offset(shown, -60, 20).click().perform()
            status("1 click, ")
            ActionChains(browser).move_to_element_with_offset(shown, 100, 100).context_click().perform()
            status("2 clicks, ")
            dots = browser.find_elements(By.CLASS_NAME, "dot")
            assert [dot.get_attribute("class") for dot in dots] == ["dot positive", "dot negative"]
            clicks = browser.execute_script("return last.clicks")
            scale = shown.size["width"] / 384
            assert clicks[0]["x"] == pytest.approx(192 - 60 / scale, abs=2) and clicks[0]["y"] == pytest.approx(192 + 20 / scale, abs=2)
            assert clicks[0]["positive"] and not clicks[1]["positive"]
            browser.find_element(By.ID, "undo").click()
            status("1 click, ")
            pixels = browser.execute_script("return last.pixels")
            browser.find_element(By.ID, "save").click()
            status("saved ")
            assert np.count_nonzero(np.asarray(Image.open(mask))) == pixels
            assert browser.find_element(By.ID, "overlay").get_property("naturalWidth") == 384
            assert browser.find_element(By.ID, "error").text == ""
            errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "favicon" not in entry["message"]]
            assert not errors
        finally:
            browser.quit()
        annotate.terminate()
        assert annotate.wait(timeout=30) == 143
    finally:
        annotate.kill()
        annotate.wait()
        assert annotate.stdout is not None
        annotate.stdout.close()
