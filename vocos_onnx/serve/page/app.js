// The page: what is chosen, the copy, both players, and the stream.

import { ServiceError, ask, computeMs, getToken, setToken } from "./service.js";
import { SAMPLE_RATE, analyse, decode, describe, draw } from "./spectrogram.js";
import { playStream } from "./stream.js";

const $ = (id) => document.getElementById(id);
const FORMAT = "wav";
const LONGEST_DECODED = 64 << 20; // bytes of a recording that are taken apart for a picture: a browser unpacks all of it

const chosen = { blob: null, name: "", sample: null, samples: null, problem: "" }; // the recording
const made = { samples: null }; // the copy
let models = [];
let loading = null; // AbortControllers of what runs: of a bundled recording,
let running = null; // of the copy,
let streaming = null; // and of the stream

// Words and numbers

const numbers = (most) => new Intl.NumberFormat("en", { maximumFractionDigits: most });
const whole = (value) => numbers(0).format(value);
const three = (value) => (value < 1000 ? new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value) : whole(value));
const inMs = (ms) => (ms < 10_000 ? `${three(ms)} ms` : `${three(ms / 1000)} s`);
const inBytes = (bytes) => (bytes < 1000 ? `${whole(bytes)} bytes` : bytes < 1e6 ? `${three(bytes / 1e3)} kB` : `${three(bytes / 1e6)} MB`);
const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function show(id, text) {
  $(id).textContent = text;
}

/** Put an error beside what it is about: the token, the recording, the model, or the button. */
function explain(error, otherwise) {
  if (error.name === "AbortError") return;
  if (!(error instanceof ServiceError)) {
    console.error(error);
    show(otherwise, `This page failed: ${error.message}`);
  } else if (error.status === 401) {
    document.body.classList.toggle("locked", models.length === 0); // there is nothing to show without it
    $("access").hidden = false;
    show("token-error", getToken() ? error.message : ""); // who has not been asked yet has done nothing wrong
    $("token").focus();
  } else {
    const place = { 400: "recording-error", 413: "recording-error", 415: "recording-error", 404: "model-error" }[error.status];
    show(place ?? otherwise, error.message.replace("ffmpeg -i IN ", `ffmpeg -i ${quoted(chosen.name || "IN")} `));
  }
}

function clearErrors() {
  for (const place of document.querySelectorAll(".error[id]")) place.textContent = "";
}

// Models

function model() {
  return models.find((each) => each.name === $("model").value);
}

function bandwidth() {
  return $("bandwidth").disabled ? null : Number($("bandwidth").value);
}

/** Ask for the models, again and again until the default one is loaded, which begins with the service. */
async function loadModels(wait = 0.5) {
  const given = await (await ask("v1/models")).json();
  models = given.models;
  offer($("model"), models.map(({ name }) => [name, name]), given.default);
  $("model").disabled = false;
  showBandwidths();
  if (!models.find((each) => each.name === given.default)?.loaded)
    setTimeout(() => loadModels(Math.min(2 * wait, 10)).catch((error) => explain(error, "model-error")), 1000 * wait);
}

/** Offer the bandwidths of the model; of one that is not loaded yet the service does not know them. */
function showBandwidths() {
  const { kind, bandwidths } = model();
  const options = bandwidths?.map((kbps) => [String(kbps), `${kbps} kbps`]) ?? [["", kind === "mels" ? "none: it takes mels" : "shown once it is loaded"]];
  offer($("bandwidth"), options, bandwidths?.includes(6) ? "6" : options.at(-1)[0]);
  $("bandwidth").disabled = !bandwidths?.length;
  refresh();
}

/** Fill a list with [value, text], unless it holds them already: it may be open. What was chosen stays chosen. */
function offer(list, options, otherwise) {
  if (JSON.stringify([...list.options].map(({ value, text }) => [value, text])) === JSON.stringify(options)) return;
  const before = options.some(([value]) => value === list.value) ? list.value : otherwise;
  list.replaceChildren(...options.map(([value, text]) => new Option(text, value, false, value === before)));
}

