// The client from npm, unmodified but for the base URL, against a running server: clients.mjs URL KEY.
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, key] = process.argv.slice(2);
const texts = ["a b c", "d e", "a"];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const headers = { "content-type": "application/json", authorization: `Bearer ${key}` };
const body = JSON.stringify({ inputs: texts });
const plain = await (await fetch(`${url}/embed`, { method: "POST", headers, body })).json();

// It asks for base64 and decodes it.
const answer = await client.embeddings.create({ model: "tiny", input: texts });
assert.equal(answer.data.length, 3);
answer.data.forEach(({ embedding, index }, place) => {
  assert.equal(index, place);
  assert.equal(embedding.length, plain[place].length);
  embedding.forEach((x, i) => assert.ok(Math.abs(x - plain[place][i]) < 1e-6));
});
const short = await client.embeddings.create({ model: "tiny", input: "a", encoding_format: "float", dimensions: 32 });
assert.equal(short.data[0].embedding.length, 32);
const models = await client.models.list();
assert.deepEqual(models.data.map((model) => model.id), ["tiny"]);
await assert.rejects(client.embeddings.create({ model: "none", input: "a" }), OpenAI.NotFoundError);
await assert.rejects(client.embeddings.create({ model: "tiny", input: "" }), OpenAI.BadRequestError);
console.log("ok openai for JavaScript");
