// What the routes under /api/training answer, by short names. The types are made from the server's own: `make types`.

import type { components } from "./schema.gen";

type Schemas = components["schemas"];

/** Presets, data, optimizers, settings: everything that a new run is made of. */
export type Offer = Schemas["Training"];
export type Preset = Schemas["Preset"];
export type DataSource = Schemas["DataSource"];
export type Optimizer = Schemas["Optimizer"];
export type Setting = Schemas["Setting"];
export type SettingValue = boolean | number | string | null;
export type Settings = Readonly<Record<string, SettingValue>>;
export type DefinedLayer = Schemas["DefinedLayer"];
export type CheckedDefinition = Schemas["CheckedDefinition"];
export type NewRun = Partial<Schemas["NewRun"]>;
export type Run = Schemas["TrainingRun"];
export type Runs = Schemas["TrainingRuns"];
export type RunDetails = Schemas["TrainingRunDetails"];
export type RunState = Run["state"];
export type RunEvent = Schemas["Event"];
export type RecordedName = Schemas["RecordedName"];
export type Statistics = Schemas["Statistics"];
export type HeldOut = Schemas["HeldOut"];
export type Curve = Schemas["Curve"];
export type Curves = Schemas["Curves"];
export type Samples = Schemas["Samples"];
export type Predicted = Schemas["Predicted"];
export type Ranked = Schemas["Ranked"];
export type Confusion = Schemas["Confusion"];
export type Changed = Schemas["Changed"];
export type Race = Schemas["Race"];
export type Racer = Schemas["Racer"];
export type NewRace = Partial<Schemas["NewRace"]>;
export type SnapshotRead = Schemas["SnapshotRead"];

/** A layer's panel: what is always true of it, and, in a frame, how long it took. */
export type Panel = Schemas["RunLayer"] & { forward_milliseconds?: number | null; backward_milliseconds?: number | null };
