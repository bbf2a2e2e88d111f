import { readFileSync } from "node:fs";

import { describe, expect, test } from "vitest";

import { arrayOf, axisSize, BadView, readView, type View } from "../src/api/view";
import { ViewCache } from "../src/sources/cache";
import { viewPath } from "../src/sources/source";

function blob(tensors: Record<string, { dtype: string; shape: number[]; bytes: Uint8Array }>, described: unknown, pad = 0): ArrayBuffer {
  let at = 0;
  const header: Record<string, unknown> = { __metadata__: { convscope: JSON.stringify(described) } };
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  const text = new TextEncoder().encode(JSON.stringify(header) + " ".repeat(pad));
  const whole = new Uint8Array(8 + text.length + at);
  new DataView(whole.buffer).setBigUint64(0, BigInt(text.length), true);
  whole.set(text, 8);
  let place = 8 + text.length;
  for (const { bytes } of Object.values(tensors)) {
    whole.set(bytes, place);
    place += bytes.length;
  }
  return whole.buffer;
}

const bytesOf = (values: { buffer: ArrayBuffer }) => new Uint8Array(values.buffer);
const described = { format: "1", kind: "maps", axes: { map: ["unit", "row"] }, meta: { caption: "c" }, recipe: null };

test("arrays arrive with their names and axes, at any alignment", () => {
  for (let pad = 0; pad < 8; pad++) {
    const values = Float32Array.from([1.5, NaN, -Infinity, 0, 3, 4]);
    const view = readView(blob({ map: { dtype: "F32", shape: [2, 3], bytes: bytesOf(values) } }, described, pad));
    expect([...arrayOf(view, "map").data]).toEqual([...values]);
    expect(axisSize(arrayOf(view, "map"), "row")).toBe(3);
    expect(axisSize(arrayOf(view, "map"), "image")).toBe(1);
    expect(view.meta).toMatchObject({ caption: "c", warnings: [], ranges: {} });
  }
});

test.each([
  ["F16", Uint16Array.from([0x3c00, 0xc000, 0x7c00, 0x7e00, 0x0001, 0]), [1, -2, Infinity, NaN, 2 ** -24, 0]],
  ["BF16", Uint16Array.from([0x3f80, 0xc000, 0x7f80, 0x7fc0, 0, 0x3f00]), [1, -2, Infinity, NaN, 0, 0.5]],
  ["I64", BigInt64Array.from([1n, -2n, 3n, 4n, 5n, 6n]), [1, -2, 3, 4, 5, 6]],
  ["I32", Int32Array.from([1, -2, 3, 4, 5, 6]), [1, -2, 3, 4, 5, 6]],
])("%s is read", (dtype, values, expected) => {
  const view = readView(blob({ map: { dtype, shape: [2, 3], bytes: bytesOf(values as { buffer: ArrayBuffer }) } }, described));
  expect([...arrayOf(view, "map").data]).toEqual(expected);
});

test("a View that the library wrote", () => {
  const file = readFileSync(new URL("../../tests/golden/view-1.safetensors", import.meta.url));
  const view = readView(file.buffer.slice(file.byteOffset, file.byteOffset + file.byteLength) as ArrayBuffer);
  expect(view.kind).toBeTruthy();
  expect(view.arrays.size).toBeGreaterThan(0);
  for (const { data, shape, axes } of view.arrays.values()) {
    expect(data.length).toBe(shape.reduce((product, size) => product * size, 1));
    expect(axes).toHaveLength(shape.length);
  }
});

describe("what isn't a View is refused", () => {
  const good = { map: { dtype: "F32", shape: [2, 3], bytes: new Uint8Array(24) } };
  test.each<[string, ArrayBuffer]>([
    ["nothing", new ArrayBuffer(0)],
    ["zeros", new ArrayBuffer(64)],
    ["a huge header", Uint8Array.from([255, 255, 255, 255, 255, 255, 255, 127, 0, 0]).buffer],
    ["another format", blob(good, { ...described, format: "2" })],
    ["no axes", blob(good, { ...described, axes: {} })],
    ["cut off", blob(good, described).slice(0, -4)],
    ["a shape too large", blob({ map: { ...good.map, shape: [2, 4] } }, described)],
    ["an unknown type", blob({ map: { ...good.map, dtype: "Q3" } }, described)],
  ])("%s", (_, bytes) => expect(() => readView(bytes)).toThrow(BadView));
});

describe("the cache", () => {
  const answer = (bytes: number): View => ({ kind: "maps", arrays: new Map(), meta: { caption: "", warnings: [], ranges: {} }, recipe: null, bytes });
  const request = (target: string) => ({ method: "weights", target });
  const signal = () => new AbortController().signal;

  test("equal requests in flight are one; the least recently used goes first", async () => {
    let asked = 0;
    const cache = new ViewCache({ view: async () => (asked++, answer(40)) }, 100);
    await Promise.all([cache.get(request("a"), signal()), cache.get(request("a"), signal())]);
    expect(asked).toBe(1);
    await cache.get(request("b"), signal());
    cache.peek(request("a"));
    await cache.get(request("c"), signal());
    expect([request("a"), request("b"), request("c")].map((each) => cache.peek(each) !== undefined)).toEqual([true, false, true]);
  });

  test("work stops when the last one who waits gives up, and not before", async () => {
    let aborted = false;
    const cache = new ViewCache({
      view: (_, __, stop) => new Promise((_, reject) => stop.addEventListener("abort", () => ((aborted = true), reject(new DOMException("", "AbortError"))))),
    });
    const [one, other] = [new AbortController(), new AbortController()];
    const waiting = [cache.get(request("a"), one.signal), cache.get(request("a"), other.signal)].map((each) => each.catch((error: Error) => error.name));
    one.abort();
    expect(aborted).toBe(false);
    other.abort();
    expect(aborted).toBe(true);
    expect(await Promise.all(waiting)).toEqual(["AbortError", "AbortError"]);
  });

  test("failures aren't kept", async () => {
    let fail = true;
    const cache = new ViewCache({ view: async () => { if (fail) throw new Error("no"); return answer(1); } });
    await expect(cache.get(request("a"), signal())).rejects.toThrow("no");
    fail = false;
    await expect(cache.get(request("a"), signal())).resolves.toBeTruthy();
  });
});

test("a request's text is canonical", () => {
  expect(viewPath({ method: "weights", target: "a.b:3:1,2", images: [3, 1], parameters: { slices: 9, objective: "loss" } })).toBe(
    "api/views/weights?target=a.b%3A3%3A1%2C2&images=3%2C1&objective=loss&slices=9",
  );
});
