/** An API server of a test's own, without nodes: for what is simulated, and for programs that ask it directly. */

import type { Test } from 'tap';

import { CLUSTER_PROGRAM, run } from './cluster-access.ts';

const LIMIT_MS = 900_000;

export interface OwnApiServer {
  up(): Promise<void>;
  down(): Promise<void>;
  /** Runs a program of this repository where the server is reachable; returns what it printed. */
  program(path: string, argument: string): Promise<string>;
}

/** Taken down when the test ends. */
export function ownApiServer(t: Test): OwnApiServer {
  const id = `s${(process.pid % 60_000_000).toString(36)}`;
  const env = { CLUSTER_ID: id, KUBECONFIG: '' };
  const tool = async (...args: readonly string[]): Promise<string> => {
    const { code, out, err } = await run(CLUSTER_PROGRAM, args, { env, timeoutMs: LIMIT_MS });
    if (code !== 0) throw new Error(`cluster ${args[0]}: ${err.trim()}`);
    return out;
  };
  t.teardown(() => run(CLUSTER_PROGRAM, ['down'], { env }));
  return {
    up: async () => void (await tool('up', 'api')),
    down: async () => void (await tool('down')),
    program: (path, argument) => tool('run', process.execPath, path, argument),
  };
}
