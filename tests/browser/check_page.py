"""Use the service's page in a real browser: python tests/browser/check_page.py [--browser /usr/bin/chromium]

Needs playwright, a Chromium, and the package with [cpu,serve]. Starts ``vocos-onnx serve`` with a free port and clicks
through the page: every kind of recording, models and bandwidths, both players, errors, cancelling, keyboard only, a
phone, dark and light, the stream, and a token. Exits with 1 if anything is wrong. ``--screenshots FOLDER`` keeps
screenshots; ``--url URL`` uses a running service, which must not require a token.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright
from playwright.sync_api import Error as BrowserError

TOKEN = "a-secret.of/this~test+1="
SLOW = 30_000  # ms: the service loads its models, perhaps on a busy machine

# Plays for a moment and returns the player's state.
PLAY = """async audio => {
  audio.muted = true;
  await audio.play();
  for (let waited = 0; waited < 10000 && !(audio.currentTime > 0.05 || audio.ended); waited += 20)
    await new Promise(done => setTimeout(done, 20));
  const others = [...document.querySelectorAll("audio")].filter(other => other !== audio && !other.paused).length;
  return {duration: audio.duration, time: audio.currentTime, others};
}"""
LATER = """async audio => {
  for (let waited = 0; waited < 10000 && audio.currentTime <= 0.3; waited += 20)
    await new Promise(done => setTimeout(done, 20));
}"""
COLOURS = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.width, canvas.height, ...new Uint32Array(data.buffer).filter((_, n) => n % 97 === 0)];
}"""
# Texts whose contrast with the background is below WCAG AA; disabled controls are exempt.
PALE = """() => {
  const parse = text => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const linear = v => v <= 0.04045 * 255 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest(":disabled, noscript, option, .unseen")) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`${element.textContent.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return found;
}"""
# The focused element and its outline; players have the browser's own outline.
FOCUS = """() => {
  const at = document.activeElement;
  const style = getComputedStyle(at.id === "file" ? at.parentElement.querySelector("label") : at);
  const name = at.id || at.dataset.sample || at.closest("figure")?.id || at.tagName;
  return [name, parseFloat(style.outlineWidth), style.outlineStyle];
}"""
DROP = """([name, base64]) => {
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
  const given = new DataTransfer();
  given.items.add(new File([bytes], name));
  const options = {dataTransfer: given, bubbles: true, cancelable: true};
  for (const type of ["dragenter", "dragover", "drop"])
    document.querySelector("main").dispatchEvent(new DragEvent(type, options));
}"""
# Records the largest sample that the page plays.
LOUDEST = """(() => {
  const copy = AudioBuffer.prototype.copyToChannel;
  window.loudest = 0;
  AudioBuffer.prototype.copyToChannel = function (samples, ...rest) {
    for (const sample of samples) window.loudest = Math.max(window.loudest, Math.abs(sample));
    return copy.call(this, samples, ...rest);
  };
})()"""


@contextlib.contextmanager
def service(**environment: str) -> Iterator[str]:
    """Starts a service, yields its address, and stops it with SIGTERM."""
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "vocos_onnx", "serve", "--port", "0", "--max-body", "10"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
        try:
            yield address(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def address(process: subprocess.Popen[Any], log: Any) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        log.seek(0)
        if found := re.search(r"http://[\w.\[\]:]+:\d+", log.read()):
            return found[0] + "/"
        time.sleep(0.1)
    log.seek(0)
    raise RuntimeError(f"the service does not start: {log.read()}")


class Visit:
    """A page of the service, with its requests and log: it may contact only the service, and no request may fail."""

    def __init__(self, browser: Browser, url: str, screenshots: Path | None = None, **options: Any) -> None:
        self.screenshots = screenshots
        self.url, self.wrong, self.refused = url, list[str](), list[str]()
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(SLOW)
        self.page.add_init_script(LOUDEST)
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("websocket", lambda socket: self._asked(socket.url.replace("ws", "http", 1)))
        self.page.on("console", lambda message: self._logged(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.goto(url)

    def _asked(self, url: str) -> None:
        if not url.startswith((self.url, f"blob:{self.url}")):
            self.wrong.append(f"asked for {url[:80]}")

    def _logged(self, text: str) -> None:
        # Chromium logs error responses, some of which are intended here
        kept = self.refused if text.startswith("Failed to load resource: the server responded") else self.wrong
        kept.append(text)

    def ready(self) -> Page:
        """The page with the first bundled recording and the models."""
        expect(self.page.locator("#run")).to_be_enabled(timeout=SLOW)
        expect(self.page.locator("#bandwidth")).to_be_enabled(timeout=SLOW)  # the default model is loaded
        expect(self.page.locator("#play-original")).to_be_enabled(timeout=SLOW)
        return self.page


def recording(seconds: float, sample_rate: int = 24000, kind: str = "WAV") -> bytes:
    """A voice-like sound with rising and falling harmonics."""
    time_axis = np.arange(round(seconds * sample_rate)) / sample_rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * time_axis)) / sample_rate
    audio = sum(np.sin(k * phase) / k for k in range(1, 12)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_axis)) * 0.2
    file = io.BytesIO()
    soundfile.write(file, audio, sample_rate, format=kind, subtype="PCM_16")
    return file.getvalue()


