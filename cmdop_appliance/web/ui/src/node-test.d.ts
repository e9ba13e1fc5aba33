// What the tests use of Node; the dashboard itself runs in browsers only.
declare module "node:test" {
  export default function test(name: string, run: () => void | Promise<void>): Promise<void>;
}
declare module "node:assert/strict" {
  export function equal(actual: unknown, expected: unknown, message?: string): void;
  export function deepEqual(actual: unknown, expected: unknown, message?: string): void;
  export function ok(value: unknown, message?: string): asserts value;
  export function throws(act: () => unknown, expected?: RegExp): void;
}
