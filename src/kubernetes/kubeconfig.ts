/**
 * A user's way to a cluster: kubeconfig files, a context, and programs run in pods. Loads @kubernetes/client-node, which
 * knows every way to log in, and is for terminals only: it costs 86 MB of memory.
 */

import { Writable } from 'node:stream';

import type { KubeConfig } from '@kubernetes/client-node/dist/config.js';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { credentialsOf, type ApiCredentials } from './api-credentials.ts';

export interface KubeconfigOptions {
  readonly clock: Clock;
  /** Merged as kubectl does it: what an earlier file says stands. Those that do not exist are left out. */
  readonly paths: readonly string[];
  /** Default: the current one of the files. */
  readonly context: string | undefined;
  /** Whose rights count, where the user of the context may take them. Default: its own. */
  readonly impersonate?: Impersonation | undefined;
}

export interface Impersonation {
  readonly user: string;
  readonly groups: readonly string[];
}

export interface ExecTarget {
  readonly namespace: string;
  readonly name: string;
  readonly container: string;
}

export interface ProgramOutcome {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Kubeconfig {
  readonly credentials: ApiCredentials;
  readonly context: string;
  /** Of the context; `default` where it has none. */
  readonly namespace: string;
  /** Rejects with `MESH_API_UNREACHABLE` when the program did not run to its end within `timeoutMs`, or the signal was given. */
  exec(
    target: ExecTarget,
    command: readonly string[],
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<ProgramOutcome>;
}

export const EXEC_OUTPUT_BYTES_MAX = 67_108_864;

/** Gathers what is written; `text` answers it. */
function createCollector(): { readonly stream: Writable; readonly text: () => string } {
  const chunks: Buffer[] = [];
  let bytes = 0;
  const stream = new Writable({
    write(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      // What is beyond is dropped: half of an answer is no JSON and is seen to be none.
      if (bytes <= EXEC_OUTPUT_BYTES_MAX) chunks.push(chunk);
      done();
    },
  });
  stream.on('error', () => {});
  return { stream, text: () => Buffer.concat(chunks).toString('utf8') };
}

/** The exit code hides in the last message, a `Status` object. */
function exitCodeOf(status: {
  readonly status?: string;
  readonly details?: { readonly causes?: readonly { reason?: string; message?: string }[] };
}): number {
  if (status.status === 'Success') return 0;
  const cause = status.details?.causes?.find(({ reason }) => reason === 'ExitCode');
  return Number(cause?.message ?? 1);
}

/** client-node knows of users alone; requests and programs both get their headers from here. */
function impersonate(config: KubeConfig, { user, groups }: Impersonation): void {
  const apply = config.applyToHTTPSOptions.bind(config);
  config.applyToHTTPSOptions = async (options) => {
    await apply(options);
    options.headers = {
      ...(options.headers as Record<string, string> | undefined),
      'Impersonate-User': user,
      ...(groups.length === 0 ? {} : { 'Impersonate-Group': [...groups] }),
    };
  };
}

function messageOf(error: unknown): string {
  if (typeof error !== 'object' || error === null || !('message' in error)) return String(error);
  return String(error.message);
}

/** Rejects with `MESH_CONFIG_INVALID` when there is no usable file or no such context. */
export async function openKubeconfig(options: KubeconfigOptions): Promise<Kubeconfig> {
  const { clock, paths } = options;
  const { KubeConfig: Config } = await import('@kubernetes/client-node/dist/config.js');
  const config = new Config();
  let found = 0;
  const invalid = (reason: string, cause?: unknown): MeshError =>
    new MeshError('MESH_CONFIG_INVALID', `Cannot find the cluster: ${reason}`, { cause });
  for (const path of paths) {
    const next = new Config();
    try {
      next.loadFromFile(path);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') continue;
      throw invalid(`kubeconfig "${path}" cannot be read: ${messageOf(error)}`, error);
    }
    if (found === 0) config.loadFromFile(path);
    else config.mergeConfig(next, true);
    found += 1;
  }
  if (found === 0) throw invalid(`there is no kubeconfig at ${paths.join(', ')}`);
  const context = options.context ?? config.getCurrentContext();
  const entry = config.getContextObject(context);
  if (entry === null) {
    const names = config.getContexts().map(({ name }) => name);
    throw invalid(`there is no context "${context}"; there are ${names.join(', ')}`);
  }
  config.setCurrentContext(context);
  if (options.impersonate !== undefined) impersonate(config, options.impersonate);
  return {
    credentials: credentialsOf(config, `context "${context}"`, clock),
    context,
    namespace: entry.namespace ?? 'default',
    async exec({ namespace, name, container }, command, timeoutMs, signal) {
      const { Exec } = await import('@kubernetes/client-node/dist/exec.js');
      const stdout = createCollector();
      const stderr = createCollector();
      const done = Promise.withResolvers<number>();
      const broken = (reason: string): void => {
        const message = `Cannot run "${command.join(' ')}" in pod "${namespace}/${name}": ${reason}`;
        done.reject(new MeshError('MESH_API_UNREACHABLE', message, { retryable: true }));
      };
      const timer = clock.after(timeoutMs, () => broken(`no end within ${timeoutMs} ms`));
      const leave = (): void => broken('interrupted');
      signal.addEventListener('abort', leave);
      if (signal.aborted) leave();
      const opening = new Exec(config).exec(
        namespace,
        name,
        container,
        [...command],
        stdout.stream,
        stderr.stream,
        null,
        false,
        (status) => done.resolve(exitCodeOf(status)),
      );
      opening.then(
        (socket) => {
          socket.addEventListener('close', () => broken('the connection ended early'));
        },
        (error: unknown) => broken(messageOf(error)),
      );
      try {
        const exitCode = await done.promise;
        return { exitCode, stdout: stdout.text(), stderr: stderr.text() };
      } finally {
        timer.cancel();
        signal.removeEventListener('abort', leave);
        opening.then(
          (socket) => socket.close(),
          () => {},
        );
      }
    },
  };
}
