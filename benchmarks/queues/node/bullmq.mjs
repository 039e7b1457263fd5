// BullMQ: jobs are added in bulk, and removed when they are done.

import { Queue, Worker } from "bullmq";
import IORedis from "ioredis";
import { inFlight, parts, play, redisSocket, send } from "./role.mjs";

const connection = () => new IORedis({ path: redisSocket, maxRetriesPerRequest: null });
const OPTIONS = { removeOnComplete: true };
const AT_ONCE = 1_000;

await play({
  prepare: async () => {},
  fill: async (letters) => {
    const queue = new Queue("send", { connection: connection() });
    for (const part of parts(letters, AT_ONCE)) {
      await queue.addBulk(part.map((letter) => ({ name: "send", data: letter, opts: { ...OPTIONS, jobId: letter.id } })));
    }
  },
  add: (() => {
    let queue;
    return (letter) => {
      queue ??= new Queue("send", { connection: connection() });
      return queue.add("send", letter, { ...OPTIONS, jobId: letter.id });
    };
  })(),
  work: () => {
    const worker = new Worker("send", (job) => send(job.data), { connection: connection(), concurrency: inFlight });
    worker.on("error", (error) => console.error(error));
  },
});
