import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { headersOf, hostOf } from "./events";

test("a receiver is shown without the path that may be its secret", () => {
  equal(hostOf("https://discord.com/api/webhooks/1/secret"), "discord.com");
  equal(hostOf("no url"), "?");
});

test("headers are read line by line", () => {
  deepEqual(headersOf("Authorization: Bearer a:b\n\nX-Gotify-Key:k"), { Authorization: "Bearer a:b", "X-Gotify-Key": "k" });
});
