/**
 * Asks the processes of this container: their admin sockets, and the read-only ports of metrics and readiness. This is
 * what `nodemesh admin` does, which meshctl runs inside the pod, since there is no admin port to reach from outside.
 */

import { readdirSync } from 'node:fs';
import { request, type RequestOptions } from 'node:http';
import { join } from 'node:path';

import { errorFromNode, MeshError } from '../base/errors.ts';

/** One process's answer to one path. */
export interface AdminAnswer {
  /** `agent`, `worker`, `controller`, `waypoint`, or `port` for a read-only port. */
  readonly from: string;
  readonly pid: number | undefined;
  readonly path: string;
  /** 0 when there was no answer; `error` then says why. */
  readonly status: number;
  /** Decoded JSON where it was JSON, else text. */
  readonly body?: unknown;
  readonly error?: string;
}

export interface AdminTarget {
  readonly from: string;
  readonly pid: number | undefined;
  readonly options: RequestOptions;
}

export const ANSWER_MAX_BYTES = 33_554_432;
const TIMEOUT_MS = 5000;
/** `agent-PID.sock`, without `admin`, speaks discovery. */
const SOCKET_NAMES: readonly (readonly [from: string, name: RegExp])[] = [
  ['agent', /^agent-admin-(\d{1,10})\.sock$/],
  ['worker', /^worker-(\d{1,10})\.sock$/],
  ['waypoint', /^waypoint-(\d{1,10})\.sock$/],
  ['controller', /^admin\.sock$/],
];

/** The admin sockets in `folders`; a folder that is not there has none. */
export function findAdminSockets(folders: readonly string[]): AdminTarget[] {
  return folders.flatMap((folder) => {
    let names: string[] = [];
    try {
      names = readdirSync(folder).toSorted();
    } catch {
      return [];
    }
    return names.flatMap((name): AdminTarget[] => {
      for (const [from, pattern] of SOCKET_NAMES) {
        const match = pattern.exec(name);
        if (match === null) continue;
        const pid = match[1] === undefined ? undefined : Number(match[1]);
        return [{ from, pid, options: { socketPath: join(folder, name) } }];
      }
      return [];
    });
  });
}

function decode(contentType: string | undefined, text: string): unknown {
  if (contentType?.startsWith('application/json') !== true) return text;
  try {
    return JSON.parse(text) as unknown;
  } catch {
    // Cut off in the middle: what there is may still help.
    return text;
  }
}

/** Never rejects: what goes wrong is an answer with status 0. */
export function askAdmin(
  target: AdminTarget,
  method: 'GET' | 'POST',
  path: string,
  timeoutMs: number = TIMEOUT_MS,
): Promise<AdminAnswer> {
  const { from, pid, options } = target;
  const { promise, resolve } = Promise.withResolvers<AdminAnswer>();
  const give = (error: unknown): void => {
    const { message } = errorFromNode(error, `Cannot ask ${from}`);
    resolve({ from, pid, path, status: 0, error: message });
  };
  const asked = request({ ...options, method, path, agent: false }, (response) => {
    const chunks: Buffer[] = [];
    let bytes = 0;
    response.on('error', give);
    response.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      chunks.push(chunk);
      if (bytes <= ANSWER_MAX_BYTES) return;
      asked.destroy(new MeshError('MESH_LIMIT_EXCEEDED', 'the answer is too long'));
    });
    response.on('end', () => {
      const text = Buffer.concat(chunks).toString('utf8');
      const body = decode(response.headers['content-type'], text);
      resolve({ from, pid, path, status: response.statusCode ?? 0, body });
    });
  });
  asked.on('error', give);
  asked.setTimeout(timeoutMs, () => {
    asked.destroy(new MeshError('MESH_DEADLINE_EXCEEDED', `no answer within ${timeoutMs} ms`));
  });
  asked.end();
  return promise;
}
