// A unit's address, the same text as in library, shell and log: layer[@call][:channel[:row,column]].

export interface Position {
  readonly row: number;
  readonly column: number;
}

export interface Address {
  readonly layer: string;
  readonly channel: number | null;
  readonly position: Position | null;
}

const GRAMMAR = /^([^@:\s]+)(?:@(\d{1,6}))?(?::(\d{1,7})(?::(\d{1,6}),(\d{1,6}))?)?$/;

/** Null when a text isn't an address. The first call is written without its index: conv1@0 is conv1. */
export function parseAddress(text: string): Address | null {
  const match = GRAMMAR.exec(text.trim());
  if (!match) return null;
  const [, path, call, channel, row, column] = match;
  return {
    layer: Number(call ?? 0) ? `${path}@${Number(call)}` : path,
    channel: channel === undefined ? null : Number(channel),
    position: row === undefined ? null : { row: Number(row), column: Number(column) },
  };
}

export function formatAddress({ layer, channel, position }: Address): string {
  const unit = channel === null ? layer : `${layer}:${channel}`;
  return position && channel !== null ? `${unit}:${position.row},${position.column}` : unit;
}

export const unitAddress = (layer: string, channel: number): string => `${layer}:${channel}`;

export const samePosition = (one: Position | null, other: Position | null): boolean =>
  one === other || (one !== null && other !== null && one.row === other.row && one.column === other.column);
