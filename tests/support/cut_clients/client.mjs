// Clients in Node: see ../cuts.py. The argument is fetch or http.
import { createHash } from "node:crypto";
import http from "node:http";
import { createInterface } from "node:readline";

async function useFetch({ url, encoding, cut }) {
  const headers = { "accept-encoding": encoding, "x-cut": String(cut) };
  const response = await fetch(url, { headers });
  const body = Buffer.from(await response.arrayBuffer());
  if (response.status !== 200) throw new Error(`status ${response.status}`);
  return body;
}

function useHttp({ url, encoding, cut }) {
  return new Promise((resolve, reject) => {
    const headers = { "accept-encoding": encoding, "x-cut": String(cut) };
    const request = http.get(url, { headers, agent: false }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", reject);
      response.on("end", () =>
        response.statusCode === 200
          ? resolve(Buffer.concat(parts))
          : reject(new Error(`status ${response.statusCode}`)),
      );
    });
    request.on("error", reject);
  });
}

const read = process.argv[2] === "fetch" ? useFetch : useHttp;
for await (const line of createInterface({ input: process.stdin })) {
  let found;
  try {
    const body = await read(JSON.parse(line));
    found = { sha256: createHash("sha256").update(body).digest("hex") };
  } catch (error) {
    found = { error: String(error) };
  }
  console.log(JSON.stringify(found));
}
