"""Play a report in a real browser: python tests/browser/check_report.py PAGE.html [--browser /usr/bin/chromium]

Needs playwright and a Chromium. Every player must load, have the length of its FLAC, and play, one at a time; every
picture must show; the page must make no network requests, log nothing, and fit a phone. Exits with 1 otherwise.
``--screenshots FOLDER`` keeps screenshots: light and dark, desktop and phone.
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from pathlib import Path
from typing import Any

import soundfile
from playwright.sync_api import Page, sync_playwright

VIEWS: dict[str, dict[str, Any]] = {
    "desktop-light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 900}},
    "desktop-dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 900}},
    "phone-light": {"color_scheme": "light", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 360, "height": 740}, "device_scale_factor": 2},
}

PLAY = """async audio => {
  audio.muted = true;
  await audio.play();
  for (let waited = 0; waited < 10000 && !(audio.currentTime > 0 || audio.ended); waited += 20)
    await new Promise(done => setTimeout(done, 20));
  const others = [...document.querySelectorAll("audio")].filter(other => other !== audio && !other.paused).length;
  return {ready: audio.readyState, duration: audio.duration, time: audio.currentTime, others, url: audio.src};
}"""


def watch(page: Page, asked: list[str], wrong: list[str]) -> None:
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: wrong.append(f"failed: {request.url[:80]}"))
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))


def check(page: Page) -> tuple[int, list[str]]:
    """The number of players that played, and the faults."""
    wrong, played = [], 0
    for audio in page.query_selector_all("audio"):
        name = audio.get_attribute("aria-label")
        state = audio.evaluate(PLAY)
        seconds = soundfile.info(io.BytesIO(base64.b64decode(state["url"].partition("base64,")[2]))).duration
        if state["ready"] < 2 or state["time"] <= 0 or abs(state["duration"] - seconds) > 0.01 or state["others"]:
            state["url"] = state["url"][:30]
            wrong.append(f"{name}: {state}, expected {seconds:.2f} s")
        else:
            played += 1
    if not played:
        wrong.append("no player")
    return played, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium", help="executable of Chromium")
    parser.add_argument("--screenshots", type=Path, help="folder to write them to")
    args = parser.parse_args()
    wrong: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser, args=["--no-sandbox"])
        for view, options in VIEWS.items():
            page = browser.new_page(**options)
            asked: list[str] = []
            watch(page, asked, wrong)
            url = args.page.resolve().as_uri()
            page.goto(url)
            if page.evaluate("[...document.images].some(image => !(image.complete && image.naturalWidth))"):
                wrong.append(f"{view}: a picture does not show")
            if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
                wrong.append(f"{view}: the page is wider than the screen")
            if args.screenshots:
                page.screenshot(path=args.screenshots / f"{view}.png", full_page=True)
            if view == "desktop-light":
                played, silent = check(page)
                wrong += silent
            wrong += [f"asked for {u[:80]}" for u in asked if u != url and not u.startswith("data:")]
            page.close()
        browser.close()
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{played} players played")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
