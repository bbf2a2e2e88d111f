// Requests to the server of this page: same origin, cookie set by the first link; every failure is a Failure.

import { Failure, isAbort, readFailure } from "../api/failure";
import { BadView, readView, type View } from "../api/view";

/** What to say when the server can't be reached or answers nonsense. */
export interface Words {
  readonly gone: string;
  readonly goneNext: string;
  readonly unreadable: string;
  readonly unreadableNext: string;
}

export class Http {
  /** Which network the page is about: another one's answer would be taken for this one's. Null before the first answer. */
  opening: number | null = null;

  constructor(private readonly words: Words) {}

  async json<Answer>(path: string, init?: RequestInit): Promise<Answer> {
    return (await (await this.fetch(path, init)).json()) as Answer;
  }

  /** Send a JSON body. */
  send<Answer>(method: "POST", path: string, body: unknown, init: RequestInit = {}): Promise<Answer> {
    const headers = { "Content-Type": "application/json", ...init.headers };
    return this.json<Answer>(path, { ...init, method, body: JSON.stringify(body), headers });
  }

  async view(path: string, init?: RequestInit): Promise<View> {
    const response = await this.fetch(path, init);
    return this.read(await response.arrayBuffer(), path);
  }

  /** A View, or null where the server has nothing to say (204). */
  async viewIfAny(path: string, init?: RequestInit): Promise<View | null> {
    const response = await this.fetch(path, init);
    return response.status === 204 ? null : this.read(await response.arrayBuffer(), path);
  }

  /** A View, "job" where one makes it (202), or null where the server has nothing to say (204). */
  async viewOrJob(path: string, init?: RequestInit): Promise<View | "job" | null> {
    const response = await this.fetch(path, init);
    if (response.status === 202) return "job";
    return response.status === 204 ? null : this.read(await response.arrayBuffer(), path);
  }

  async fetch(path: string, init?: RequestInit): Promise<Response> {
    let response: Response;
    try {
      const about: Record<string, string> = this.opening === null ? {} : { "X-Convscope-Opening": String(this.opening) };
      response = await fetch(path, { credentials: "same-origin", ...init, headers: { ...about, ...(init?.headers as Record<string, string> | undefined) } });
    } catch (error) {
      if (isAbort(error) || init?.signal?.aborted) throw error;
      throw new Failure({ what: this.words.gone, where: "", next_step: this.words.goneNext, kind: "server_gone" });
    }
    if (!response.ok) throw await readFailure(response);
    return response;
  }

  private read(blob: ArrayBuffer, path: string): View {
    try {
      return readView(blob);
    } catch (error) {
      if (!(error instanceof BadView)) throw error;
      const { unreadable, unreadableNext } = this.words;
      throw new Failure({ what: `${unreadable}: ${error.message}`, where: path, next_step: unreadableNext, kind: "bad_view" });
    }
  }
}