/** Whether the buttons can be used, and what the shell would do. */
function refresh() {
  const { name, kind, encodes, streamable } = model() ?? {};
  const copies = !(kind === "tokens" && encodes === false);
  show("model-hint", copies ? "" : `${name} has no encoder here: it decodes tokens, and takes no recordings.`);
  const ready = chosen.blob !== null && models.length > 0 && copies;
  $("run").disabled = !ready && !running;
  const streams = kind === "tokens" && streamable;
  $("stream-play").disabled = !(ready && streams) && !streaming;
  show("stream-hint", kind === null && ready
    ? "Known as soon as the model has made its first copy."
    : ready && !streams
      ? "Only of models that decode tokens and can be streamed."
      : "The recording becomes tokens, which go over a WebSocket eight frames at a time; the audio plays as it arrives.");
  if (models.length === 0) return;
  const token = getToken() ? ' -H "Authorization: Bearer $VOCOS_TOKEN"' : "";
  const target = `curl --fail-with-body${token} -H 'Content-Type: application/octet-stream'`;
  const at = (path) => quoted(new URL(path, document.baseURI).href);
  const url = at(`v1/resynth?${query()}`);
  show("curl", chosen.sample === null
    ? `${target} \\\n  --data-binary @${quoted(chosen.name || "recording.wav")} -o copy.${FORMAT} \\\n  ${url}`
    : `curl -s${token} ${at(`v1/samples/${chosen.sample}`)} |\n  ${target} \\\n  --data-binary @- -o copy.${FORMAT} \\\n  ${url}`);
  const file = quoted(chosen.sample === null ? chosen.name || "recording.wav" : `${chosen.sample}.wav`);
  const named = `model=${encodeURIComponent(name)}`;
  const plays = "ffplay -autoexit -nodisp -";
  const steps = [
    ["The same, heard while it is made", `${target} \\\n  --data-binary @${file} \\\n  ${at(`v1/resynth?${query()}&stream=true`)} |\n  ${plays}`],
    ["A recording to tokens", `${target} \\\n  --data-binary @${file} -o tokens.npz \\\n  ${at(`v1/encode?${query("npz")}`)}`],
    ["Tokens to audio", `${target} \\\n  --data-binary @tokens.npz -o audio.${FORMAT} \\\n  ${at(`v1/decode?${named}&format=${FORMAT}`)}`],
    ["Tokens to audio, heard while it is made", `${target} \\\n  --data-binary @tokens.npz \\\n  ${at(`v1/decode?${named}&stream=true`)} |\n  ${plays}`],
    ["The messages of the WebSocket, in words", `curl -s${token} ${at("v1/stream")}`],
  ];
  if (chosen.sample !== null) steps.unshift(["The recording", `curl -s${token} -o ${file} ${at(`v1/samples/${chosen.sample}`)}`]);
  show("curl-steps", steps.filter(([what]) => kind !== "mels" || !what.includes("okens")).map(([what, command]) => `# ${what}\n${command}`).join("\n\n"));
}

function query(format = FORMAT) {
  const given = new URLSearchParams({ model: $("model").value });
  if (bandwidth() !== null) given.set("bandwidth", bandwidth());
  given.set("format", format);
  return given;
}

// The recording

