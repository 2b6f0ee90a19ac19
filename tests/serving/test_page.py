"""The web page in the real Chromium, against the real edge: what a person sees, hears and types there."""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from serving import page
from serving.http import Edge
from serving.ledger import opened
from serving.live import Live
from serving.settings import Settings
from serving.store import Store
from tests.serving import tiny
from tests.serving.chromium import CHROMIUM, Page, chromium
from tests.serving.conftest import model_store_at

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

TOKEN = "schlüssel-☃"
ANSWERED = "!document.getElementById('answer').hidden && document.getElementById('label').innerText !== '…'"
WIDTHS = (1280, 400)
# a File of the page's own, as the clipboard and a file manager give one
FILE = """
const bytes = Uint8Array.from(atob("{data}"), (c) => c.charCodeAt(0)), transfer = new DataTransfer();
transfer.items.add(new File([bytes], "picture.png", {{ type: "image/png" }}));
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    place = tmp_path_factory.mktemp("page")
    with model_store_at(place / "bentoml"), opened(place / "home") as ledger:
        Store(place / "home", ledger).publish(tiny.make_artifact(place / "artifact"), "test", "page")
        ledger.promote("colours", 1, who="test", why="page")
        live = Live(place / "home", device="cpu")
        live.refresh()
        assert live.current is not None, live.last_error
        yield live
        live.stop()


@contextmanager
def serving(live: Live, **settings: Any) -> Iterator[str]:
    """The address of the edge, in a thread of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        server = uvicorn.Server(
            uvicorn.Config(Edge(live, Settings(**settings)).app(), log_level="error", lifespan="off")
        )
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def url(live: Live) -> Iterator[str]:
    with serving(live) as address:
        yield address


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Page]]:
    with chromium(tmp_path_factory.mktemp("chromium")) as new:
        yield new


@pytest.fixture
def shown(tab: Callable[[], Page], url: str) -> Iterator[Page]:
    """The page, once it has said which model answers."""
    shown = tab()
    shown.open(f"{url}/ui/")
    yield shown
    shown.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    values = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    values[..., 1] //= 2
    Image.fromarray(values).save(path)
    return path


def asked(url: str, data: bytes, path: str = "/v1/predict") -> dict[str, Any]:
    """What the route itself answers."""
    with urllib.request.urlopen(urllib.request.Request(url + path, data or None), timeout=20) as response:
        found: dict[str, Any] = json.load(response)
        return found


def percent(probability: float) -> str:
    return f"{100 * probability:.1f} %"


def check_answer(shown: Page, url: str, picture: Path) -> None:
    """The page says what the route says about that picture, and shows it."""
    shown.wait(ANSWERED)
    expected = asked(url, picture.read_bytes())
    assert shown.text("label") == f"{expected['label']}, {percent(expected['probability'])}"
    found = shown.value("[...document.querySelectorAll('#scores tr')].map((row) => row.innerText.split(/\\s+/, 2))")
    assert found == [[s["label"], percent(s["probability"]).split()[0]] for s in expected["scores"]]
    bars = shown.value("[...document.querySelectorAll('#scores progress')].map((bar) => bar.value)")
    assert bars == pytest.approx([score["probability"] for score in expected["scores"]])
    about = f"colours:1 ({expected['model']['digest'][:12]}), request "
    assert re.fullmatch(re.escape(about) + "[0-9a-f]{32}", shown.text("by"))
    shown.wait("document.getElementById('picture').naturalWidth === 90")
    assert shown.text("how") == "Rule: the likeliest class"


# --- a person's ways to send a picture ----------------------------------------------------------------


def test_the_page_says_which_model_answers(shown: Page, url: str) -> None:
    model = asked(url, b"", "/v1/model")
    assert shown.text("name") == model["name"] == "colours"
    assert shown.text("about") == "version 1, PASSED, on cpu: red, green, blue"
    assert not shown.value("document.getElementById('answer').checkVisibility()"), "nothing was asked yet"
    assert not shown.value("document.getElementById('key').checkVisibility()"), "no token is needed"


