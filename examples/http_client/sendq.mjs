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

  constructor(base, token, { attempts = 5 } = {}) {
    this.#base = base.replace(/\/$/, "");
    this.#token = token;
    this.#attempts = attempts;
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

  /** Requests that may be repeated are: those without effect, and those with a key. */
  async #call(method, path, { json, form, key } = {}) {
    const headers = { authorization: `Bearer ${this.#token}` };
    if (key !== undefined) headers["idempotency-key"] = key;
    if (json !== undefined) headers["content-type"] = "application/json";
    const repeatable = method === "GET" || key !== undefined;
    for (let attempt = 1; ; attempt += 1) {
      let wait = 2 ** attempt;
      try {
        const answer = await fetch(this.#base + path, { method, headers, body: form ?? (json && JSON.stringify(json)) });
        const content = await answer.json();
        if (answer.ok) return content;
        const later = [408, 429, 503].includes(answer.status);
        if (!later || !repeatable || attempt >= this.#attempts) throw new SendqError(content);
        wait = Number(answer.headers.get("retry-after") ?? wait);
      } catch (error) {
        // No answer: whether it was stored is not known, and a repeat with the key finds out.
        if (error instanceof SendqError || !repeatable || attempt >= this.#attempts) throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }
}
