// Verify a callback as Standard Webhooks signs it, in Node 18 or newer, with no package.
import { createHmac, timingSafeEqual } from "node:crypto";

const TOLERANCE_S = 300;

// `headers` have lower-case names, `body` is the bytes as they came, before anything reads them as JSON.
export function isOurs(secret, headers, body, nowS = Date.now() / 1000) {
  const { "webhook-id": id, "webhook-timestamp": at, "webhook-signature": signatures } = headers;
  if (!(Math.abs(nowS - Number(at)) < TOLERANCE_S)) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const expected = createHmac("sha256", key).update(`${id}.${at}.`).update(body).digest();
  return signatures.split(" ").some((one) => {
    const [version, text] = one.split(",");
    const given = Buffer.from(text ?? "", "base64");
    return version === "v1" && given.length === expected.length && timingSafeEqual(given, expected);
  });
}
