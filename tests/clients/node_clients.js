// node-redis and ioredis at their defaults, as an application would use them.
// Usage: node node_clients.js PORT. Prints "ok NAME" for each client, exits 1 at the first failure.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createClient, createCluster, WatchError } from "redis";
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

  assert.deepEqual(await client.multi().set("node:t", "1").incr("node:t").get("node:t").exec(), ["OK", 2, "2"]);
  await client.watch("node:t");
  const other = client.duplicate();
  await other.connect();
  await other.set("node:t", "9");
  await assert.rejects(client.multi().set("node:t", "3").exec(), WatchError);

  const waiting = other.blPop("node:list", 10);
  await client.rPush("node:list", "v");
  assert.deepEqual({ ...(await waiting) }, { key: "node:list", element: "v" });

  const subscriber = client.duplicate();
  await subscriber.connect();
  const heard = [];
  await subscriber.subscribe("node:news", (message) => heard.push(message));
  await subscriber.pSubscribe("node:n*", (message) => heard.push(message));
  await subscriber.sSubscribe("node:shard", (message) => heard.push(message));
  await client.publish("node:news", "hello");
  await client.sPublish("node:shard", "there");
  while (heard.length < 3) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual(heard.sort(), ["hello", "hello", "there"]);
  await subscriber.unsubscribe("node:news");

  assert.equal(await client.eval("return ARGV[1]", { keys: ["node:k"], arguments: ["x"] }), "x");
  const found = new Set();
  for await (const keys of client.scanIterator({ MATCH: "node:4?", COUNT: 50 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 10);
  await Promise.all([client.close(), other.close(), subscriber.close()]);
}

async function nodeRedisCluster() {
  const cluster = createCluster({ rootNodes: [{ socket: { host: "127.0.0.1", port } }] });
  cluster.on("error", (error) => { throw error; });
  await cluster.connect();
  await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.set(`nodecluster:${i}`, String(i))));
  const read = await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.get(`nodecluster:${i}`)));
  assert.deepEqual(read, Array.from({ length: 200 }, (_, i) => String(i)));
  assert.deepEqual(await cluster.multi().set("nodecluster:t", "1").incr("nodecluster:t").exec(), ["OK", 2]);
  await cluster.close();
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
  assert.deepEqual(await client.multi().set("io:t", "1").incr("io:t").exec(), [[null, "OK"], [null, 2]]);
  client.defineCommand("echoed", { numberOfKeys: 1, lua: "return ARGV[1]" });
  assert.equal(await client.echoed("io:k", "x"), "x");

  const other = client.duplicate();
  const waiting = other.brpop("io:list", 10);
  await client.lpush("io:list", "v");
  assert.deepEqual(await waiting, ["io:list", "v"]);

  const subscriber = client.duplicate();
  assert.equal(await subscriber.subscribe("io:news", "io:other"), 2);
  const message = once(subscriber, "message");
  assert.equal(await client.publish("io:news", "hello"), 1);
  assert.deepEqual(await message, ["io:news", "hello"]);
  await Promise.all([client.quit(), other.quit(), subscriber.quit()]);
}

async function ioRedisCluster() {
  const cluster = new Redis.Cluster([{ host: "127.0.0.1", port }], { clusterRetryStrategy: null });
  await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.set(`iocluster:${i}`, String(i))));
  const read = await Promise.all(Array.from({ length: 200 }, (_, i) => cluster.get(`iocluster:${i}`)));
  assert.deepEqual(read, Array.from({ length: 200 }, (_, i) => String(i)));
  await cluster.quit();
}

const clients = { "node-redis": nodeRedis, "node-redis cluster": nodeRedisCluster, ioredis: ioRedis,
  "ioredis cluster": ioRedisCluster };
for (const [name, run] of Object.entries(clients)) {
  await run();
  console.log(`ok ${name}`);
}
