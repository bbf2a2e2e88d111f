// What can go wrong between page and server, in the server's own three parts: what, where, next step.

import type { ErrorDescription } from "./schema";

export class Failure extends Error {
  constructor(
    readonly description: ErrorDescription,
    readonly status = 0,
  ) {
    super(description.what);
  }

  /** The server can't be reached at all: the page waits for it instead of showing a card. */
  get serverGone(): boolean {
    return this.description.kind === "server_gone";
  }

  /** It can't be done here, whatever one tries: the reason is the answer. */
  get refused(): boolean {
    return this.description.kind === "refused";
  }
}

/** Aborted by the page itself, or cancelled by the person. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}

export function toFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const what = error instanceof Error ? error.message : String(error);
  return new Failure({ what, where: "", next_step: "", kind: error instanceof Error ? error.name : "error" });
}

/** Read an error answer; a proxy's or a crash's HTML still gives a sentence. */
export async function readFailure(response: Response): Promise<Failure> {
  try {
    const body = (await response.json()) as { error?: Partial<ErrorDescription>; detail?: unknown };
    if (body.error?.what) {
      const { what, where = "", next_step = "", kind = "error" } = body.error;
      return new Failure({ what, where, next_step, kind }, response.status);
    }
  } catch {
    // Not JSON: the status has to do.
  }
  const where = new URL(response.url, "http://localhost").pathname;
  return new Failure(
    { what: `${response.status} ${response.statusText}`.trim(), where, next_step: "", kind: "http" },
    response.status,
  );
}
