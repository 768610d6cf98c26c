// BullMQ, the queue of Node.js: lists and sorted sets in Redis, scripts in Lua, waiters hear by a stream of events.
//
// `bench.mjs work` is the worker; without an argument it is the producer that the runner talks to, one JSON a line, as
// in bench/peers/producing.py.

import { openSync, writeSync } from "node:fs";
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { Queue, QueueEvents, Worker } from "bullmq";

const NAME = "bench";
const CHUNK = 500;
const WAIT_MS = 30_000;
const GAP_MS = 5;

const { hostname, port } = new URL(process.env.BENCH_URL);
const connection = { host: hostname, port: Number(port), maxRetriesPerRequest: null };
const concurrency = Number(process.env.BENCH_CONCURRENCY);

const expected = (number) => ({ number, square: number * number });
const isRight = (number, found) => found?.number === number && found?.square === number * number;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);

function work() {
  const ledger = openSync(process.env.BENCH_LEDGER, "a", 0o600);
  const noop = async (job) => {
    const { number } = job.data;
    writeSync(ledger, `${number} ${Date.now()}000000\n`);
    return expected(number);
  };
  const worker = new Worker(NAME, noop, { connection, concurrency });
  worker.on("error", (error) => console.error(error));
  process.on("SIGTERM", async () => {
    await worker.close();
    process.exit(0);
  });
}

async function produce() {
  const queue = new Queue(NAME, { connection });
  const events = new QueueEvents(NAME, { connection });
  await events.waitUntilReady();
  const ids = new Map();

  async function call(first, end) {
    const ms = [];
    const wrong = [];
    for (let number = first; number < end; number++) {
      const begin = performance.now();
      const job = await queue.add("noop", { number });
      const found = await job.waitUntilFinished(events, WAIT_MS);
      ms.push(performance.now() - begin);
      if (!isRight(number, found)) wrong.push(`${number}: ${JSON.stringify(found)}`);
      await sleep(GAP_MS);
    }
    return { ms, wrong };
  }

  async function check() {
    let right = 0;
    const wrong = [];
    for (const [number, id] of ids) {
      const job = await queue.getJob(id);
      if (isRight(number, job?.returnvalue)) right++;
      else if (wrong.length < 10) wrong.push(`${number}: ${JSON.stringify(job?.returnvalue)}`);
    }
    return { right, wrong };
  }

  const orders = {
    async submit({ first, end }) {
      const begin = performance.now();
      for (let number = first; number < end; number++) ids.set(number, (await queue.add("noop", { number })).id);
      return { seconds: (performance.now() - begin) / 1000 };
    },
    async submit_all({ first, end }) {
      const begin = performance.now();
      for (let start = first; start < end; start += CHUNK) {
        const numbers = Array.from({ length: Math.min(CHUNK, end - start) }, (_, i) => start + i);
        const jobs = await queue.addBulk(numbers.map((number) => ({ name: "noop", data: { number } })));
        jobs.forEach((job, i) => ids.set(numbers[i], job.id));
      }
      return { seconds: (performance.now() - begin) / 1000 };
    },
    call: ({ first, end }) => call(first, end),
    async left() {
      const counts = await queue.getJobCounts("wait", "active", "delayed", "prioritized", "failed");
      return { left: Object.values(counts).reduce((a, b) => a + b, 0) };
    },
    check,
  };

  const { version } = createRequire(import.meta.url)("bullmq/package.json");
  say({
    version: `${version}, Node.js ${process.versions.node}`,
    worker: [process.execPath, fileURLToPath(import.meta.url), "work"],
    guarantee: "at least once: a killed worker's jobs are found stalled within 30 to 60 s, and run again once",
    settings: `concurrency as all, finished jobs kept, ioredis, addBulk of ${CHUNK}; waits by QueueEvents`,
  });
  for await (const line of createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    say(await orders[order.do](order));
  }
  process.exit(0);
}

if (process.argv[2] === "work") work();
else await produce();
