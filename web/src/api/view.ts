// A View as it comes over the wire: one safetensors blob -> named typed arrays with axis names, without copying.

import type { Range } from "../paint/scale";

export type TypedArray =
  | Float32Array
  | Float64Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array;

export interface NamedArray {
  readonly data: TypedArray;
  readonly shape: readonly number[];
  readonly axes: readonly string[];
}

export interface ViewMeta {
  caption: string;
  warnings: string[];
  ranges: Record<string, Range>;
  layer?: string;
  units?: number[] | null;
  python?: string;
  command?: string;
  [name: string]: unknown;
}

export interface View {
  readonly kind: string;
  readonly arrays: ReadonlyMap<string, NamedArray>;
  readonly meta: ViewMeta;
  readonly recipe: unknown;
  readonly bytes: number;
}

interface TensorEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number];
}

const FORMAT = "1";

/** What isn't a View blob. */
export class BadView extends Error {}

/** Read a View; throws BadView for anything that isn't one. */
export function readView(blob: ArrayBuffer): View {
  const header = readHeader(blob);
  const described = readDescription(header);
  const start = 8 + Number(new DataView(blob).getBigUint64(0, true));
  const arrays = new Map<string, NamedArray>();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const axes = described.axes[name];
    const { shape, data_offsets: offsets } = entry as TensorEntry;
    const [from, to] = offsets ?? [];
    if (!axes || !Array.isArray(shape) || axes.length !== shape.length) throw new BadView(`array ${name} has no axes`);
    if (!(from >= 0 && to >= from && start + to <= blob.byteLength)) throw new BadView(`array ${name} is cut off`);
    const data = readArray((entry as TensorEntry).dtype, blob, start + from, to - from);
    if (data.length !== shape.reduce((product, size) => product * size, 1)) {
      throw new BadView(`array ${name} doesn't fill its shape`);
    }
    arrays.set(name, { data, shape, axes });
  }
  return { kind: described.kind, arrays, meta: described.meta, recipe: described.recipe, bytes: blob.byteLength };
}

function readHeader(blob: ArrayBuffer): Record<string, unknown> {
  if (blob.byteLength < 10) throw new BadView("too short");
  const size = new DataView(blob).getBigUint64(0, true);
  if (size > BigInt(blob.byteLength - 8)) throw new BadView("its header is cut off");
  try {
    return JSON.parse(new TextDecoder().decode(new Uint8Array(blob, 8, Number(size)))) as Record<string, unknown>;
  } catch {
    throw new BadView("its header isn't JSON");
  }
}

interface Description {
  kind: string;
  axes: Record<string, string[]>;
  meta: ViewMeta;
  recipe: unknown;
}

function readDescription(header: Record<string, unknown>): Description {
  const metadata = header.__metadata__ as Record<string, string> | undefined;
  try {
    const described = JSON.parse(metadata?.convscope ?? "") as Description & { format: string };
    if (described.format !== FORMAT) throw new BadView(`format ${described.format}, and this page reads ${FORMAT}`);
    const meta = { ...described.meta };
    meta.caption ??= "";
    meta.warnings ??= [];
    meta.ranges ??= {};
    return { kind: described.kind, axes: described.axes ?? {}, meta, recipe: described.recipe };
  } catch (error) {
    throw error instanceof BadView ? error : new BadView("it doesn't describe itself");
  }
}

type Reader = (buffer: ArrayBuffer, start: number, length: number) => TypedArray;

const READERS: Readonly<Record<string, [size: number, read: Reader]>> = {
  F64: [8, (buffer, start, length) => new Float64Array(buffer, start, length)],
  F32: [4, (buffer, start, length) => new Float32Array(buffer, start, length)],
  F16: [2, (buffer, start, length) => Float32Array.from(new Uint16Array(buffer, start, length), halfToNumber)],
  BF16: [2, (buffer, start, length) => brainToNumbers(new Uint16Array(buffer, start, length))],
  I64: [8, (buffer, start, length) => Float64Array.from(new BigInt64Array(buffer, start, length), Number)],
  I32: [4, (buffer, start, length) => new Int32Array(buffer, start, length)],
  I16: [2, (buffer, start, length) => new Int16Array(buffer, start, length)],
  I8: [1, (buffer, start, length) => new Int8Array(buffer, start, length)],
  U32: [4, (buffer, start, length) => new Uint32Array(buffer, start, length)],
  U16: [2, (buffer, start, length) => new Uint16Array(buffer, start, length)],
  U8: [1, (buffer, start, length) => new Uint8Array(buffer, start, length)],
  BOOL: [1, (buffer, start, length) => new Uint8Array(buffer, start, length)],
};

function readArray(dtype: string, blob: ArrayBuffer, start: number, bytes: number): TypedArray {
  const reader = READERS[dtype];
  if (!reader) throw new BadView(`arrays of ${dtype} are unknown`);
  const [size, read] = reader;
  if (bytes % size) throw new BadView(`${bytes} bytes aren't whole ${dtype} values`);
  // Typed arrays need aligned starts; safetensors promises only that the header is padded.
  if (start % size === 0) return read(blob, start, bytes / size);
  return read(blob.slice(start, start + bytes), 0, bytes / size);
}

function halfToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function brainToNumbers(bits: Uint16Array): Float32Array {
  const wide = new Uint32Array(bits.length);
  for (let index = 0; index < bits.length; index++) wide[index] = bits[index] << 16;
  return new Float32Array(wide.buffer);
}

/** An array that must be there. */
export function arrayOf(view: View, name: string): NamedArray {
  const found = view.arrays.get(name);
  if (!found) throw new BadView(`this ${view.kind} view has no ${name}`);
  return found;
}

/** The size of a named axis of an array; 1 where it has no such axis. */
export function axisSize(array: NamedArray, axis: string): number {
  const place = array.axes.indexOf(axis);
  return place < 0 ? 1 : array.shape[place];
}

/** Where a channel lies on a View's unit axis: the View may hold a whole layer or this unit alone. */
export function unitIndex(view: View, channel: number, count: number): number {
  const { units } = view.meta;
  if (units) return units.indexOf(channel);
  return channel < count ? channel : -1;
}
