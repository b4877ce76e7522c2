import { createHmac, timingSafeEqual } from "node:crypto";

// `headers` with lower-case names; `body` a Buffer with the exact bytes received.
export function verify(secret, headers, body, toleranceSeconds = 300) {
  const id = headers["webhook-id"];
  const timestamp = headers["webhook-timestamp"];
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > toleranceSeconds) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const mac = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest("base64");
  const expected = Buffer.from(`v1,${mac}`);
  return headers["webhook-signature"].split(" ").some((given) => {
    const other = Buffer.from(given);
    return other.length === expected.length && timingSafeEqual(other, expected);
  });
}
