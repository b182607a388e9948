// Requests to the service, with the bearer token where there is one.

const KEY = "vocos-token";
let token = stored();

/** What the service gave as a reason, with the status of the answer; 0 where there was none. */
export class ServiceError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // where the browser stores nothing
  }
}

export function getToken() {
  return token;
}

/** Keep the token for this tab, and no longer. */
export function setToken(given) {
  token = given;
  try {
    if (token) sessionStorage.setItem(KEY, token);
    else sessionStorage.removeItem(KEY);
  } catch {
    // then until the page is loaded again
  }
}

/** A reason of the service as a sentence: it begins in lower case there, as names and commands do that stay as they are. */
export function sentence(reason) {
  const begun = /^[a-z]+(?=[ ,:]|'s )/.test(reason) ? reason[0].toUpperCase() + reason.slice(1) : reason;
  return /[.?!]$/.test(begun) || begun.includes("ffmpeg ") ? begun : `${begun}.`;
}

/** The answer to a request. Throws ServiceError, or AbortError where the signal ends it. */
export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError("The service closed the connection or does not run.", 0);
  }
  if (response.ok) return response;
  let reason = `${response.status} ${response.statusText}`.trim();
  try {
    const given = (await response.json()).error;
    if (typeof given === "string") reason = given;
  } catch (error) {
    if (error.name === "AbortError") throw error; // and an answer that is not JSON is a proxy's
  }
  const wait = response.headers.get("Retry-After");
  if (wait) reason += ` (try again in ${wait} s)`;
  throw new ServiceError(sentence(reason), response.status);
}

/** Milliseconds that the service computed, or null. */
export function computeMs(headers) {
  const timing = /(?:^|,)\s*compute\s*;[^,]*?dur=([\d.]+)/.exec(headers.get("Server-Timing") ?? "");
  const given = headers.get("X-Vocos-Compute-Ms") ?? timing?.[1];
  return given === undefined || given === null || !Number.isFinite(Number(given)) ? null : Number(given);
}
