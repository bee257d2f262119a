/**
 * The API server over HTTP/1.1: one answer, or a stream of lines (a watch). JSON in, JSON out.
 *
 * - Every request has a time limit, also for its last byte; a watch has one for its whole life and is ended by
 *   its caller's signal.
 * - Answers are bounded, lines too.
 * - Whatever goes wrong is a value: `MESH_API_REFUSED` is the server's own no (`details.status`, `reason`),
 *   `MESH_API_UNREACHABLE` means that nobody said anything, and is retryable.
 */

import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { SecureContextOptions } from 'node:tls';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import type { ApiAccess, ApiCredentials } from './api-credentials.ts';

export interface ApiRequest {
  /** Default `GET`. */
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly path: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  /** Default `application/json`. */
  readonly contentType?: string;
  /** Until the last byte of the answer. Default 15,000. */
  readonly timeoutMs?: number;
  readonly signal?: AbortSignal;
}

export interface ApiClient extends Disposable {
  /** The decoded answer; undefined for an empty one. */
  request(request: ApiRequest): Promise<Result<unknown>>;
  /**
   * Gives every chunk's complete lines to `onLines`, one call at a time; reading goes on when it resolves. Ok
   * when the server ended the stream; `MESH_API_UNREACHABLE` when it broke or `timeoutMs` was over.
   */
  stream(
    request: ApiRequest,
    onLines: (lines: readonly string[]) => Promise<void>,
  ): Promise<Result<void>>;
}

/** Server-side apply: made when missing, else only our own fields are changed. JSON is YAML. */
export const APPLY_CONTENT_TYPE = 'application/apply-patch+yaml';
export const MERGE_PATCH_CONTENT_TYPE = 'application/merge-patch+json';
export const FIELD_MANAGER = 'nodemesh-controller';

const TIMEOUT_DEFAULT_MS = 15_000;
/** A page of 500 objects; etcd holds none over 1.5 MB. */
export const ANSWER_BYTES_MAX = 268_435_456;
export const LINE_CHARS_MAX = 16_777_216;
/** An unfriendly answer's text, kept for the message. */
const REASON_CHARS_MAX = 512;
/** Watches of every kind, lists, and writes. */
const SOCKETS_MAX = 128;
const KEEP_ALIVE_MS = 15_000;
const USER_AGENT = 'nodemesh';

export interface ApiClientOptions {
  readonly clock: Clock;
  readonly credentials: ApiCredentials;
}

/** The status that the API server refused with; undefined when it did not answer. */
export function statusOf(error: MeshError): number | undefined {
  const { status } = error.details;
  return typeof status === 'number' ? status : undefined;
}