def choose(page: Page, name: str, content: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "application/octet-stream", "buffer": content})
    expect(page.locator("#chosen")).to_contain_text(name)


def copy(page: Page) -> np.ndarray:
    """Make the copy and return the downloaded audio."""
    page.click("#run")
    return copied(page)


def copied(page: Page) -> np.ndarray:
    expect(page.locator("#status")).to_contain_text("The copy is ready", timeout=SLOW)
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith(".wav"), download.value.suggested_filename
    audio, sample_rate = soundfile.read(download.value.path())
    assert sample_rate == 24000 and float(np.abs(audio).max()) > 0.05, "the copy is silent"
    return audio


def plays(page: Page, name: str, seconds: float) -> None:
    state = page.eval_on_selector(f"#{name} audio", PLAY)
    page.eval_on_selector(f"#{name} audio", "audio => audio.pause()")
    assert abs(state["duration"] - seconds) < 0.05 and state["time"] > 0 and not state["others"], state


def picture(page: Page, name: str) -> list[int]:
    colours: list[int] = page.eval_on_selector(f"#{name} canvas", COLOURS)
    assert len(set(colours[2:])) > 50, f"the spectrogram of the {name} has {len(set(colours[2:]))} colours"
    return colours


def bundled(visit: Visit) -> None:
    """A bundled recording: its copy plays, and both spectrograms and the figures are shown."""
    page = visit.ready()
    page.get_by_role("button", name="Italian").click()
    expect(page.locator("#original .what")).to_contain_text("Italian")
    audio = copy(page)
    assert abs(len(audio) / 24000 - 6.109) < 0.02, len(audio)
    plays(page, "original", 6.109)
    plays(page, "copy", len(audio) / 24000)
    assert picture(page, "original") != picture(page, "copy")
    for name in ("original", "copy"):
        said = page.get_attribute(f"#{name} canvas", "aria-label") or ""
        assert re.search(r"0 to 6\.1\d s and 0 to 12 kHz: half of the energy is below \d", said), said
        assert page.inner_text(f"#{name} .seconds").split()[-2:] == ["6.1", "s"], page.inner_text(f"#{name} .seconds")
    for figure, pattern in (
        ("answer-ms", r"[\d.,]+ m?s"),
        ("compute-ms", r"[\d.,]+ m?s"),
        ("speed", r"[\d.,]+ ×"),
        ("size", r"4\.58 kB"),
        ("size-of", r"tokens of 6 kbps; the file: 587 kB, 768 kbps"),
    ):
        assert re.fullmatch(pattern, page.inner_text(f"#{figure}")), (figure, page.inner_text(f"#{figure}"))
    page.click("summary")
    steps = page.inner_text("#curl-steps")
    for path in (
        "/v1/resynth?",
        "/v1/encode?",
        "/v1/decode?",
        "stream=true",
        "/v1/stream'",
        "/v1/samples/speech_it_f_",
    ):
        assert path in steps, (path, steps)
    command = page.inner_text("#curl")
    assert "/v1/samples/speech_it_f_paola_48k" in command and "bandwidth=6" in command, command