async function loadSamples() {
  const { samples } = await (await ask("v1/samples")).json();
  $("samples").replaceChildren(...samples.map(({ name, title, seconds }) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${title}, ${seconds.toFixed(0)} s` });
    button.dataset.sample = name;
    button.setAttribute("aria-pressed", String(name === chosen.sample));
    button.addEventListener("click", () => chooseSample(name, title));
    return button;
  }));
  if (samples.length && chosen.blob === null && loading === null) await chooseSample(samples[0].name, samples[0].title);
}

async function chooseSample(name, title) {
  loading?.abort();
  const mine = (loading = new AbortController());
  clearErrors();
  try {
    const answer = await ask(`v1/samples/${encodeURIComponent(name)}`, { signal: mine.signal });
    const blob = await answer.blob();
    if (loading === mine) await choose(blob, `${name}.wav`, title, name, mine);
  } catch (error) {
    if (loading === mine) explain(error, "recording-error");
  }
}

async function chooseFile(file) {
  loading?.abort();
  const mine = (loading = new AbortController());
  clearErrors();
  await choose(file, file.name, file.name, null, mine);
}

/** Take a recording as what is to be copied, and show it. */
async function choose(blob, name, title, sample, mine) {
  running?.abort();
  endStream();
  Object.assign(chosen, { blob, name, sample, samples: null, problem: "" });
  forgetCopy();
  for (const button of $("samples").children) button.setAttribute("aria-pressed", String(button.dataset.sample === sample));
  show("chosen", sample === null ? `Chosen: ${title}, ${inBytes(blob.size)}` : "");
  $("original").querySelector(".what").textContent = title;
  play("original", blob);
  refresh();
  let samples = null;
  try {
    if (blob.size <= LONGEST_DECODED) samples = await decode(blob);
  } catch {
    // the service may know more kinds of files than the browser
  }
  if (loading !== mine) return;
  chosen.samples = samples?.length ? samples : null;
  chosen.problem = samples ? "" : blob.size > LONGEST_DECODED
    ? "This recording is too large for a picture of it."
    : "This browser cannot play this file. The service may be able to read it.";
  $("play-original").disabled = samples === null;
  drawBoth();
}

function forgetCopy() {
  made.samples = last = null;
  $("copy").querySelector(".what").textContent = "";
  play("copy", null);
  $("figures").hidden = true;
  show("status", "");
}

// Both players

const names = ["original", "copy"];
const player = (name) => $(name).querySelector("audio");

function play(name, blob) {
  const audio = player(name);
  audio.pause();
  if (audio.src) URL.revokeObjectURL(audio.src);
  if (blob?.size) audio.src = URL.createObjectURL(blob);
  else audio.removeAttribute("src");
  audio.load();
  $(`play-${name}`).disabled = blob === null;
}

let last = null; // the name of the one that played last

/** Play one where the other one is, or was; pause it where it plays. */
function listen(name) {
  const audio = player(name);
  if ($(`play-${name}`).disabled) return;
  if (!audio.paused) return audio.pause();
  if (last !== null && last !== name && !player(last).ended) seek(audio, player(last).currentTime);
  start(audio);
}

function start(audio) {
  audio.play().catch((error) => error.name === "AbortError" || show("run-error", `The browser does not play it: ${error.message}`));
}

function seek(audio, time) {
  audio.currentTime = Math.min(time, audio.duration || 0);
}

for (const [index, name] of names.entries()) {
  const audio = player(name);
  const other = player(names[1 - index]);
  const head = $(name).querySelector(".playhead");
  const picture = $(name).querySelector(".picture");
  const follow = () => {
    head.style.left = `${(100 * audio.currentTime) / (seconds() || 1)}%`;
    if (!audio.paused) requestAnimationFrame(follow);
  };
  audio.addEventListener("play", () => {
    if (!other.paused) {
      seek(audio, other.currentTime);
      other.pause();
    }
    last = name;
    $(name).classList.add("playing");
    $(`play-${name}`).setAttribute("aria-pressed", "true");
    follow();
  });
  audio.addEventListener("pause", () => {
    $(name).classList.remove("playing");
    $(`play-${name}`).setAttribute("aria-pressed", "false");
  });
  audio.addEventListener("seeked", follow);
  picture.addEventListener("click", (event) => {
    if ($(`play-${name}`).disabled || !audio.duration) return;
    const box = picture.getBoundingClientRect();
    other.pause();
    seek(audio, ((event.clientX - box.left) / box.width) * seconds());
    start(audio);
  });
  $(`play-${name}`).addEventListener("click", () => listen(name));
}

// Only in this section: elsewhere a letter is a letter, for those who speak to their computer too.
$("listen").addEventListener("keydown", (event) => {
  const name = { a: "original", b: "copy" }[event.key.toLowerCase()];
  if (!name || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  listen(name);
});

// Spectrograms

function seconds() {
  return Math.max(chosen.samples?.length ?? 0, made.samples?.length ?? 0) / SAMPLE_RATE;
}

/** Both pictures, on one scale of time and of decibels. */
function drawBoth() {
  const length = seconds();
  const given = [chosen.samples, made.samples].map((samples) => samples && analyse(samples, length));
  const top = Math.max(...given.map((each) => each?.top ?? -Infinity));
  for (const [index, name] of names.entries()) {
    const canvas = $(name).querySelector("canvas");
    const empty = $(name).querySelector(".empty");
    if (given[index]) {
      draw(canvas, given[index], top);
      canvas.setAttribute("aria-label", describe(name, given[index], length));
      empty.textContent = "";
    } else {
      [canvas.width, canvas.height] = [1, 1];
      canvas.setAttribute("aria-label", "No spectrogram yet");
      empty.textContent = name === "original" ? chosen.problem : "The copy appears here.";
    }
    $(name).querySelector(".seconds").replaceChildren(...(given[index] ? ticks(length) : []));
  }
}

/** Labels of the axis of time: about six, at round seconds, and the unit at its end. */
function ticks(length) {
  const size = 10 ** Math.floor(Math.log10(length / 5));
  const step = [1, 2, 5, 10].map((times) => times * size).find((each) => length / each <= 6);
  const labels = [];
  for (let index = 0; index * step < length * 0.93; index++) {
    const label = document.createElement("span");
    label.textContent = numbers(2).format(index * step);
    label.style.left = `${(100 * index * step) / length}%`;
    labels.push(label);
  }
  const last = document.createElement("span");
  last.textContent = `${length.toFixed(length < 100 ? 1 : 0)} s`;
  last.style.left = "100%";
  return [...labels, last];
}

// The copy

async function makeCopy() {
  const mine = (running = new AbortController());
  const [used, asked, source] = [model(), bandwidth(), chosen.blob];
  clearErrors();
  show("status", used.loaded ? "Making the copy." : "Loading the model and making the copy.");
  const time = document.createElement("span");
  time.setAttribute("aria-hidden", "true"); // the name of the button stays
  $("run").replaceChildren("Working, cancel", time);
  const began = performance.now();
  const tell = () => (time.textContent = ` (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  const clock = setInterval(tell, 100);
  tell();
  try {
    const answer = await ask(`v1/resynth?${query()}`, {
      method: "POST", body: source, headers: { "Content-Type": "application/octet-stream" }, signal: mine.signal,
    });
    const blob = new Blob([await answer.arrayBuffer()], { type: answer.headers.get("Content-Type") ?? "audio/wav" });
    const answered = performance.now() - began;
    const samples = await decode(blob);
    mine.signal.throwIfAborted();
    if (running !== mine) return;
    if (!used.loaded) await loadModels(); // what it is, is known now
    mine.signal.throwIfAborted();
    const kbps = asked ?? bandwidth();
    made.samples = samples.length ? samples : null;
    $("copy").querySelector(".what").textContent = kbps === null ? used.name : `${used.name}, ${kbps} kbps`;
    play("copy", blob);
    drawBoth();
    const stem = chosen.name.replace(/\.[^.]*$/, "");
    Object.assign($("download"), { href: player("copy").src, download: `${stem}-${kbps === null ? "mels" : `${kbps}kbps`}.${FORMAT}` });
    showFigures(models.find(({ name }) => name === used.name), kbps, source, answered, answer.headers);
    show("status", `The copy is ready: ${(samples.length / SAMPLE_RATE).toFixed(2)} s.`);
  } catch (error) {
    if (running !== mine) return;
    show("status", error.name === "AbortError" ? "Cancelled." : "");
    explain(error, "run-error");
  } finally {
    clearInterval(clock);
    if (running === mine) {
      running = null;
      show("run", "Make the copy");
      refresh();
    }
  }
}

function showFigures({ kind, sample_rate: rate, hop_length: hop, channels }, kbps, source, answered, headers) {
  const length = Number(headers.get("X-Vocos-Seconds")) || made.samples?.length / SAMPLE_RATE || 0;
  const computed = computeMs(headers);
  const speed = (1000 * length) / (computed ?? answered);
  show("answer-ms", inMs(answered));
  show("compute-ms", computed === null ? "–" : inMs(computed));
  show("speed", `${three(speed)} ×`);
  show("speed-of", `real time: ${length.toFixed(2)} s of audio ÷ ${computed === null ? "answer" : "computing"}`);
  const rateOf = kind === "mels" ? (channels * 32 * rate) / hop / 1000 : (kbps ?? 0);
  const bytes = (rateOf * 1000 * length) / 8;
  show("size", length && rateOf ? inBytes(bytes) : "–");
  show("size-of", length && rateOf ? `${kind} of ${three(rateOf)} kbps; the file: ${inBytes(source.size)}, ${three((8 * source.size) / 1000 / length)} kbps` : "");
  $("figures").hidden = false;
}

// The stream

async function stream() {
  const mine = (streaming = new AbortController());
  const context = new AudioContext();
  const signal = mine.signal;
  clearErrors();
  for (const name of names) player(name).pause();
  show("stream-play", "Stop");
  show("stream-status", "Making the tokens.");
  try {
    await context.resume();
    const began = performance.now();
    const answer = await ask(`v1/encode?${query("json")}`, {
      method: "POST", body: chosen.blob, headers: { "Content-Type": "application/octet-stream" }, signal,
    });
    const { tokens, codec, codebooks_sha256 } = await answer.json();
    const encoded = performance.now() - began;
    const start = { model: model().name, codec, codebooks_sha256 };
    if (bandwidth() !== null) start.bandwidth = bandwidth();
    const told = (ms) => `Encoded in ${inMs(encoded)}. First audio ${inMs(ms)} after the first chunk was sent.`;
    const { firstMs, chunks, seconds: length, gaps } = await playStream(context, tokens, start, signal, (ms) => {
      if (streaming === mine) show("stream-status", `${told(ms)} Playing.`);
    });
    const gapless = gaps === 0 ? "without a gap" : gaps === 1 ? "with one gap" : `with ${gaps} gaps`;
    if (streaming === mine && firstMs !== null)
      show("stream-status", `${told(firstMs)} ${length.toFixed(2)} s in ${whole(chunks)} chunks, ${gapless}.`);
  } catch (error) {
    if (streaming === mine) {
      show("stream-status", error.name === "AbortError" ? "Stopped." : "");
      explain(error, "stream-error");
    }
  } finally {
    await context.close();
    if (streaming === mine) {
      streaming = null;
      show("stream-play", "Play as a stream");
      refresh();
    }
  }
}

/** End it, and what is said of it, since it is of something that is no longer chosen. */
function endStream() {
  streaming?.abort();
  streaming = null;
  show("stream-play", "Play as a stream");
  show("stream-status", "");
}

// What is pressed, dropped and typed

let pressed = 0; // when the button last did something
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) makeCopy();
  else if (performance.now() - pressed > 300) running.abort(); // the second press of two is no wish to cancel
  else return;
  pressed = performance.now();
});
$("stream-play").addEventListener("click", () => (streaming ? streaming.abort() : stream()));
$("model").addEventListener("change", () => {
  running?.abort();
  endStream();
  clearErrors();
  showBandwidths();
});
$("bandwidth").addEventListener("change", () => {
  running?.abort();
  endStream();
  refresh();
});
$("file").addEventListener("change", () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same one can be chosen again
  if (file) chooseFile(file);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !(running || streaming)) return;
  event.preventDefault();
  running?.abort();
  streaming?.abort();
});

