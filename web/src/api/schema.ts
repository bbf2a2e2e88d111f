// What the server's JSON routes answer.

export interface ParameterDescription {
  name: string;
  type: string;
  default: unknown;
  help: string;
  choices: unknown[];
  minimum: number | null;
  maximum: number | null;
}

export interface MethodDescription {
  name: string;
  title: string;
  summary: string;
  papers: string[];
  target: string;
  needs: string[];
  formula: string;
  caveat: string;
  parameters: ParameterDescription[];
}

export interface NetworkDescription {
  name: string;
  source: string;
  fingerprint: string;
  parameters: number;
  image_size: [rows: number, columns: number];
  channels: number;
  classes: number;
  class_names: string[];
  outputs: string[];
  output: string;
}

export interface SkippedImage {
  name: string;
  reason: string;
}

export interface Session {
  version: string;
  network: NetworkDescription;
  images: { source: string; count: number; skipped: SkippedImage[] };
  methods: MethodDescription[];
}

/** Along one image axis: position i sees pixels offset + stride·i … + size − 1, before clipping. */
export interface Extent {
  size: number;
  stride: number | null;
  offset: number | null;
}

export interface ReceptiveField {
  rows: Extent | null;
  columns: Extent | null;
  exact: boolean;
  reason: string;
}

export interface Layer {
  index: number;
  address: string;
  path: string;
  call: number;
  kind: string;
  label: string;
  operation: "module" | "block" | "function";
  depth: number;
  shape: [units: number, rows: number, columns: number];
  axes: string[];
  parameters: number;
  inputs: string[];
  receptive_field: ReceptiveField;
  opaque: string;
  warnings: string[];
  has_kernel: boolean;
  kernel_size: [rows: number, columns: number] | null;
  details: Record<string, unknown>;
}

export interface ImageDescription {
  id: number;
  name: string;
  width: number;
  height: number;
  label: number | null;
  label_name: string | null;
}

export interface Job {
  id: string;
  state: "queued" | "running" | "done" | "failed" | "cancelled";
  done: number;
  total: number;
  message: string;
  seconds_left: number | null;
}

export interface ErrorDescription {
  what: string;
  where: string;
  next_step: string;
  kind: string;
}
