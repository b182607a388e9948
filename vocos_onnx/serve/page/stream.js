// Tokens over the WebSocket in chunks, and the audio played as it arrives.

import { ServiceError, getToken, sentence } from "./service.js";

const CHUNK = 8; // frames
const AHEAD = 1; // seconds of audio that wait to be played, at most
const LEAD = 0.05; // seconds before the first audio is played, against gaps

const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

/** The messages of a WebSocket, awaited one after another. */
class Messages {
  #waiting = [];
  #arrived = [];
  #error = null;

  constructor(socket, signal) {
    socket.onmessage = (event) => this.#add(event.data);
    socket.onclose = (event) => {
      const why = event.reason || (event.code === 1006 ? "it ended without a reason" : `code ${event.code}`);
      this.#fail(new ServiceError(sentence(`The service closed the stream: ${why}`), 0));
    };
    signal.addEventListener("abort", () => {
      this.#fail(signal.reason);
      socket.close();
    });
  }

  #add(data) {
    if (this.#waiting.length) this.#waiting.shift().resolve(data);
    else this.#arrived.push(data);
  }

  #fail(error) {
    this.#error ??= error;
    for (const { reject } of this.#waiting.splice(0)) reject(this.#error);
  }

  /** The next one: an ArrayBuffer, or an object that was JSON. Throws ServiceError where it is an error. */
  async next() {
    let data;
    if (this.#arrived.length) data = this.#arrived.shift();
    else if (this.#error) throw this.#error;
    else data = await new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    if (typeof data !== "string") return data;
    const message = JSON.parse(data);
    if (message.type === "error") throw new ServiceError(sentence(message.error), 0);
    return message;
  }
}

/** Play samples one block after another. */
class Speaker {
  constructor(context, sampleRate) {
    this.context = context;
    this.sampleRate = sampleRate;
    this.until = null; // when what has come so far ends, by the clock of the context
    this.samples = 0;
    this.gaps = 0;
  }

  add(samples) {
    if (!samples.length) return;
    const buffer = this.context.createBuffer(1, samples.length, this.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    const now = this.context.currentTime;
    if (this.until === null || this.until < now) {
      if (this.until !== null) this.gaps += 1;
      this.until = now + LEAD;
    }
    source.start(this.until);
    this.until += buffer.duration;
    this.samples += samples.length;
  }

  /** Seconds that are still to be played. */
  get left() {
    return this.until === null ? 0 : this.until - this.context.currentTime;
  }
}

/**
 * Send tokens, one list for each codebook, and play the answers. ``start`` is what the first message says beside.
 * Gives {firstMs, chunks, seconds, gaps}, the first audio counted from when the first chunk was sent.
 */
export async function playStream(context, tokens, start, signal, onFirst) {
  const url = new URL("v1/stream", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const token = getToken();
  const socket = new WebSocket(url, token ? [`vocos.bearer.${encodeURIComponent(token)}`] : []); // it sends no headers
  socket.binaryType = "arraybuffer";
  const messages = new Messages(socket, signal);
  try {
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = () => reject(new ServiceError("The service does not open a stream: it is busy, or has ended.", 0));
      signal.addEventListener("abort", () => reject(signal.reason));
    });
    socket.send(JSON.stringify({ type: "start", kind: "tokens", codebooks: tokens.length, format: "f32le", ...start }));
    const started = await messages.next();
    const speaker = new Speaker(context, started.sample_rate);
    const frames = tokens[0].length;
    let [began, firstMs, chunks] = [performance.now(), null, 0];
    const play = (audio) => {
      speaker.add(new Float32Array(audio));
      if (firstMs === null && speaker.samples) {
        firstMs = performance.now() - began;
        onFirst(firstMs);
      }
    };
    for (let first = 0; first < frames; first += CHUNK) {
      const size = Math.min(CHUNK, frames - first);
      const chunk = new DataView(new ArrayBuffer(2 * size * tokens.length));
      for (let frame = 0; frame < size; frame++)
        tokens.forEach((row, k) => chunk.setUint16(2 * (frame * tokens.length + k), row[first + frame], true));
      socket.send(chunk.buffer);
      chunks += 1;
      play(await messages.next());
      while (speaker.left > AHEAD && !signal.aborted) await sleep(0.05);
      signal.throwIfAborted();
    }
    socket.send(JSON.stringify({ type: "flush" }));
    let message;
    while ((message = await messages.next()) instanceof ArrayBuffer) play(message);
    while (speaker.left > 0 && !signal.aborted) await sleep(0.05);
    signal.throwIfAborted();
    return { firstMs, chunks, seconds: speaker.samples / speaker.sampleRate, gaps: speaker.gaps };
  } finally {
    socket.close();
  }
}