let depth = 0; // of the elements over which a file is dragged
const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
const dragging = (change) => {
  depth = change === 0 ? 0 : Math.max(0, depth + change);
  document.body.classList.toggle("dragging", depth > 0);
};
document.addEventListener("dragenter", (event) => hasFiles(event) && dragging(1));
document.addEventListener("dragleave", (event) => hasFiles(event) && dragging(-1));
document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dragging(0);
  const files = event.dataTransfer.files;
  if (files.length === 1) chooseFile(files[0]);
  else show("recording-error", `${files.length} files were dropped: drop one recording.`);
});

$("curl-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText($("curl").textContent);
    show("curl-copy", "Copied");
  } catch {
    getSelection().selectAllChildren($("curl")); // where the page may not write there: over http, from another machine
    show("curl-copy", "Selected: press Ctrl+C");
  }
  setTimeout(() => show("curl-copy", "Copy the command"), 2000);
});

$("openapi").addEventListener("click", async (event) => {
  if (!getToken()) return;
  event.preventDefault(); // a link sends no token
  try {
    const href = URL.createObjectURL(await (await ask("openapi.json")).blob());
    Object.assign(document.createElement("a"), { href, download: "openapi.json" }).click();
    setTimeout(() => URL.revokeObjectURL(href), 10_000);
  } catch (error) {
    explain(error, "run-error");
  }
});

$("token-use").addEventListener("click", () => {
  setToken($("token").value.trim());
  clearErrors();
  begin();
});
$("token").addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // which would make a copy
  $("token-use").click();
});

async function begin() {
  try {
    await loadModels();
    document.body.classList.remove("locked");
    if ($("access").contains(document.activeElement)) $("file").focus();
    $("access").hidden = true;
    await loadSamples();
  } catch (error) {
    explain(error, "run-error");
  }
}

refresh();
begin();