export function createApiClient({ clock, credentials }: ApiClientOptions): ApiClient {
  const { server } = credentials;
  const plain = server.protocol === 'http:';
  let agent: HttpAgent | undefined;
  let agentTls: SecureContextOptions | undefined;

  const agentFor = (tls: SecureContextOptions): HttpAgent => {
    if (agent !== undefined && agentTls === tls) return agent;
    const options = { keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS, maxSockets: SOCKETS_MAX };
    agent = plain ? new HttpAgent(options) : new HttpsAgent({ ...options, ...tls });
    agentTls = tls;
    return agent;
  };

  const open = (
    asked: ApiRequest,
    access: ApiAccess,
    signal: AbortSignal,
  ): Promise<IncomingMessage> => {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    const body = asked.body === undefined ? undefined : JSON.stringify(asked.body);
    const url = new URL(asked.path, server);
    for (const [key, value] of Object.entries(asked.query ?? {})) url.searchParams.set(key, value);
    const headers: Record<string, string | number | string[]> = {
      ...access.headers,
      accept: 'application/json',
      'user-agent': USER_AGENT,
    };
    if (body !== undefined) {
      headers['content-type'] = asked.contentType ?? 'application/json';
      headers['content-length'] = Buffer.byteLength(body);
    }
    const options = { method: asked.method ?? 'GET', headers, agent: agentFor(access.tls), signal };
    const outgoing = (plain ? httpRequest : httpsRequest)(url, options, resolve);
    // It stays for the life of the request: an abort after the answer has begun comes here too.
    outgoing.on('error', reject);
    outgoing.end(body);
    return promise;
  };

  /** Runs `use` on an answer of a friendly status, within the time limit. */
  const exchange = async <T>(
    asked: ApiRequest,
    use: (answer: IncomingMessage) => Promise<Result<T>>,
  ): Promise<Result<T>> => {
    const limit = new AbortController();
    const timeoutMs = asked.timeoutMs ?? TIMEOUT_DEFAULT_MS;
    const timer = clock.after(timeoutMs, () =>
      limit.abort(new Error(`no answer within ${Math.round(timeoutMs)} ms`)),
    );
    const { signal } = asked;
    const combined = signal === undefined ? limit.signal : AbortSignal.any([signal, limit.signal]);
    try {
      const answer = await open(asked, await credentials.access(), combined);
      answer.on('error', () => {});
      const status = answer.statusCode ?? 0;
      if (status >= 200 && status < 300) return await use(answer);
      return fail(refusal(asked, status, await readAll(answer)));
    } catch (cause) {
      return fail(unreachable(asked, combined.aborted ? combined.reason : cause));
    } finally {
      timer.cancel();
    }
  };

  return {
    request: (asked) =>
      exchange(asked, async (answer) => {
        const text = await readAll(answer);
        return text === '' ? ok(undefined) : parseJson(asked, text);
      }),
    stream: (asked, onLines) =>
      exchange(asked, async (answer) => {
        const reader = createLineReader();
        answer.setEncoding('utf8');
        for await (const chunk of answer) {
          const lines = reader.take(chunk as string);
          if (lines.length > 0) await onLines(lines);
        }
        // A line that was cut off is nothing; the next watch begins before it.
        return ok(undefined);
      }),
    [Symbol.dispose]() {
      agent?.destroy();
    },
  };
}

/** Complete lines of a stream of text; what is left waits for the next chunk. Throws above `LINE_CHARS_MAX`. */
export function createLineReader(): { take(chunk: string): string[] } {
  let rest: string[] = [];
  let restChars = 0;
  return {
    take(chunk) {
      const parts = chunk.split('\n');
      const last = parts.pop() ?? '';
      const lines = parts.map((part, index) => (index === 0 ? rest.join('') + part : part));
      if (parts.length > 0) {
        rest = [];
        restChars = 0;
      }
      if (last !== '') rest.push(last);
      restChars += last.length;
      if (restChars > LINE_CHARS_MAX) {
        throw new MeshError('MESH_LIMIT_EXCEEDED', `A line is longer than ${LINE_CHARS_MAX}`);
      }
      return lines.filter((line) => line !== '');
    },
  };
}

async function readAll(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of answer) {
    const bytes = chunk as Buffer;
    chunks.push(bytes);
    length += bytes.length;
    if (length > ANSWER_BYTES_MAX) {
      const message = `The answer is larger than ${ANSWER_BYTES_MAX} bytes`;
      throw new MeshError('MESH_LIMIT_EXCEEDED', message);
    }
  }
  return Buffer.concat(chunks).toString('utf8');
}

function describe({ method = 'GET', path }: ApiRequest): string {
  return `Cannot ${method} "${path}"`;
}

function parseJson(asked: ApiRequest, text: string): Result<unknown> {
  try {
    return ok(JSON.parse(text) as unknown);
  } catch (cause) {
    return fail(unreachable(asked, cause));
  }
}

/** The server's `Status` object says more than its number, if it is one. */
function refusal(asked: ApiRequest, status: number, text: string): MeshError {
  let message = text.slice(0, REASON_CHARS_MAX);
  let reason = '';
  try {
    const value = JSON.parse(text) as { message?: unknown; reason?: unknown } | null;
    if (typeof value?.message === 'string') message = value.message.slice(0, REASON_CHARS_MAX);
    if (typeof value?.reason === 'string') reason = value.reason.slice(0, 64);
  } catch {
    // A gateway before the API server answers in its own words.
  }
  return new MeshError('MESH_API_REFUSED', `${describe(asked)}: ${status} ${message}`.trim(), {
    retryable: status === 429 || status >= 500,
    details: { status, reason },
  });
}

function unreachable(asked: ApiRequest, cause: unknown): MeshError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  const message = `${describe(asked)}: ${reason}`;
  return new MeshError('MESH_API_UNREACHABLE', message, { cause, retryable: true });
}
