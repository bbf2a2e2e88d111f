// What gradients are taken of: the loss against some label, a class's score, or a unit.

export type Objective =
  | { kind: "loss"; label: "default" | "predicted" | "true" | number }
  | { kind: "score"; label: "predicted" | number }
  | { kind: "unit"; address: string };

export function parseObjective(text: string): Objective {
  if (text.startsWith("unit:")) return { kind: "unit", address: text.slice(5) };
  const [kind, label] = text.split(":");
  const index = label !== undefined && /^\d+$/.test(label) ? Number(label) : null;
  if (kind === "score") return { kind, label: index ?? "predicted" };
  return { kind: "loss", label: index ?? (label === "predicted" || label === "true" ? label : "default") };
}

export function formatObjective(objective: Objective): string {
  if (objective.kind === "unit") return `unit:${objective.address}`;
  if (objective.kind === "score") return objective.label === "predicted" ? "score" : `score:${objective.label}`;
  return objective.label === "default" ? "loss" : `loss:${objective.label}`;
}
