// graphile-worker: a queue in PostgreSQL; jobs are fetched and finished in batches, as its page on performance advises.

import { makeWorkerUtils, run } from "graphile-worker";
import { inFlight, parts, play, postgres, send } from "./role.mjs";

const AT_ONCE = 1_000;
const preset = {
  worker: {
    connectionString: postgres,
    concurrentJobs: inFlight,
    maxPoolSize: 10,
    pollInterval: 2_000,
    localQueue: { size: inFlight + 1 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  },
};
const utils = () => makeWorkerUtils({ connectionString: postgres });

await play({
  prepare: async () => (await utils()).migrate(),
  fill: async (letters) => {
    const adder = await utils();
    for (const part of parts(letters, AT_ONCE)) {
      await adder.addJobs(part.map((letter) => ({ identifier: "send", payload: letter })));
    }
  },
  add: (() => {
    let adder;
    return async (letter) => {
      adder ??= await utils();
      return adder.addJob("send", letter);
    };
  })(),
  work: () => run({ preset, taskList: { send: (payload) => send(payload) }, noHandleSignals: false }),
});
