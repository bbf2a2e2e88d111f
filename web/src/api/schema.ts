// What the server's JSON routes answer, by short names. The types are made from the server's own: `make types`.

import type { components } from "./schema.gen";

type Schemas = components["schemas"];

export type Session = Schemas["Session"];
export type Layer = Schemas["Layer"];
export type Layers = Schemas["Layers"];
/** Along one image axis: position i sees pixels offset + stride·i … + size − 1, before clipping. */
export type Extent = Schemas["Extent"];
export type ReceptiveField = Schemas["ReceptiveField"];
export type ReceptiveFieldBox = Schemas["ReceptiveFieldBox"];
export type ImageDescription = Schemas["Image"];
export type Images = Schemas["Images"];
export type AddedImage = Schemas["AddedImage"];
export type SkippedImage = Schemas["Skipped"];
export type ErrorDescription = Schemas["ErrorBody"];
/** `long`: it runs beside everything else, and shows previews. */
export type MethodDescription = Schemas["Method"];
/** What can be asked of a target, and why not. */
export type MethodHere = Schemas["MethodHere"];
/** What computes a View outside the page. */
export type Call = Schemas["Call"];
/** `preview`: the number of the newest one, 0 for none. */
export type Job = Schemas["JobEvent"];
/** What became of a job that was asked after. */
export type EndedJob = Schemas["Job"];
/** Another network was opened in the place of this one. */
export type Reopened = Schemas["SessionEvent"];
/** What was mined, and how far the mining under way is. */
export type Study = Schemas["Study"];
export type StudyImage = Schemas["StudyImage"];
