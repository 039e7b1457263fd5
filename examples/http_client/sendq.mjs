// A client of the HTTP API for Node 20 or later, without dependencies.
//
//   const sendq = new Sendq("http://127.0.0.1:8791", process.env.SENDQ_TOKEN);
//   const job = await sendq.send({ grant_id: "…", message: { to: ["leyah@example.com"] } }, "invoice-42");

/** What the server refused: `problems` has the field, the reason and the remedy of everything that is wrong. */
export class SendqError extends Error {
  constructor(problem) {
    const named = (problem.problems ?? []).map((one) => `${one.field}: ${one.reason}; ${one.remedy}`);
    super([problem.title, ...named].join(" | "));
    Object.assign(this, { status: problem.status, type: problem.type, problems: problem.problems ?? [], problem });
  }
}

export class Sendq {
  #base;
  #token;
  #attempts;
  #timeout;

  /** `attempts`: of a request that may be repeated; `timeout`: seconds of each. */
  constructor(base, token, { attempts = 5, timeout = 150 } = {}) {
    this.#base = base.replace(/\/$/, "");
    this.#token = token;
    this.#attempts = attempts;
    this.#timeout = timeout;
  }

  /** Enqueue one message. With the same key and content again, it returns the first job. */
  send(request, key) {
    return this.#call("POST", "/v1/send", { json: request, key });
  }

  /** Enqueue one message with files: `[{ name: "attachments", blob, filename }]`. */
  sendWithFiles(request, files, key) {
    const form = new FormData();
    form.set("send", JSON.stringify(request));
    for (const { name, blob, filename } of files) form.append(name ?? "attachments", blob, filename);
    return this.#call("POST", "/v1/send", { form, key });
  }

  /** Make a batch of messages. */
  batch(request, key) {
    return this.#call("POST", "/v1/batches", { json: request, key });
  }

  /** A batch and its progress. */
  progress(id) {
    return this.#call("GET", `/v1/batches/${encodeURIComponent(id)}`);
  }

  job(id) {
    return this.#call("GET", `/v1/jobs/${encodeURIComponent(id)}`);
  }

  why(id) {
    return this.#call("GET", `/v1/jobs/${encodeURIComponent(id)}/why`);
  }

  cancel(id) {
    return this.#call("POST", `/v1/jobs/${encodeURIComponent(id)}/cancel`);
  }

  /** Enqueue a change of messages in a mailbox, such as `{ grant_id, message_ids, unread: false, undoable: true }`. */
  modify(request, key) {
    return this.#call("POST", "/v1/modify", { json: request, key });
  }

  /** Undo a batch of changes that was `undoable` and has ended. */
  undo(id, { key, ...request } = {}) {
    return this.#call("POST", `/v1/batches/${encodeURIComponent(id)}/undo`, { json: request, key });
  }

  /** Repeats only requests without side effects, and those with a key. */
  async #call(method, path, { json, form, key } = {}) {
    const headers = new Headers({ authorization: `Bearer ${this.#token}` }); // throws for a key that is not ASCII
    if (key !== undefined) headers.set("idempotency-key", key);
    if (json !== undefined) headers.set("content-type", "application/json");
    const url = new URL(this.#base + path);
    const body = form ?? (json && JSON.stringify(json));
    const repeatable = method === "GET" || key !== undefined;
    for (let attempt = 1; ; attempt += 1) {
      let wait = 2 ** attempt;
      try {
        const answer = await fetch(url, { method, headers, body, signal: AbortSignal.timeout(this.#timeout * 1000) });
        const text = await answer.text();
        if (answer.ok) return JSON.parse(text);
        const later = [408, 429, 500, 502, 503, 504].includes(answer.status);
        if (!later || !repeatable || attempt >= this.#attempts) throw new SendqError(problemOf(answer, text));
        wait = Number(answer.headers.get("retry-after") ?? wait);
      } catch (error) {
        // No answer: whether it was stored is not known, and a repeat with the key finds out.
        if (error instanceof SendqError || !repeatable || attempt >= this.#attempts) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}

/** What a problem says, or, of a proxy in between, only its status. */
function problemOf(answer, text) {
  try {
    return { status: answer.status, title: `The server answered ${answer.status}`, ...JSON.parse(text) };
  } catch {
    return { status: answer.status, title: `A server in between answered ${answer.status}` };
  }
}