def test_a_chosen_file_is_answered(shown: Page, url: str, picture: Path) -> None:
    shown.choose(picture)
    check_answer(shown, url, picture)


def test_the_same_file_can_be_chosen_again_and_another_after_it(shown: Page, url: str, picture: Path) -> None:
    shown.choose(picture)
    check_answer(shown, url, picture)
    first = shown.text("by")
    shown.choose(picture)
    shown.wait(
        f"document.getElementById('by').innerText.length > 50 && document.getElementById('by').innerText !== {first!r}"
    )
    red = picture.with_name("red.png")
    Image.new("RGB", (90, 10), (250, 0, 0)).save(red)
    shown.choose(red)
    shown.wait("document.getElementById('label').innerText.startsWith('red, ')")
    check_answer(shown, url, red)


def file_of(picture: Path) -> str:
    return FILE.format(data=base64.b64encode(picture.read_bytes()).decode())


def test_a_pasted_picture_is_answered(shown: Page, url: str, picture: Path) -> None:
    event = 'document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true }))'
    shown.value(f"{{{file_of(picture)}{event}}}")
    check_answer(shown, url, picture)


def test_a_dropped_picture_is_answered(shown: Page, url: str, picture: Path) -> None:
    """And the browser does not go to the file, as it would by itself."""
    file, init = file_of(picture), "{{ dataTransfer: transfer, bubbles: true, cancelable: true }}"
    drag = f'document.querySelector("h1").dispatchEvent(new DragEvent("{{}}", {init}))'
    assert shown.value(f"{{{file}{drag.format('dragover')}}}") is False, "prevented: a drop is welcome"
    assert shown.value("document.getElementById('drop').classList.contains('over')")
    shown.value(f"{{{file}{drag.format('dragleave')}}}")
    assert not shown.value("document.getElementById('drop').classList.contains('over')")
    shown.value(f"{{{file}{drag.format('dragover')}}}")
    assert shown.value(f"{{{file}{drag.format('drop')}}}") is False
    assert not shown.value("document.getElementById('drop').classList.contains('over')")
    check_answer(shown, url, picture)
    assert shown.value("location.pathname") == "/ui/"


@pytest.mark.parametrize("event", ["ClipboardEvent('paste'", "DragEvent('drop'"])
def test_text_that_is_pasted_or_dropped_is_no_picture_and_no_error(shown: Page, event: str) -> None:
    init = "{ clipboardData: transfer, dataTransfer: transfer, bubbles: true, cancelable: true }"
    shown.value(
        f"{{const transfer = new DataTransfer(); transfer.setData('text/plain', 'words');"
        f"document.body.dispatchEvent(new {event}, {init}))}}"
    )
    assert not shown.value("document.getElementById('answer').checkVisibility()")
    assert shown.complaints() == []


def test_the_last_picture_wins_over_an_earlier_that_is_answered_later(shown: Page, url: str, picture: Path) -> None:
    """The first answer is held back in the page until the second one has come."""
    shown.value(
        "{ const real = fetch; let first = true; window.fetch = async (...given) => {"
        " const held = first; first = false; const answer = await real(...given);"
        " if (held) await new Promise((go) => { window.release = go; }); return answer; } }"
    )
    red = picture.with_name("red.png")
    Image.new("RGB", (90, 10), (250, 0, 0)).save(red)
    shown.choose(red)
    shown.wait("window.release !== undefined")
    shown.choose(picture)
    check_answer(shown, url, picture)
    before = shown.text("by")
    shown.value("release()")
    time.sleep(0.2)
    assert shown.text("by") == before


# --- what goes wrong ----------------------------------------------------------------------------------


