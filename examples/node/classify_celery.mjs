// Classify images through the queue itself from Node 18 or newer, with no package: one JSON line per image.
// docs/messages.md says what travels. Usage: BROKER_URL=redis://:PASSWORD@HOST:6379/0 node classify_celery.mjs REFERENCE...
import { randomUUID } from "node:crypto";
import { createConnection } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

const { BROKER_URL, MODEL = "default" } = process.env;
const FINAL = new Set(["succeeded", "partial", "failed", "cancelled", "expired"]);
const ANSWER_MS = 60_000, RESEND_MS = 5_000, PAGE = 1000;

// The few words of Redis that are needed: commands as arrays of texts, answers as texts, numbers or null.
class Redis {
  #waiting = [];
  #read = Buffer.alloc(0);

  constructor(url) {
    const place = new URL(url.replace("redis+socket://", "unix://"));
    const at = place.protocol === "unix:" ? { path: place.pathname } : { host: place.hostname, port: Number(place.port || 6379) };
    this.socket = createConnection(at);
    this.socket.on("data", (data) => this.#take(data));
    this.socket.on("error", (wrong) => this.#waiting.splice(0).forEach(({ reject }) => reject(wrong)));
    const user = decodeURIComponent(place.username), password = decodeURIComponent(place.password);
    const base = place.protocol === "unix:" ? "" : place.pathname.slice(1);
    this.ready = Promise.all([
      password && this.command("AUTH", ...(user ? [user] : []), password),
      base && base !== "0" && this.command("SELECT", base),
    ]);
  }

  command(...words) {
    const parts = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
    this.socket.write(`*${words.length}\r\n${parts.join("")}`);
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  #take(data) {
    this.#read = Buffer.concat([this.#read, data]);
    for (let end; (end = this.#read.indexOf("\r\n")) >= 0; ) {
      const kind = String.fromCharCode(this.#read[0]), line = this.#read.toString("utf8", 1, end);
      let value = kind === ":" ? Number(line) : line, next = end + 2;
      if (kind === "$" && line === "-1") value = null;
      else if (kind === "$") {
        if (this.#read.length < next + Number(line) + 2) return;
        value = this.#read.toString("utf8", next, next + Number(line));
        next += Number(line) + 2;
      }
      this.#read = this.#read.subarray(next);
      const { resolve, reject } = this.#waiting.shift();
      if (kind === "-") reject(new Error(line)); else resolve(value);
    }
  }
}

// A message of Celery's protocol 2, as kombu writes it into Redis.
function envelope(task, id, kwargs) {
  const body = JSON.stringify([[], kwargs, { callbacks: null, errbacks: null, chain: null, chord: null }]);
  return JSON.stringify({
    body: Buffer.from(body).toString("base64"),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    headers: { lang: "js", task, id, root_id: id, parent_id: null, group: null, retries: 0, eta: null, expires: null,
      timelimit: [null, null], argsrepr: "()", kwargsrepr: "{}", origin: "node", ignore_result: false },
    properties: { correlation_id: id, reply_to: id, delivery_mode: 2, priority: 0, body_encoding: "base64",
      delivery_tag: randomUUID(), delivery_info: { exchange: "", routing_key: "imagemill:intake" } },
  });
}

// Send, and read what intake stores under the message's id; sent again, it is the same question.
async function ask(redis, task, kwargs) {
  const id = randomUUID(), message = envelope(`imagemill.${task}.v1`, id, kwargs);
  let sent = -Infinity;
  for (const began = Date.now(); Date.now() - began < ANSWER_MS; await sleep(20)) {
    if (Date.now() - sent > RESEND_MS) {
      await redis.command("LPUSH", "imagemill:intake", message);
      sent = Date.now();
    }
    const stored = await redis.command("GET", `celery-task-meta-${id}`);
    if (stored === null) continue;
    const { status, result } = JSON.parse(stored);
    if (status !== "SUCCESS") throw new Error(`Intake failed: ${result.exc_type}`);
    if (result.refused) throw new Error(result.refused.message);
    return result.ok;
  }
  throw new Error("Intake did not answer. Does it run?");
}

const redis = new Redis(BROKER_URL);
await redis.ready;
const job_id = randomUUID();
const items = process.argv.slice(2).map((reference, number) => ({ reference, key: `image-${number}` }));
let job = await ask(redis, "submit", { job_id, model: MODEL, priority: "interactive", items });
while (!FINAL.has(job.state)) {
  await sleep(100);
  job = await ask(redis, "status", { job_id });
}
console.error(`job ${job_id} ${job.state}`);
for (let after = -1, page; (page = await ask(redis, "results", { job_id, after, limit: PAGE })).length; ) {
  for (const { key, reference, label, score, error } of page)
    console.log(JSON.stringify({ key, reference, label, score, error: error?.message ?? null }));
  after = page.at(-1).position;
}
redis.socket.end();
