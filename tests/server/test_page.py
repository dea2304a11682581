"""The web page in a real browser against a real server: what a newcomer does, by mouse and by keyboard, and what must never
happen: code from a memory, a request to elsewhere, an error in the console, a page wider than a phone."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recollect.server.page import files
from serving import Served

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = playwright.expect

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "no-sandbox disable-gpu disable-quic disable-dev-shm-usage no-first-run "
    "disable-background-networking disable-component-update disable-sync"
)
EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}'
ABOUT = ("tea", "jazz", "chess")
WATCH = """() => {
  window.seen = [];
  const look = () => {
    seen.push(document.querySelector(".job p")?.textContent);
    if (document.querySelector(".job progress")) seen.push("progress");
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no browser: install Debian's chromium")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=[f"--{word}" for word in QUIET.split()])
        yield running
        running.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[..., playwright.Page]]:
    """Open the page of a server; a dialog of JavaScript, an error in the console or a request to elsewhere fails the test."""
    contexts, wrong = [], []

    def open_page(server: Served, *, view: str = "", expected: str = "$none", **options) -> playwright.Page:
        context = browser.new_context(**options)
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: _note(wrong, said.text, said.type in ("error", "warning"), expected))
        page.on("pageerror", lambda error: _note(wrong, str(error), True, expected))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda asked: _note(wrong, asked.url, not asked.url.startswith((server.url, "blob:"))))
        page.goto(f"{server.url}/{view}")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def _note(wrong: list[str], text: str, is_wrong: bool, expected: str = "$none") -> None:
    if is_wrong and not re.search(expected, text):
        wrong.append(text)


def message(name: str, parent: str, role: str, text: str, at: float) -> dict:
    content = {"content_type": "text", "parts": [text]}
    said = {"id": name, "author": {"role": role}, "create_time": at, "content": content, "recipient": "all"}
    return {"id": name, "message": said, "parent": parent, "children": []}


def chatgpt_export() -> str:
    """An export of three conversations: one day each, in May, June and July 2024."""
    conversations = []
    for month, thing in zip((5, 6, 7), ABOUT, strict=True):
        at = 1714557600.0 + (month - 5) * 31 * 86400
        first = message("q", "", "user", f"I like {thing}.", at)
        last = message("a", "q", "assistant", f"Good to know that you like {thing}!", at + 60)
        more = {"create_time": at, "current_node": "a", "mapping": {"q": first, "a": last}}
        conversations.append({"id": f"c{month}", "title": f"About {thing}", **more})
    return json.dumps(conversations)


def drop(page: playwright.Page, name: str, text: str) -> None:
    """Drop a file on the page."""
    make = "([name, text]) => { const d = new DataTransfer(); d.items.add(new File([text], name)); return d; }"
    carried = page.evaluate_handle(make, [name, text])
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": carried})


def go(page: playwright.Page, view: str) -> None:
    page.click(f"nav a[data-view={view}]")
    expect(page.locator(f".view.{view}")).to_be_visible()


def search(page: playwright.Page, words: str) -> None:
    go(page, "search")
    page.fill("#query", words)
    page.press("#query", "Enter")
    expect(page.locator(".results:not([aria-busy]) .hit .bars").first).to_be_visible()


def settle(page: playwright.Page) -> None:
    """Wait until nothing is on its way."""
    page.wait_for_load_state("networkidle")
    expect(page.locator(".loading")).to_have_count(0)