def test_what_is_no_picture_shows_the_servers_message(shown: Page, url: str, picture: Path) -> None:
    words = picture.with_name("words.png")
    words.write_text("words")
    shown.choose(words)
    shown.wait(ANSWERED)
    with pytest.raises(urllib.error.HTTPError) as refused:
        asked(url, b"words")
    message = json.load(refused.value)["error"]["message"]
    assert "expected JPEG, PNG" in message
    assert shown.text("label") == message
    assert shown.value("document.querySelectorAll('#scores tr').length") == 0
    shown.choose(picture)
    shown.wait("document.querySelectorAll('#scores tr').length > 0")
    check_answer(shown, url, picture)
    assert not shown.value("document.getElementById('label').classList.contains('bad')")


def test_a_picture_that_is_too_large_shows_the_servers_message(shown: Page, picture: Path) -> None:
    """The server refuses by the declared length, while the body is still being sent."""
    large = picture.with_name("large.png")
    large.write_bytes(picture.read_bytes() + bytes(11 * 2**20))
    shown.choose(large)
    shown.wait(ANSWERED)
    assert shown.text("label") == "expected at most 10485760 bytes: send a smaller picture"


def test_a_server_that_is_gone_is_said(tab: Callable[[], Page], live: Live, picture: Path) -> None:
    with serving(live) as address:
        shown = tab()
        shown.open(f"{address}/ui/")
    shown.choose(picture)
    shown.wait(ANSWERED)
    assert shown.text("label") == "The server did not answer. Is it still running?"
    shown.close()


def test_before_the_first_promotion_it_says_so(tab: Callable[[], Page], tmp_path: Path, picture: Path) -> None:
    with serving(Live(tmp_path / "no home")) as address:
        shown = tab()
        shown.open(f"{address}/ui/")
        assert shown.text("about") == "no model was promoted yet: `thaw promote NAME:VERSION`"
        shown.choose(picture)
        shown.wait(ANSWERED)
        assert shown.text("label") == shown.text("about")
        shown.close()


def test_with_a_token_the_page_asks_for_it_and_works_once_it_is_typed(
    tab: Callable[[], Page], live: Live, picture: Path
) -> None:
    """Any UTF-8 may be a token; the page keeps it nowhere."""
    with serving(live, api_token=TOKEN) as address:
        shown = tab()
        shown.open(f"{address}/ui/")
        assert shown.value("document.getElementById('key').checkVisibility()")
        assert shown.text("about") == "expected Authorization: Bearer with the server's token"
        for token in ("wrong", TOKEN):
            shown.value("document.getElementById('token').select()")
            shown.type(token)
            shown.press("Enter", 13, text="\r")
            wanted = "version 1, " if token == TOKEN else "expected Authorization"
            shown.wait(f"document.getElementById('about').innerText.startsWith('{wanted}')")
        shown.choose(picture)
        shown.wait("document.querySelectorAll('#scores tr').length === 3")
        assert shown.text("label").startswith(("red, ", "green, ", "blue, "))
        assert shown.value("document.getElementById('token').type") == "password"
        assert TOKEN not in shown.value("document.documentElement.outerHTML + document.cookie + location.href")
        assert shown.value("localStorage.length + sessionStorage.length") == 0
        shown.close()


def test_without_the_right_token_a_picture_is_not_answered(tab: Callable[[], Page], live: Live, picture: Path) -> None:
    with serving(live, api_token=TOKEN) as address:
        shown = tab()
        shown.open(f"{address}/ui/")
        shown.choose(picture)
        shown.wait(ANSWERED)
        assert shown.text("label") == "expected Authorization: Bearer with the server's token"
        shown.close()


# --- keyboard, screen reader, width -------------------------------------------------------------------


