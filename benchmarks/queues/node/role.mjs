// The part that a queue's program plays, in the words of ../role.py; and the call itself, through undici's pool.

import { Agent, request } from "undici";

const given = process.env;
export const redisSocket = given.PEER_REDIS_SOCKET;
export const postgres = given.PEER_POSTGRES;
export const inFlight = Number(given.PEER_IN_FLIGHT ?? 1);
const BODY_CHARACTERS = 2_000;

const agent = new Agent({ connections: inFlight, pipelining: 1, headersTimeout: 150_000, bodyTimeout: 150_000 });

export async function send({ grant, id, body }) {
  const answer = await request(`${given.PEER_API}/v3/grants/${grant}/messages/send`, {
    method: "POST",
    dispatcher: agent,
    body,
    headers: {
      authorization: `Bearer ${given.PEER_API_KEY}`,
      "content-type": "application/json",
      "idempotency-key": id,
    },
  });
  await answer.body.text();
  if (answer.statusCode !== 200) throw new Error(`the API said ${answer.statusCode}`);
}

function letter(number) {
  const body = JSON.stringify({
    to: [{ email: "leyah@example.com" }],
    subject: `Invoice ${number}`,
    body: "x".repeat(BODY_CHARACTERS),
  });
  return { grant: `grant-${number % Number(given.PEER_LANES)}`, id: `letter-${number}`, body };
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function drip(add, letters, perSecond) {
  const began = performance.now();
  const taken = {};
  for (const [place, { number, letter }] of letters.entries()) {
    await pause(Math.max(0, began + (place / perSecond) * 1000 - performance.now()));
    await add(letter);
    taken[number] = Number(process.hrtime.bigint());
  }
  return taken;
}

function secondsSince(before) {
  const used = process.cpuUsage(before);
  return (used.user + used.system) / 1e6;
}

// A pipe takes what is longer than its buffer later, and an exit before that would cut it.
function print(value) {
  return new Promise((written) => process.stdout.write(`${JSON.stringify(value)}\n`, written));
}

export async function play({ prepare, fill, add, work }) {
  const [role, first, jobs, perSecond] = process.argv.slice(2);
  const letters = Array.from({ length: Number(jobs ?? 0) }, (_, n) => letter(Number(first) + n));
  if (role === "work") return work();
  if (role === "prepare") await prepare();
  const before = process.cpuUsage();
  if (role === "fill") {
    await fill(letters);
    await print(secondsSince(before));
  }
  if (role === "drip") {
    const numbered = letters.map((letter, n) => ({ number: Number(first) + n, letter }));
    const taken = await drip(add, numbered, Number(perSecond));
    await print({ taken, cpu_s: secondsSince(before) });
  }
  process.exit(0);
}

export function* parts(letters, size) {
  for (let first = 0; first < letters.length; first += size) yield letters.slice(first, first + size);
}
