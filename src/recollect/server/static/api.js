// The server's REST routes. A key lives in the storage of this tab only and travels as a header.

const KEY = "recollect-key";
const seconds = [];
let entry = null; // asks a person for a key
let asking = null;

export class Problem extends Error {
  constructor(message, status, type) {
    super(message);
    this.status = status;
    this.type = type;
  }
}

/** `ask(reason)` -> promise of a key, or of null when none is given. */
export function onKeyNeeded(ask) {
  entry = ask;
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function setKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Milliseconds of this page's recalls: {count, last, median, most}; null before the first. */
export function latency() {
  if (!seconds.length) return null;
  const sorted = [...seconds].sort((a, b) => a - b);
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return { count: seconds.length, last: seconds[seconds.length - 1], median: at(0.5), most: at(0.95) };
}

function headers(extra = {}) {
  const key = sessionStorage.getItem(KEY);
  return key ? { ...extra, Authorization: `Bearer ${key}` } : extra;
}

function address(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}

/** JSON of a route. Raises Problem. */
export async function call(path, { body, query, signal } = {}) {
  const reply = await sent(path, { body, query, signal, accept: "application/json" });
  return reply.json();
}

/** The result of long work; `progress(number)` is called while it goes on. Raises Problem. */
export async function work(path, { body = {}, query, progress = () => {} } = {}) {
  const reply = await sent(path, { body, query, accept: "text/event-stream" });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  const events = new Events(progress);
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return events.end();
    events.take(value);
  }
}

async function sent(path, { body, query, signal, accept }) {
  for (;;) {
    const start = performance.now();
    let reply;
    try {
      reply = await fetch(address(path, query), {
        method: body === undefined ? "GET" : "POST",
        body: body === undefined ? undefined : JSON.stringify(body),
        headers: headers(body === undefined ? { Accept: accept } : { Accept: accept, "Content-Type": "application/json" }),
        credentials: "omit",
        signal,
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem("The server cannot be reached; look if it still runs.", 0, "unreachable");
    }
    if (reply.ok) {
      if (path === "/v1/recall") seconds.push(performance.now() - start);
      if (seconds.length > 200) seconds.shift();
      return reply;
    }
    const error = await problemOf(reply);
    if (error.status !== 401 || !(await newKey(error.message))) throw error;
  }
}

async function problemOf(reply) {
  const told = await reply.json().catch(() => ({}));
  return new Problem(told.error?.message ?? `The server answered with ${reply.status}.`, reply.status, told.error?.type);
}

/** Ask for a key, once for all requests that wait for one; whether there is one now. */
async function newKey(reason) {
  asking ??= entry(hasKey() ? reason : null).finally(() => {
    asking = null;
  });
  const key = await asking;
  if (key) setKey(key);
  return Boolean(key);
}

/** Server-sent events of long work, as they come in. */
class Events {
  constructor(progress) {
    this.progress = progress;
    this.rest = "";
    this.result = undefined;
  }

  take(text) {
    const blocks = (this.rest + text).split("\n\n");
    this.rest = blocks.pop();
    for (const block of blocks) {
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = JSON.parse(/^data: (.*)$/m.exec(block)?.[1] ?? "null");
      if (name === "progress") this.progress(data.done);
      else if (name === "done") this.result = data;
      else if (name === "error") throw new Problem(data.error.message, data.error.code, data.error.type);
    }
  }

  end() {
    if (this.result === undefined) throw new Problem("The server ended before it was done; what was done is kept.", 0, "cut");
    return this.result;
  }
}

/** Send a file to be imported. sent(share of it), progress(number of memories). Raises Problem. */
export function upload(file, query, { sent: onSent, progress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const events = new Events(progress);
    let read = 0;
    const take = () => {
      const text = request.responseText.slice(read);
      read += text.length;
      events.take(text);
    };
    const failed = (error) => reject(error instanceof Problem ? error : new Problem("The server's reply cannot be read.", 0, "cut"));
    request.open("POST", address("/v1/import", query));
    for (const [name, value] of Object.entries(headers({ Accept: "text/event-stream", "Content-Type": "application/octet-stream" }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => event.lengthComputable && onSent(event.loaded / event.total);
    request.onprogress = () => {
      try {
        if (request.status === 200) take();
      } catch (error) {
        failed(error);
      }
    };
    request.onerror = () => reject(new Problem("The file did not reach the server; look if it still runs.", 0, "unreachable"));
    request.onload = () => {
      try {
        if (request.status === 200) {
          take();
          resolve(events.end());
        } else {
          const told = JSON.parse(request.responseText).error;
          reject(new Problem(told.message, request.status, told.type));
        }
      } catch (error) {
        failed(error);
      }
    };
    request.send(file);
  });
}