def test_the_keyboard_reaches_the_file_field_and_shows_where_it_is(shown: Page) -> None:
    outline = "getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert shown.value(outline) == "none"
    shown.tab()
    assert shown.value("document.activeElement.id") == "file"
    assert shown.value(outline) == "solid"
    assert shown.value("parseFloat(getComputedStyle(document.getElementById('drop')).outlineWidth)") >= 2
    shown.tab()
    assert shown.value("document.activeElement.id") != "file", "no trap"
    shown.tab(back=True)
    assert shown.value("document.activeElement.id") == "file"


def test_the_space_bar_opens_the_file_dialog(shown: Page, url: str, picture: Path) -> None:
    shown.call("Page.setInterceptFileChooserDialog", enabled=True)
    shown.tab()
    shown.press(" ", 32, text=" ")
    shown.wait("true")
    deadline = time.monotonic() + 5
    while not (opened := [told for method, told in shown.events if method == "Page.fileChooserOpened"]):
        assert time.monotonic() < deadline
        shown.value("0")
    shown.call("DOM.setFileInputFiles", backendNodeId=opened[0]["backendNodeId"], files=[str(picture)])
    check_answer(shown, url, picture)


def test_the_token_comes_before_the_file_field(tab: Callable[[], Page], live: Live) -> None:
    with serving(live, api_token=TOKEN) as address:
        shown = tab()
        shown.open(f"{address}/ui/")
        order = []
        for _ in range(2):
            shown.tab()
            order.append(shown.value("document.activeElement.id"))
        assert order == ["token", "file"]
        names = {node["role"]: node["name"] for node in shown.tree() if node.get("focusable")}
        assert names["textbox"] == "Access token"
        shown.close()


def test_everything_has_a_name_for_a_screen_reader(shown: Page, url: str, picture: Path) -> None:
    shown.choose(picture)
    check_answer(shown, url, picture)
    tree = shown.tree()
    named = {node["role"]: node["name"] for node in tree}
    assert named["RootWebArea"] == "Thaw"
    assert named["main"] == ""
    assert named["heading"] == "colours"
    assert named["button"] == "Drop a picture here, paste one, or choose a file"
    assert named["image"] == "The picture you sent"
    assert [node["name"] for node in tree if node["role"] == "rowheader"] == [
        score["label"] for score in asked(url, picture.read_bytes())["scores"]
    ]
    assert all(node["name"] for node in tree if node.get("focusable") and node["role"] != "RootWebArea")
    assert "progressindicator" not in {node["role"].lower() for node in tree}, "the figure beside the bar says it"
    assert shown.value("document.documentElement.lang") == "en"


def test_answers_and_errors_are_announced(shown: Page, url: str, picture: Path) -> None:
    """What changes stands in live regions, and those are in the page before they change."""
    live = [node for node in shown.tree() if node.get("live") == "polite"]
    assert [node["role"] for node in live] == ["status"]
    assert live[0].get("atomic") is True
    shown.choose(picture)
    check_answer(shown, url, picture)
    assert shown.value("document.getElementById('label').closest('[aria-live=polite]').id") == "answer"
    (said,) = [node for node in shown.tree() if node["name"] == shown.text("label") and node["role"] == "StaticText"]
    assert said
    spoken = [node for node in shown.tree() if node.get("live") == "polite"]
    assert len(spoken) == 2


