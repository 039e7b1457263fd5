// Sends a newsletter to the addresses on standard input, one in each line, and watches it until it has ended.
//
//   SENDQ_URL=http://127.0.0.1:8791 SENDQ_TOKEN=sendq_… node newsletter.mjs GRANT may <readers.txt

import { readFileSync } from "node:fs";
import { Sendq, SendqError } from "./sendq.mjs";

const [grant, issue] = process.argv.slice(2);
const sendq = new Sendq(process.env.SENDQ_URL, process.env.SENDQ_TOKEN);
const readers = readFileSync(0, "utf8").split("\n").filter(Boolean);
const message = { subject: `News of ${issue}`, body: "<p>News</p>" };

try {
  const sends = readers.map((reader) => ({ grant_id: grant, message: { ...message, to: [reader] }, priority: "low" }));
  const batch = await sendq.batch({ sends, tags: { campaign: issue } }, `newsletter-${issue}`);
  console.log(`${batch.existed ? "found" : "enqueued"} ${batch.id}`);
  for (;;) {
    const { progress, counts, finished_at: finished } = await sendq.progress(batch.id);
    console.log(`${Math.round(progress * 100)} % ${JSON.stringify(counts)}`);
    if (finished !== null || process.env.ONCE) break;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
} catch (error) {
  if (!(error instanceof SendqError)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
