// Spectrograms from 0 to 12 kHz in decibels.

export const SAMPLE_RATE = 24000;
const SIZE = 1024;
const BINS = SIZE / 2;
const HOP = SIZE / 4;
const MOST_COLUMNS = 1200;
const RANGE_DB = 90;
const MAGMA = ["000004", "1d1147", "51127c", "832681", "b73779", "e75263", "fc8961", "fec488", "fcfdbf"];

const hann = Float32Array.from({ length: SIZE }, (_, n) => 0.5 - 0.5 * Math.cos((2 * Math.PI * n) / SIZE));
const cosines = Float32Array.from({ length: BINS }, (_, n) => Math.cos((2 * Math.PI * n) / SIZE));
const sines = Float32Array.from({ length: BINS }, (_, n) => -Math.sin((2 * Math.PI * n) / SIZE));
const reversed = Uint16Array.from({ length: SIZE }, (_, n) => {
  let result = 0;
  for (let bit = 1; bit < SIZE; bit *= 2) result = 2 * result + (n & bit ? 1 : 0);
  return result;
});
const colours = Uint8ClampedArray.from({ length: 3 * 256 }, (_, n) => {
  const place = (Math.floor(n / 3) / 255) * (MAGMA.length - 1);
  const first = Math.min(Math.floor(place), MAGMA.length - 2);
  const [low, high] = [0, 1].map((next) => parseInt(MAGMA[first + next].slice(2 * (n % 3), 2 * (n % 3) + 2), 16));
  return low + (high - low) * (place - first);
});

/** The samples of an audio file, mixed to mono at 24 kHz. Throws where the browser cannot read it. */
export async function decode(blob) {
  const buffer = await new OfflineAudioContext(1, 1, SAMPLE_RATE).decodeAudioData(await blob.arrayBuffer());
  const mono = buffer.getChannelData(0);
  for (let channel = 1; channel < buffer.numberOfChannels; channel++) {
    const other = buffer.getChannelData(channel);
    for (let n = 0; n < mono.length; n++) mono[n] += other[n];
  }
  for (let n = 0; n < mono.length; n++) mono[n] /= buffer.numberOfChannels;
  return mono;
}

/** The Fourier transform of SIZE complex numbers, in place: Cooley and Tukey's, of radix 2. */
function transform(real, imaginary) {
  for (let n = 0; n < SIZE; n++) {
    const other = reversed[n];
    if (other > n) {
      [real[n], real[other]] = [real[other], real[n]];
      [imaginary[n], imaginary[other]] = [imaginary[other], imaginary[n]];
    }
  }
  for (let half = 1; half < SIZE; half *= 2) {
    const stride = BINS / half;
    for (let start = 0; start < SIZE; start += 2 * half) {
      for (let k = 0; k < half; k++) {
        const a = start + k;
        const b = a + half;
        const c = cosines[k * stride];
        const s = sines[k * stride];
        const re = real[b] * c - imaginary[b] * s;
        const im = real[b] * s + imaginary[b] * c;
        real[b] = real[a] - re;
        imaginary[b] = imaginary[a] - im;
        real[a] += re;
        imaginary[a] += im;
      }
    }
  }
}

/** Levels in dB of samples over so many seconds: columns, one after another, of the frequencies from 0 up; and their top. */
export function analyse(samples, seconds) {
  const hop = Math.max(HOP, Math.ceil((seconds * SAMPLE_RATE) / MOST_COLUMNS));
  const columns = Math.max(1, Math.ceil((seconds * SAMPLE_RATE) / hop));
  const levels = new Float32Array(columns * BINS).fill(-Infinity);
  const energy = new Float64Array(BINS);
  const [real, imaginary] = [new Float32Array(SIZE), new Float32Array(SIZE)];
  let top = -Infinity;
  for (let column = 0; column * hop < samples.length; column++) {
    const first = column * hop - SIZE / 2; // the window is centred
    real.fill(0);
    imaginary.fill(0);
    const end = Math.min(SIZE, samples.length - first);
    for (let n = Math.max(0, -first); n < end; n++) real[n] = hann[n] * samples[first + n];
    transform(real, imaginary);
    for (let bin = 0; bin < BINS; bin++) {
      const power = real[bin] ** 2 + imaginary[bin] ** 2;
      const level = 10 * Math.log10(power + 1e-12);
      levels[column * BINS + bin] = level;
      energy[bin] += power;
      if (level > top) top = level;
    }
  }
  return { levels, columns, energy, top };
}

/** Draw levels, with this top as the brightest colour and 90 dB less as the darkest. */
export function draw(canvas, { levels, columns }, top) {
  [canvas.width, canvas.height] = [columns, BINS];
  const image = new ImageData(columns, BINS);
  for (let column = 0; column < columns; column++) {
    for (let bin = 0; bin < BINS; bin++) {
      const shade = Math.round(255 * (1 + (levels[column * BINS + bin] - top) / RANGE_DB));
      const colour = 3 * Math.max(0, Math.min(255, shade));
      const pixel = 4 * ((BINS - 1 - bin) * columns + column);
      image.data[pixel] = colours[colour];
      image.data[pixel + 1] = colours[colour + 1];
      image.data[pixel + 2] = colours[colour + 2];
      image.data[pixel + 3] = 255;
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** What the picture shows, in words. */
export function describe(name, { energy }, seconds) {
  const total = energy.reduce((sum, value) => sum + value, 0);
  const axes = `Spectrogram of the ${name}, 0 to ${seconds.toFixed(2)} s and 0 to 12 kHz`;
  if (total <= 1e-6) return `${axes}: silence.`;
  const below = (share) => {
    let sum = 0;
    const bin = energy.findIndex((value) => (sum += value) >= share * total);
    return (((bin + 1) * SAMPLE_RATE) / SIZE / 1000).toFixed(1);
  };
  return `${axes}: half of the energy is below ${below(0.5)} kHz, 99 % below ${below(0.99)} kHz, 99.99 % below ${below(0.9999)} kHz.`;
}