def test_the_picture_is_described_even_when_it_cannot_be_shown(shown: Page, picture: Path) -> None:
    words = picture.with_name("words.png")
    words.write_text("words")
    shown.choose(words)
    shown.wait(ANSWERED)
    assert [node["name"] for node in shown.tree() if node["role"] == "image"] == ["The picture you sent"]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(shown: Page, url: str, picture: Path, width: int, scheme: str) -> None:
    shown.resize(width, 900)
    shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    shown.choose(picture)
    check_answer(shown, url, picture)
    overflow = "Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert shown.value("innerWidth") == width
    assert shown.value(overflow) <= width
    shown.value("document.querySelector('#scores th').textContent = 'W'.repeat(80)")
    shown.value("document.getElementById('label').textContent = 'W'.repeat(80)")
    shown.value("document.getElementById('by').textContent = 'w'.repeat(200)")
    shown.value("document.getElementById('name').textContent = 'w'.repeat(64)")
    assert shown.value(overflow) <= width, "long names are broken"
    body, ground = shown.value(
        "[getComputedStyle(document.body).color, getComputedStyle(document.documentElement).colorScheme]"
    )
    assert ground == "light dark"
    assert (body == "rgb(255, 255, 255)") == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(shown: Page, scheme: str) -> None:
    """WCAG's contrast of 4.5 for words and 3 for lines, on the scheme's own white or near-black."""
    shown.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    root = "getComputedStyle(document.documentElement).getPropertyValue('--{}')"
    ground = "#ffffff" if scheme == "light" else "#121212"
    assert contrast(shown.value(root.format("bad")), ground) >= 4.5
    for name in ("line", "accent"):
        assert contrast(shown.value(root.format(name)), ground) >= 3


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        channels = np.array([int(colour.strip()[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


# --- what the page may do -----------------------------------------------------------------------------


def test_no_request_leaves_the_origin_and_nothing_is_complained_about(shown: Page, url: str, picture: Path) -> None:
    shown.choose(picture)
    check_answer(shown, url, picture)
    requests = shown.requests()
    assert {f"{url}/ui/", f"{url}/v1/model", f"{url}/v1/predict"} <= set(requests)
    assert all(request.startswith((f"{url}/", f"blob:{url}/")) for request in requests)
    assert shown.complaints() == []


INJECTED = {
    "a script": "document.body.append(Object.assign(document.createElement('script'), { text: 'window.ran = 1' }))",
    "a handler": "document.body.insertAdjacentHTML('beforeend', '<img src=\"blob:x\" onerror=\"window.ran = 1\">')",
    "a frame": "document.body.append(Object.assign(document.createElement('iframe'), { src: 'data:text/html,x' }))",
    "a picture from elsewhere": "document.body.append(Object.assign(new Image(), { src: 'http://127.0.0.2:9/x.png' }))",
    "a request elsewhere": "fetch('http://127.0.0.2:9/x').catch(() => 0)",
    "code in a text": "(() => { try { setTimeout('window.ran = 1', 0) } catch { } })()",
}


@pytest.mark.parametrize("what", INJECTED)
def test_the_policy_stops(shown: Page, what: str) -> None:
    shown.value(INJECTED[what])
    deadline = time.monotonic() + 10
    while not any("Content Security Policy" in text for text in shown.complaints()):
        assert time.monotonic() < deadline, shown.complaints()
        time.sleep(0.05)
    assert shown.value("window.ran") is None
    finished = [told["requestId"] for method, told in shown.events if method == "Network.responseReceived"]
    sent = {told["requestId"]: told["request"]["url"] for method, told in shown.events
            if method == "Network.requestWillBeSent"}  # fmt: skip
    assert not any("127.0.0.2" in sent.get(number, "") for number in finished)


def test_no_other_page_may_frame_it(tab: Callable[[], Page], url: str, tmp_path: Path) -> None:
    (tmp_path / "frame.html").write_text(f'<!doctype html><p id="about">x</p><iframe src="{url}/ui/"></iframe>')
    shown = tab()
    shown.open((tmp_path / "frame.html").as_uri())
    deadline = time.monotonic() + 10
    while not any("frame-ancestors" in text for text in shown.complaints()):
        assert time.monotonic() < deadline, shown.complaints()
        time.sleep(0.05)
    shown.close()


def test_the_policy_names_the_page_s_own_script_and_style(url: str) -> None:
    with urllib.request.urlopen(f"{url}/ui/", timeout=20) as response:
        assert response.read().decode() == page.HTML
        policy = response.headers["Content-Security-Policy"]
    assert policy.count("'sha256-") == 2
    assert "unsafe" not in policy
