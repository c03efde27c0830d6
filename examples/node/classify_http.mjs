// Classify images over HTTP from Node 18 or newer, with no package: one JSON line per image.
// Usage: MILL_URL=http://127.0.0.1:8080 MILL_KEY=... MODEL=default node classify_http.mjs REFERENCE...
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

const { MILL_URL, MILL_KEY, MODEL = "default" } = process.env;
const FINAL = new Set(["succeeded", "partial", "failed", "cancelled", "expired"]);

// Call, again where the queue is full or the server away: with the same key a job is the same job, however often sent.
async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${MILL_KEY}`, "Content-Type": "application/json", ...options.headers };
  for (let attempt = 1; ; attempt++) {
    const answer = await fetch(MILL_URL + path, { ...options, headers });
    if (answer.ok) return answer;
    const problem = await answer.json();
    if (![429, 503].includes(answer.status) || attempt === 5) throw new Error(problem.detail);
    await sleep(1000 * Number(answer.headers.get("Retry-After") ?? 1));
  }
}

const items = process.argv.slice(2).map((reference, number) => ({ reference, custom_id: `image-${number}` }));
const submitted = await call("/v1/jobs", {
  method: "POST",
  headers: { "Idempotency-Key": randomUUID() },
  body: JSON.stringify({ model: MODEL, priority: "interactive", items }),
});
let job = await submitted.json();
while (!FINAL.has(job.status)) job = await (await call(`/v1/jobs/${job.id}?wait_s=30`)).json();

console.error(`job ${job.id} ${job.status}`);
const results = await call(job.results_url);
for (const line of (await results.text()).split("\n").filter(Boolean)) {
  const { custom_id, reference, label, score, error } = JSON.parse(line);
  console.log(JSON.stringify({ custom_id, reference, label, score, error: error?.message ?? null }));
}