def settings(visit: Visit) -> None:
    """Another bandwidth or model gives a different copy; the model is loaded on demand."""
    page = visit.ready()
    copies = []
    for kbps in ("1.5", "12"):
        page.select_option("#bandwidth", kbps)
        copies.append(copy(page))
        expect(page.locator("#copy .what")).to_contain_text(f"{kbps} kbps")
        assert f"bandwidth={kbps}" in page.inner_text("#curl")
    page.select_option("#model", "vocos-mel-24khz-small")
    copies.append(copy(page))
    expect(page.locator("#copy .what")).to_have_text("vocos-mel-24khz-small")
    assert page.inner_text("#size-of").startswith("mels of 300 kbps"), page.inner_text("#size-of")
    expect(page.locator("#bandwidth")).to_be_disabled()
    for one, other in ((0, 1), (1, 2), (0, 2)):
        size = min(len(copies[one]), len(copies[other]))
        assert float(np.abs(copies[one][:size] - copies[other][:size]).max()) > 0.01, (one, other)


def files(visit: Visit) -> None:
    """A chosen file, a dropped file, and a file that the service can read but the browser cannot."""
    page = visit.ready()
    choose(page, "chosen one's.flac", recording(1.3, 44100, "FLAC"))
    assert abs(len(copy(page)) - 1.3 * 24000) <= 320
    assert "chosen one'\\''s.flac" in page.inner_text("#curl"), page.inner_text("#curl")
    page.evaluate(DROP, ["dropped.wav", base64.b64encode(recording(0.9)).decode()])
    expect(page.locator("#chosen")).to_contain_text("dropped.wav")
    expect(page.locator("#figures")).to_be_hidden()  # they belonged to another recording
    assert abs(len(copy(page)) - 0.9 * 24000) <= 320
    choose(page, "other.aiff", recording(0.7, 22050, "AIFF"))
    expect(page.locator("#original .empty")).to_contain_text("cannot play this file")
    assert abs(len(copy(page)) - 0.7 * 24000) <= 320
    plays(page, "copy", 0.7)


def refused(visit: Visit) -> None:
    """Errors about a recording appear beside it, in the service's words."""
    page = visit.ready()
    for name, content, reason in (
        ("notes.wav", b"These are notes, and no recording at all.\n" * 20, r"\w{3}"),
        ("empty.wav", b"", r"empty"),
        ("cut.flac", recording(1.0, 24000, "FLAC")[:5000], r"\w{3}"),
        ("long.flac", long_silence(), r"600"),
        ("large.wav", b"RIFF" + bytes(11 << 20), r"^The body "),
    ):
        choose(page, name, content)
        page.click("#run")
        expect(page.locator("#recording-error")).to_have_text(re.compile(reason), timeout=SLOW)
        expect(page.locator("#run")).to_have_text("Make the copy")
        expect(page.locator("#figures")).to_be_hidden()
    page.get_by_role("button", name="Japanese").click()
    expect(page.locator("#recording-error")).to_be_hidden()
    copy(page)
    assert len(visit.refused) == 5, visit.refused
    visit.refused.clear()


def long_silence() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(610 * 8000, np.int16), 8000, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def cancelled(visit: Visit) -> None:
    """The button, Esc, or choosing another recording cancels a running copy, and no late result appears."""
    page = visit.ready()
    choose(page, "long.wav", recording(75))
    for key in (None, "Escape"):
        page.click("#run")
        expect(page.locator("#run")).to_have_text(re.compile("Working, cancel"))
        page.wait_for_timeout(350)  # a second press right after the first counts as a double click
        if key is None:
            page.click("#run")
        else:
            page.keyboard.press(key)
        expect(page.locator("#status")).to_have_text("Cancelled.")
        expect(page.locator("#run")).to_have_text("Make the copy")
        expect(page.locator("#figures")).to_be_hidden()
    page.click("#run")
    expect(page.locator("#run")).to_have_text(re.compile("Working"))
    page.get_by_role("button", name="Italian").click()
    expect(page.locator("#original .what")).to_contain_text("Italian")
    assert abs(len(copy(page)) / 24000 - 6.109) < 0.02
    page.wait_for_timeout(500)
    plays(page, "copy", 6.109)


