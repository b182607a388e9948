"""Run the clients of docs/guides/service.md: python -m tests.browser.check_clients [--browser /usr/bin/chromium]

Needs playwright, a Chromium, curl, ffmpeg with ffplay, and the package with [cpu,serve,test]. Runs the shell commands
in order, and the JavaScript in a page of the service's origin. Fails if one does not do what the page says.
tests/service/test_docs.py runs the Python.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import sync_playwright

from tests.service.process import Server
from tests.service.test_docs import blocks, lines, run
from vocos_onnx import EncodecONNX, VocosONNX, load_audio
from vocos_onnx.model.bundled import bundled_file

RATE = 24_000
# Collects the results of the page's JavaScript.
CHECKED = """
const joined = new Int16Array(end.samples);
let at = 0;
for (const part of parts) {
  joined.set(part, at);
  at += part.length;
}
return { seconds: player.duration, plays: !player.paused, samples: at, audio: [...joined], frames: tokens[0].length };
"""


def shell(server: Server, folder: Path) -> None:
    os.environ["SDL_AUDIODRIVER"] = "dummy"  # for ffplay on machines without a sound card
    commands = lines(server.port)
    assert len(commands) == 8
    for command in commands:
        print(f"$ {command}", flush=True)
        run(f"set -eo pipefail\nVOCOS_TOKEN=\n{command}", folder)
    seconds = soundfile.info(folder / "speech.wav").duration
    for name in ("copy.flac", "out.wav"):
        assert abs(soundfile.info(folder / name).duration - seconds) < 1e-3, name
    told = run("ffprobe -v error -show_entries format=duration -of csv=p=0 out.m4a", folder)
    assert abs(float(told) - seconds) < 0.1, told


def browser(server: Server, path: str | None) -> None:
    first, second = blocks("js", server.port)  # the second program uses the first one's recording
    second = second.replace("const answer =", "const tokenized =").replace(
        "await answer.json()", "await tokenized.json()"
    )
    program = f"async () => {{ {first}\n{second}\n{CHECKED} }}"
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/healthz")
        made = page.evaluate(program)
        chromium.close()
    recording = load_audio(bundled_file("speech_ja_css10_22k.flac"), RATE)
    assert made["plays"] and abs(made["seconds"] - len(recording) / RATE) < 0.01, made["seconds"]
    expected = VocosONNX(threads=1).decode(EncodecONNX(threads=1).encode(recording, RATE))
    assert made["samples"] == len(expected) == 320 * made["frames"]
    assert np.abs(np.array(made["audio"]) - (expected * 32768).clip(-32768, 32767)).max() < 2
    print(f"JavaScript: {made['seconds']:.2f} s played, {made['samples']} samples over the WebSocket")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--browser", help="a Chromium; by default playwright's own")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server("-m", "vocos_onnx", "serve") as server:
        shell(server, Path(folder))
        browser(server, args.browser)


if __name__ == "__main__":
    main()