def is_too_wide(page: playwright.Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")


def test_a_newcomer_imports_searches_tidies_and_forgets(serve, visit, tmp_path):
    server = serve(method="tim")
    page = visit(server)
    expect(page.locator(".empty")).to_contain_text("Nothing is remembered yet")
    expect(page.locator(".empty pre")).to_contain_text(f"curl {server.url}/v1/episodes")

    drop(page, "conversations.json", chatgpt_export())
    expect(page.locator(".job .good")).to_have_text("6 memories added (chatgpt)")
    expect(page.locator("#who")).to_contain_text("6 memories")
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("conversations.json", chatgpt_export())
    page.set_input_files("#file", tmp_path / "export.zip")
    expect(page.locator(".job .good").first).to_have_text("0 memories added, 6 already there (chatgpt)")
    drop(page, "strange.bin", "nothing of use")
    expect(page.locator(".job .problem")).to_contain_text("the format of strange.bin is not known")

    search(page, "Who likes jazz?")
    first = page.locator(".hit").first
    expect(first.locator("mark").first).to_have_text(re.compile("likes?"))
    expect(first).to_contain_text("jazz")
    expect(first.locator(".bars li").first).to_contain_text("speaks for it")
    assert page.locator(".hit .bar").first.bounding_box()["width"] > 3
    page.click("text=Answer from these")
    expect(page.locator(".answer blockquote")).to_contain_text("jazz")

    go(page, "conversations")
    expect(page.locator(".talk .open")).to_have_text(["About chess", "About jazz", "About tea"])
    page.click(".talk .open >> nth=0")
    expect(page.locator(".turn .text")).to_have_text(["I like chess.", "Good to know that you like chess!"])
    page.go_back()
    expect(page.locator(".talk")).to_have_count(3)

    go(page, "notes")
    expect(page.locator(".note").first).to_be_visible()
    page.click(".note details summary >> nth=0")
    expect(page.locator(".note .lines li p").first).to_contain_text("like")
    page.click(".note .open >> nth=0")
    expect(page.locator("#record h3").first).to_have_text("Rests on")
    page.click("#record >> text=See its links")
    expect(page.locator(".node.middle")).to_be_visible()
    expect(page.locator(".beside h3")).to_have_text(["derived from"])

    go(page, "tidy")
    page.click("text=Show what would change")
    expect(page.locator(".diff .added .text").first).to_have_text("User likes tea, jazz and chess.")
    expect(page.locator(".diff .replaced .text")).to_have_text([f"User likes {thing}." for thing in ABOUT])
    assert server.client.get("/v1/consolidations").json() == []
    page.click("text=Do it")
    expect(page.locator("text=1 note added, 3 replaced, 0 closed")).to_be_visible()
    assert "User likes tea, jazz and chess." in texts_of_notes(server)
    page.click("button:text-is('Undo')")
    page.click("#ask button.danger")
    expect(page.locator("text=Nothing yet.")).to_be_visible()
    assert "User likes tea, jazz and chess." not in texts_of_notes(server)

    go(page, "forget")
    page.fill(".way input[type=text] >> nth=0", "jazz")
    page.click("text=Show what would go")
    expect(page.locator(".card h2")).to_have_text("2 memories would go.")
    page.click("text=Forget for good >> nth=-1")
    expect(page.locator("#ask")).to_contain_text("This cannot be undone.")
    page.keyboard.press("Escape")
    expect(page.locator("#ask")).to_be_hidden()
    assert server.client.get("/v1/stats").json()["num_episodes"] == 6
    page.click(".card button.danger")
    page.click("#ask button.danger")
    expect(page.locator(".receipt dd").first).to_have_text("2")
    expect(page.locator(".receipt")).to_contain_text("yes, searched for and not found")
    expect(page.locator("#who")).to_contain_text("4 memories")
    with page.expect_download() as saved:
        page.click("text=Save the receipt")
    assert len(json.loads(Path(saved.value.path()).read_text())["episodes"]) == 2

    go(page, "figures")
    expect(page.locator(".tile").first).to_contain_text("4")
    expect(page.locator(".tile >> nth=-1")).to_contain_text(re.compile(r"\d ms"))


def texts_of_notes(server: Served) -> list[str]:
    return [note["text"] for note in server.client.get("/v1/notes").json()["notes"]]


def test_the_time_is_scrubbed(serve, visit):
    server = serve()
    for month, city in ((1, "Porto"), (5, "Lisbon"), (9, "Ghent")):
        said = {"text": f"I moved to {city} today.", "speaker": "Ana", "at": f"2024-0{month}-03T10:00:00"}
        server.client.post("/v1/episodes", json=said)
    page = visit(server)
    expect(page.locator(".hit .text")).to_have_text(
        [f"I moved to {city} today." for city in ("Ghent", "Lisbon", "Porto")]
    )
    search(page, "Where did I move?")
    expect(page.locator(".hit")).to_have_count(3)
    slider = page.locator("#as-of")
    steps = int(slider.get_attribute("max"))
    slider.fill(str(steps // 2))
    expect(page.locator("output")).to_have_text(re.compile(r"As known on \d+ May 2024"))
    expect(page.locator(".hit")).to_have_count(2)
    expect(page.locator(".results")).not_to_contain_text("Ghent")
    slider.press("Home")
    expect(page.locator("output")).to_have_text("As known on 3 Jan 2024")
    expect(page.locator(".hit .text")).to_have_text(["I moved to Porto today."])
    page.click("text=Back to now")
    expect(page.locator(".hit")).to_have_count(3)


def test_an_import_shows_how_far_it_is(serve, visit):
    page = visit(serve(), view="#import")
    expect(page.locator(".zone")).to_be_visible()
    page.evaluate(WATCH)
    lines = "\n".join(json.dumps({"text": f"memory number {number}"}) for number in range(8000))
    drop(page, "many.jsonl", lines)
    expect(page.locator(".job .good")).to_have_text("8,000 memories added (table)", timeout=60_000)
    seen = page.evaluate("window.seen")
    assert "progress" in seen
    assert [text for text in seen if re.fullmatch(r"[\d,]+ memories so far", text or "")]


def test_long_lists_come_a_page_at_a_time(serve, visit):
    server = serve()
    lines = [
        {"text": f"turn {turn}", "session": f"talk {turn % 90}", "at": f"2024-01-01T00:00:00.{turn:06}Z"}
        for turn in range(270)
    ]
    server.client.post("/v1/episodes/bulk", content="\n".join(map(json.dumps, lines)))
    page = visit(server, view="#conversations")
    expect(page.locator(".talk").first).to_have_text(re.compile("talk 89"))
    assert page.locator(".talk").count() <= 40, "more was read than is in sight"
    page.locator(".talk").last.scroll_into_view_if_needed()
    expect(page.locator(".talk")).to_have_count(80)
    page.locator(".talk").last.scroll_into_view_if_needed()
    expect(page.locator(".talk")).to_have_count(90)
    expect(page.locator("text=Show more")).to_be_hidden()
    assert len(set(page.locator(".talk .open").all_text_contents())) == 90


def fill_with_evil(server: Served) -> None:
    said = {"text": EVIL, "speaker": EVIL, "session": EVIL, "source_id": EVIL, "meta": {"title": EVIL, EVIL: EVIL}}
    ids = [
        server.client.post("/v1/episodes", json={**said, "at": f"2024-01-0{day}", "source_id": f"{EVIL}{day}"}).json()[
            "id"
        ]
        for day in (1, 2)
    ]
    kept = {"text": EVIL, "kind": EVIL[:40], "sources": ids, "method": EVIL[:40], "meta": {EVIL: EVIL}}
    note = server.client.post("/v1/notes", json=kept).json()["id"]
    server.client.post("/v1/links", json={"source": note, "target": ids[0], "relation": EVIL[:40]})


def test_nothing_that_is_remembered_is_run(serve, visit):
    server = serve(user=EVIL[:60])
    fill_with_evil(server)
    page = visit(server)
    search(page, "alert")
    expect(page.locator(".hit .text").first).to_contain_text("<script>alert(2)</script>")
    page.click(".why summary >> nth=0")
    page.click("text=Answer from these")
    expect(page.locator(".answer")).to_be_visible()
    page.click(".hit .open >> nth=0")
    expect(page.locator("#record .text")).to_contain_text("onerror")
    page.click("#record summary")
    page.keyboard.press("Escape")
    for view in ("conversations", "notes", "graph", "tidy", "forget", "import", "figures"):
        go(page, view)
        settle(page)
    go(page, "conversations")
    page.click(".talk .open")
    expect(page.locator(".turn")).to_have_count(2)
    page.click("text=Forget this conversation")
    expect(page.locator(".card h2")).to_contain_text("2 memories")
    drop(page, f"{EVIL}.csv", "text,speaker\n" + ",".join(["<b>x</b>", "<i>y</i>"]))
    expect(page.locator(".job .good")).to_be_visible()
    drop(page, f"{EVIL}.csv", f"colour\n{EVIL}\n")
    expect(page.locator(".job .problem")).to_be_visible()
    assert page.locator("img[onerror], main script, b, i").count() == 0


def test_keys_are_asked_for_and_kept_in_the_tab_only(serve, visit):
    server = serve(needs_key=True)
    key = server.key("ana")
    server.as_key(key).post("/v1/episodes", json={"text": "I like tea.", "speaker": "Ana"})
    page = visit(server, expected="status of 401")
    asked = []
    page.on("request", lambda request: asked.append(request))
    expect(page.locator("#key-entry")).to_be_visible()
    page.keyboard.type("rk_wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#key-entry .problem")).to_contain_text("not known")
    page.keyboard.type(key)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_contain_text("1 memory of ana")
    search(page, "tea")
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    assert not [request.url for request in asked if "rk_" in request.url]
    assert asked[-1].header_value("authorization") == f"Bearer {key}"
    assert key not in page.content()
    page.reload()
    expect(page.locator("#who")).to_contain_text("1 memory of ana")
    reader = server.key("ana", "read")
    page.click("#key")
    page.keyboard.type(reader)
    page.keyboard.press("Enter")
    settle(page)
    go(page, "forget")
    expect(page.locator(".empty")).to_contain_text("only reads")


def test_it_is_used_by_keyboard_alone(serve, visit):
    server = serve()
    for number in range(3):
        server.client.post("/v1/episodes", json={"text": f"The cat sleeps on chair {number}.", "session": "s1"})
    page = visit(server)
    settle(page)
    keys = page.keyboard
    keys.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    keys.press("Enter")
    expect(page.locator("main")).to_be_focused()
    keys.press("/")
    expect(page.locator("#query")).to_be_focused()
    keys.type("cat / chair")
    keys.press("Enter")
    expect(page.locator(".bars").first).to_be_visible()
    expect(page.locator("#live")).to_have_text(re.compile("3 memories"))
    keys.press("ArrowDown")
    expect(page.locator(".hit .open").first).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    keys.press("ArrowDown")
    expect(page.locator(".hit .open").nth(1)).to_be_focused()
    keys.press("Enter")
    expect(page.locator("#record .facts")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("#record")).to_be_hidden()
    expect(page.locator(".hit .open").nth(1)).to_be_focused()
    keys.press("/")
    keys.press("Escape")
    expect(page.locator("#query")).to_have_value("")
    page.locator("nav a[data-view=forget]").focus()
    keys.press("Enter")
    expect(page.locator("h1")).to_be_focused()
    keys.press("Tab")
    keys.press("Tab")
    keys.type("sleeps")
    keys.press("Enter")
    expect(page.locator(".card h2")).to_have_text("3 memories would go.")
    page.locator(".card button.danger").focus()
    keys.press("Enter")
    expect(page.locator("#ask button").first).to_be_focused()
    keys.press("Tab")
    keys.press("Enter")
    expect(page.locator(".receipt h2")).to_be_focused()
    assert server.client.get("/v1/stats").json()["num_episodes"] == 0


def test_a_view_that_is_chosen_before_the_page_is_ready_is_shown_then(serve, visit):
    page = visit(serve())
    settle(page)
    held = []
    page.route("**/v1/about", lambda route: held.append(route))
    page.reload()
    page.click("nav a[data-view=notes]")
    page.keyboard.press("/")
    page.click("nav a[data-view=figures]")
    expect(page.locator(".view")).to_have_count(0)
    held[0].continue_()
    expect(page.locator("h1")).to_have_text("Figures")


def test_the_graph_is_walked_by_arrow_keys(serve, visit):
    server = serve()
    ids = [server.client.post("/v1/episodes", json={"text": f"thing {number}"}).json()["id"] for number in range(5)]
    for other in ids[:-1]:
        server.client.post("/v1/links", json={"source": ids[-1], "target": other, "relation": "near"})
    page = visit(server, view="#graph")
    expect(page.locator(".node")).to_have_count(5)
    expect(page.locator(".beside li")).to_have_count(4)
    page.locator(".node.middle").focus()
    seen = set()
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "ArrowUp", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
        seen.add(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert len(seen) >= 3
    assert page.locator(".node[tabindex='0']").count() == 1
    name = page.locator(".node:not(.middle)").first.get_attribute("aria-label")
    page.locator(".node:not(.middle)").first.press("Enter")
    expect(page.locator(".node.middle")).to_have_attribute("aria-label", name)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(serve, visit, scheme):
    server = serve(method="tim")
    long = "incomprehensibilities" * 12
    for day in range(1, 4):
        said = {"text": f"I like {long}.", "speaker": long[:80], "session": long[:200], "at": f"2024-01-0{day}"}
        server.client.post("/v1/episodes", json=said)
    page = visit(server, viewport={"width": 360, "height": 740}, color_scheme=scheme)
    search(page, "Who likes it?")
    page.click(".why summary >> nth=0") if page.locator(".why summary").count() else None
    assert not is_too_wide(page)
    for view in ("conversations", "notes", "graph", "tidy", "forget", "import", "figures"):
        go(page, view)
        settle(page)
        assert not is_too_wide(page), view
    go(page, "conversations")
    page.click(".talk .open >> nth=0")
    page.click(".turn .open >> nth=0")
    expect(page.locator("#record .facts")).to_be_visible()
    assert not is_too_wide(page)
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0] < 128"
    assert page.evaluate(ground) == (scheme == "dark")
    page.keyboard.press("Escape")
    page.click("#theme")
    assert page.evaluate(ground) == (scheme != "dark")
    page.reload()
    assert page.evaluate(ground) == (scheme != "dark"), "the choice is not kept"


def test_a_server_that_is_gone_is_told_and_tried_again(serve, visit):
    server = serve()
    server.client.post("/v1/episodes", json={"text": "I like tea."})
    page = visit(server, expected="ERR_FAILED|ERR_INTERNET_DISCONNECTED")
    settle(page)
    page.context.set_offline(True)
    page.fill("#query", "tea")
    page.press("#query", "Enter")
    expect(page.locator(".problem")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    page.click("text=Try again")
    expect(page.locator(".hit").first).to_be_visible()


def test_the_files_are_sent_with_a_strict_policy_and_hold_no_markup_in_scripts(serve):
    server = serve(needs_key=True)
    reply = server.client.get("/")
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert "style=" not in reply.text
    assert re.findall(r"<script[^>]*>(.*?)</script>", reply.text) == ["", ""]
    for name in re.findall(r'"/static/([^"]+)"', reply.text):
        assert server.client.get(f"/static/{name}").status_code == 200
    for name, file in files().items():
        text = file.content.decode("ascii")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
    again = server.client.get("/", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2fpage.py", "%2e%2e/page.py", "../../config.py", ".", "index.html%00"])
def test_no_other_file_is_sent(serve, name):
    reply = serve(needs_key=True).client.get(f"/static/{name}")
    assert reply.status_code in (401, 404)
    assert "import" not in reply.text