def keyboard(visit: Visit) -> None:
    """The whole page works without a mouse, with a visible focus."""
    page = visit.ready()
    assert not page.evaluate("document.activeElement.id")
    visited: list[str] = []

    def go(target: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            name, width, kind = page.evaluate(FOCUS)
            visited.append(name)
            assert name in ("original", "copy") or (width >= 2 and kind == "solid"), f"no focus shows on {name}"
            if name == target:
                return
        raise AssertionError(f"Tab never gets to {target}, but to {visited}")

    go("speech_it_f_paola_48k")
    page.keyboard.press("Enter")
    expect(page.locator("#original .what")).to_contain_text("Italian")
    go("bandwidth")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#bandwidth") == "12", page.input_value("#bandwidth")
    go("run")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("The copy is ready", timeout=SLOW)
    assert page.evaluate("document.activeElement.id") == "run"
    page.keyboard.press("b")  # outside the players' section, this key does nothing
    assert page.evaluate("[...document.querySelectorAll('audio')].every(audio => audio.paused)")
    go("play-original")
    page.keyboard.press("b")
    expect(page.locator("#play-copy")).to_have_attribute("aria-pressed", "true")
    page.eval_on_selector("#copy audio", LATER)
    page.keyboard.press("a")
    expect(page.locator("#play-original")).to_have_attribute("aria-pressed", "true")
    times = page.evaluate("[...document.querySelectorAll('audio')].map(audio => [audio.paused, audio.currentTime])")
    assert not times[0][0] and times[1][0] and 0.3 <= times[1][1] <= times[0][1] + 0.05 < times[1][1] + 2, times
    page.keyboard.press("a")
    expect(page.locator("#play-original")).to_have_attribute("aria-pressed", "false")
    go("curl-copy")
    order = [name for name in dict.fromkeys(visited) if name not in ("A", "PRE")]
    first, last = ["file", "speech_en_m_joe_48k_stereo"], ["download", "stream-play", "curl-copy"]
    assert order[:2] == first and order[-3:] == last, order


def stream(visit: Visit) -> None:
    """Tokens go over the WebSocket, and the returned audio plays; later streams can be stopped."""
    page = visit.ready()
    choose(page, "short.wav", recording(1.5))
    page.click("#stream-play")
    said = page.locator("#stream-status")
    expect(said).to_have_text(re.compile(r"First audio .* Playing\."), timeout=SLOW)
    expect(said).to_have_text(re.compile(r"First audio [\d.]+ ms after .* 1\.5\d s in 15 chunks"), timeout=SLOW)
    assert page.evaluate("window.loudest") > 0.05, page.evaluate("window.loudest")
    page.get_by_role("button", name="English").click()
    expect(page.locator("#original .what")).to_contain_text("English")
    page.click("#stream-play")
    expect(said).to_have_text(re.compile(r"Playing\."), timeout=SLOW)
    page.keyboard.press("Escape")
    expect(said).to_have_text("Stopped.")
    expect(page.locator("#stream-play")).to_have_text("Play as a stream")
    page.click("#stream-play")
    expect(said).to_have_text(re.compile(r"Playing\."), timeout=SLOW)
    page.select_option("#model", "vocos-mel-24khz-small")
    expect(page.locator("#stream-play")).to_have_text("Play as a stream")
    page.wait_for_timeout(300)
    expect(said).to_have_text("")  # it belonged to another model


def looks(browser: Browser, url: str, screenshots: Path | None) -> list[str]:
    """The faults of the page in four views: width, text contrast, colour scheme, reduced motion."""
    wrong = []
    for scheme in ("light", "dark"):
        for device, size in (("desktop", (1280, 900)), ("phone", (360, 740))):
            view = f"{device}-{scheme}"
            options: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": size[0], "height": size[1]}}
            if device == "phone":
                options |= {"device_scale_factor": 2, "has_touch": True, "is_mobile": True, "reduced_motion": "reduce"}
            visit = Visit(browser, url, **options)
            try:
                page = visit.ready()
                copy(page)
                page.evaluate("window.scrollTo(0, 0)")
                if screenshots:
                    page.screenshot(path=screenshots / f"page-{view}.png", full_page=True)
                choose(page, "a-name-" + "without-an-end-" * 12 + ".wav", b"no audio")
                page.click("#run")
                expect(page.locator("#recording-error")).to_be_visible(timeout=SLOW)
                if screenshots:
                    page.screenshot(path=screenshots / f"page-{view}-refused.png", full_page=True)
                if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                    wrong.append(f"{view}: the page is wider than the screen")
                wrong += [f"{view}: too little contrast: {text}" for text in page.evaluate(PALE)]
                back = page.evaluate("getComputedStyle(document.body).backgroundColor")
                if (max(map(int, re.findall(r"\d+", back)[:3])) < 100) != (scheme == "dark"):
                    wrong.append(f"{view}: its back is {back}")
                moving = page.evaluate("getComputedStyle(document.querySelector('#run')).transitionDuration") != "0s"
                if moving == (device == "phone"):
                    wrong.append(f"{view}: moves {moving}, against what the user prefers")
            except (AssertionError, BrowserError) as error:
                wrong.append(f"{view}: {error}")
            wrong += [f"{view}: {line}" for line in visit.wrong]
            visit.page.close()
    return wrong


def token(visit: Visit) -> None:
    """With a token, the page asks for it, keeps it for the tab only, and also uses it for the WebSocket."""
    page = visit.page
    expect(page.locator("#access")).to_be_visible(timeout=SLOW)
    expect(page.locator("#token")).to_be_focused()
    expect(page.locator("#token-error")).to_be_hidden()  # no error yet
    expect(page.locator("#recording")).to_be_hidden()
    if screenshots := visit.screenshots:
        page.screenshot(path=screenshots / "page-token.png", full_page=True)
    page.fill("#token", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#token-error")).to_have_text(re.compile(r"^[A-Z].*\.$"))
    page.fill("#token", TOKEN)
    page.click("#token-use")
    visit.ready()
    expect(page.locator("#access")).to_be_hidden()
    with page.expect_download() as described:
        page.click("#openapi")
    assert b'"/v1/decode"' in Path(described.value.path()).read_bytes()
    copy(page)
    assert "$VOCOS_TOKEN" in page.inner_text("#curl") and TOKEN not in page.content()
    assert page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
    page.click("#stream-play")
    expect(page.locator("#stream-status")).to_have_text(re.compile(r"Playing\."), timeout=SLOW)
    page.keyboard.press("Escape")
    page.reload()
    visit.ready()
    visit.refused.clear()


def run(step: Callable[[Visit], None], browser: Browser, url: str, screenshots: Path | None) -> list[str]:
    """Run a step; returns its faults."""
    began = time.monotonic()
    visit = Visit(browser, url, screenshots, viewport={"width": 1280, "height": 900})
    wrong = []
    try:
        step(visit)
    except (AssertionError, BrowserError) as error:
        wrong.append(f"{type(error).__name__}: {error}")
        if screenshots:
            visit.page.screenshot(path=screenshots / f"page-failed-{step.__name__}.png", full_page=True)
    visit.page.close()
    print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
    return [f"{step.__name__}: {line}" for line in wrong + visit.wrong + visit.refused]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", default="/usr/bin/chromium", help="executable of Chromium")
    parser.add_argument("--screenshots", type=Path, help="folder to write them to")
    parser.add_argument("--url", help="of a service that runs")
    parser.add_argument("--only", help="name of one step")
    args = parser.parse_args()
    if args.screenshots:
        args.screenshots.mkdir(exist_ok=True)
    steps = (bundled, settings, files, refused, cancelled, keyboard, stream)
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        with contextlib.nullcontext(args.url) if args.url else service() as url:
            for step in steps:
                if args.only in (None, step.__name__):
                    wrong += run(step, browser, url, args.screenshots)
            if args.only in (None, "looks"):
                wrong += looks(browser, url, args.screenshots)
        if not args.url and args.only in (None, "token"):
            with service(VOCOS_TOKEN=TOKEN) as url:
                wrong += run(token, browser, url, args.screenshots)
        browser.close()
    for line in wrong:
        print(line, file=sys.stderr)
    print("the page is as it should be" if not wrong else f"{len(wrong)} things are wrong")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
