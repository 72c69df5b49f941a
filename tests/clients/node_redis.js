// node-redis and ioredis at their defaults, as an application would use them.
// Usage: node node_redis.js PORT. Prints "ok NAME" for each client, exits 1 at the first failure.
import assert from "node:assert/strict";
import { createClient } from "redis";
import Redis from "ioredis";

const port = Number(process.argv[2]);

async function nodeRedis() {
  const client = createClient({ socket: { host: "127.0.0.1", port, reconnectStrategy: false } });
  client.on("error", (error) => { throw error; });
  await client.connect();
  await client.mSet([["node:a", "1"], ["node:b", "2"], ["node:c", "3"]]);
  assert.deepEqual(await client.mGet(["node:a", "node:b", "node:c", "node:none"]), ["1", "2", "3", null]);
  assert.equal(await client.incr("node:a"), 2);
  await client.hSet("node:hash", { field: "value", other: "x" });
  // A map in RESP3: the shape is only right if the server's reply came through unchanged.
  assert.deepEqual({ ...(await client.hGetAll("node:hash")) }, { field: "value", other: "x" });
  await client.zAdd("node:zset", [{ score: 1.5, value: "m" }]);
  assert.equal(await client.zScore("node:zset", "m"), 1.5);
  const many = await Promise.all(Array.from({ length: 500 }, (_, i) => client.set(`node:${i}`, String(i))));
  assert.ok(many.every((reply) => reply === "OK"));
  const read = await Promise.all(Array.from({ length: 500 }, (_, i) => client.get(`node:${i}`)));
  assert.deepEqual(read, Array.from({ length: 500 }, (_, i) => String(i)));
  await assert.rejects(client.sendCommand(["NOSUCHCOMMAND"]), /unknown command/);
  assert.equal(await client.del(["node:a", "node:b", "node:c"]), 3);
  assert.equal(await client.ping(), "PONG");
  await client.close();
}

async function ioRedis() {
  const client = new Redis({ host: "127.0.0.1", port, retryStrategy: null });
  await client.mset("io:a", "1", "io:b", "2");
  assert.deepEqual(await client.mget("io:a", "io:b", "io:none"), ["1", "2", null]);
  await client.hset("io:hash", { field: "value" });
  assert.deepEqual(await client.hgetall("io:hash"), { field: "value" });
  const replies = await client.pipeline().set("io:x", "y").get("io:x").exec();
  assert.deepEqual(replies, [[null, "OK"], [null, "y"]]);
  assert.equal(await client.del("io:a", "io:b", "io:x", "io:hash"), 4);
  await client.quit();
}

for (const [name, run] of [["node-redis", nodeRedis], ["ioredis", ioRedis]]) {
  await run();
  console.log(`ok ${name}`);
}
