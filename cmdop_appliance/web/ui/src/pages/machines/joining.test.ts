import { deepEqual, equal } from "node:assert/strict";
import test from "node:test";
import { tagsIn } from "../../parts/tags";
import { byHand, isGood, isLocal, oneLine } from "./joining";

const PROGRAM = { name: "cmdop-linux-x86_64", platform: "linux-x86_64", size: 1, sha256: "ab" };

test("a shell takes the address of the line as it is, also that of IPv6", () => {
  equal(
    oneLine("http://nas.lan:8484", "cmdop_enroll_x-1", null),
    "curl -fsSL http://nas.lan:8484/dl/join.sh | CMDOP_JOIN_KEY=cmdop_enroll_x-1 sh",
  );
  equal(oneLine("http://[fe80::1]:80", "t", null).split(" ")[2], "'http://[fe80::1]:80/dl/join.sh'");
});

test("by hand the program is checked before it runs; without one to fetch only the joining is left", () => {
  deepEqual(byHand("http://localhost", "t", PROGRAM, null), [
    "curl -fsSL -O http://localhost/dl/cmdop-linux-x86_64",
    "echo 'ab  cmdop-linux-x86_64' | sha256sum -c && chmod +x cmdop-linux-x86_64",
    "./cmdop-linux-x86_64 agent --hub http://localhost --token t",
  ]);
  deepEqual(byHand("https://h", "t", undefined, null), ["cmdop agent --hub https://h --token t"]);
  deepEqual(byHand("http://h", "t", undefined, null), ["cmdop agent --hub http://h --plain-http --token t"]);
});

test("a hub for which nobody vouches is known by its key", () => {
  const curl = "curl -fsSLk --pinnedpubkey sha256//a+b=";
  equal(oneLine("https://h", "t", "sha256//a+b="), `${curl} https://h/dl/join.sh | CMDOP_JOIN_KEY=t sh`);
  equal(byHand("https://h", "t", PROGRAM, "sha256//a+b=")[0], `${curl} -O https://h/dl/cmdop-linux-x86_64`);
});

test("a token is offered again until it is used up or too old", () => {
  const token = { id: "enr_1", tags: [], max_uses: 2, uses: 0, expires_at: "2026-01-01T00:00:00Z", token: "t" };
  const end = Date.parse(token.expires_at);
  deepEqual([isGood(token, 1, end - 1), isGood(token, 2, end - 1), isGood(token, 0, end), isGood(null, 0, 0)], [true, false, false, false]);
});

test("an address of this machine alone is known for one", () => {
  deepEqual(["localhost", "127.0.0.1", "[::1]", "hub.localhost", "nas.lan", "127.example.org"].map(isLocal), [true, true, true, true, false, false]);
});

test("tags may be parted by commas and blanks, and count once", () => {
  deepEqual(tagsIn(" prod, web  prod,"), ["prod", "web"]);
});
