/**
 * The folder through which the CNI script asks the agent to capture a pod, and waits for the answer. It holds
 * no credentials and needs no socket: the script writes `<id>.add`, `<id>.del` or `<id>.check` (under another name
 * first, then renamed), the agent answers with `<id>.ok` or `<id>.error`, whose text is the reason, and removes the request.
 *
 * - the folder is root's (or ours) and closed to all others, checked at start (T122);
 * - only whole, regular files of root (or ours), reached without following links, are read, up to 64 KiB;
 * - a request is answered once at a time per id, at most 16 side by side;
 * - requests found at start are answered too: the script may have asked while no agent lived;
 * - a request is removed after its answer is there, so a crash between means it is handled twice.
 */

import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  renameSync,
  rmSync,
  watch,
  writeFileSync,
  type FSWatcher,
} from 'node:fs';
import { join } from 'node:path';

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import { fail, type Result } from '../base/result.ts';
import {
  CNI_REQUEST_MAX_BYTES,
  parseCniRequest,
  type CniCommand,
  type CniRequest,
} from './cni-request.ts';

export interface SpoolOptions {
  readonly dir: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Does what is asked; its rejection becomes the `.error` the script prints. */
  readonly handle: (request: CniRequest) => Promise<void>;
}

export interface Spool {
  /** Looks at once instead of at the next period. */
  scan(): void;
  /** Stops looking; requests under way are still answered. */
  close(): void;
}

/** How often the folder is read when the kernel tells nothing. */
export const SPOOL_POLL_MS = 250;
/** Before a request is tried again whose answer could not be written. */
export const SPOOL_RETRY_MS = 1_000;
/** Requests handled side by side; the rest waits in the folder. */
export const SPOOL_PARALLEL_MAX = 16;
/** Answers nobody fetched, and files nobody finished, are removed after this. */
export const SPOOL_STALE_MS = 600_000;
const ERROR_TEXT_MAX = 1_000;
/** Answers, and our and the script's unfinished files. Anything else in the folder is not ours to remove. */
const LEFTOVER_NAME = /^\..|\.(?:ok|error)$/;
const REQUEST_NAME = /^([A-Za-z0-9][A-Za-z0-9_.-]{0,190})\.(add|del|check)$/;

/** Creates the folder if need be and starts looking. Throws `MESH_CONFIG_INVALID` when others can write to it. */
export function openSpool(options: SpoolOptions): Spool {
  const { dir, clock, logger } = options;
  checkFolder(dir);
  /** Ids under way: an `add` and a `del` of one sandbox never run at once. */
  const underWay = new Set<string>();
  let closed = false;
  let failing = false;

  const answer = (id: string, suffix: 'ok' | 'error', text: string): void => {
    const temporary = join(dir, `.${id}.answer`);
    rmSync(temporary, { force: true });
    writeFileSync(temporary, text, { mode: 0o600, flag: 'wx' });
    renameSync(temporary, join(dir, `${id}.${suffix}`));
  };
  const handleFile = async (id: string, command: CniCommand): Promise<void> => {
    const path = join(dir, `${id}.${command}`);
    for (const suffix of ['ok', 'error']) rmSync(join(dir, `${id}.${suffix}`), { force: true });
    try {
      const request = readRequest(path, command);
      if (!request.ok) throw request.error;
      await options.handle(request.value);
      answer(id, 'ok', '');
    } catch (error) {
      logger.warn('a CNI request failed', { request: `${id}.${command}`, error });
      answer(id, 'error', `${describe(error)}\n`);
    }
    rmSync(path, { force: true, recursive: true });
  };

  const release = (id: string): void => {
    const wasFull = underWay.size >= SPOOL_PARALLEL_MAX;
    underWay.delete(id);
    if (wasFull) scan();
  };
  const scan = (): void => {
    if (closed) return;
    try {
      for (const name of readdirSync(dir)) {
        const [, id, command] = REQUEST_NAME.exec(name) ?? [];
        if (id === undefined) removeIfStale(dir, name, clock.wallMs());
        else if (!underWay.has(id) && underWay.size < SPOOL_PARALLEL_MAX) {
          underWay.add(id);
          void handleFile(id, command as CniCommand).then(
            () => release(id),
            (error: unknown) => {
              // The answer could not be written, the disk may be full: the request stays for another try.
              logger.error('cannot answer a CNI request', { error });
              clock.after(SPOOL_RETRY_MS, () => release(id));
            },
          );
        }
      }
      failing = false;
    } catch (error) {
      if (!failing) logger.error('cannot read the CNI folder', { dir, error });
      failing = true;
    }
  };

  const watcher = watchFolder(dir, scan, logger);
  const timer: Timer = clock.every(SPOOL_POLL_MS, scan);
  scan();
  return {
    scan,
    close() {
      closed = true;
      timer.cancel();
      watcher?.close();
    },
  };
}

function describe(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const code = error instanceof MeshError ? `${error.code}: ` : '';
  return `${code}${text}`.replaceAll(/[^\x20-\x7e]/g, ' ').slice(0, ERROR_TEXT_MAX);
}

function isTrusted(uid: number): boolean {
  return uid === 0 || uid === process.geteuid?.();
}

function checkFolder(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const stat = lstatSync(dir);
  const reason = !stat.isDirectory()
    ? 'not a directory'
    : !isTrusted(stat.uid)
      ? `it belongs to user ${stat.uid}`
      : (stat.mode & 0o077) !== 0
        ? `others may use it (mode ${(stat.mode & 0o777).toString(8)}), 700 is needed`
        : undefined;
  if (reason === undefined) return;
  throw new MeshError('MESH_CONFIG_INVALID', `Cannot use CNI folder "${dir}": ${reason}`);
}

/** Notices are only a short cut: without them, or when the watcher dies, the period remains. */
function watchFolder(dir: string, onChange: () => void, logger: Logger): FSWatcher | undefined {
  try {
    const watcher = watch(dir, { persistent: false }, onChange);
    watcher.on('error', (error) => logger.warn('no notices of the CNI folder', { error }));
    return watcher;
  } catch (error) {
    logger.warn('no notices of the CNI folder', { error });
    return undefined;
  }
}

function readRequest(path: string, command: CniCommand): Result<CniRequest> {
  const refuse = (reason: string, cause?: unknown): Result<never> => {
    const message = `Cannot read CNI request "${path}": ${reason}`;
    return fail(new MeshError('MESH_CNI_REQUEST_INVALID', message, { cause }));
  };
  let fd: number;
  try {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error), error);
  }
  try {
    const stat = fstatSync(fd);
    if (!stat.isFile()) return refuse('not a regular file');
    if (!isTrusted(stat.uid)) return refuse(`it belongs to user ${stat.uid}`);
    const bytes = Buffer.alloc(CNI_REQUEST_MAX_BYTES + 1);
    let size = 0;
    while (size < bytes.length) {
      const count = readSync(fd, bytes, size, bytes.length - size, null);
      if (count === 0) break;
      size += count;
    }
    return parseCniRequest(command, bytes.subarray(0, size));
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error), error);
  } finally {
    closeSync(fd);
  }
}

function removeIfStale(dir: string, name: string, nowMs: number): void {
  if (!LEFTOVER_NAME.test(name)) return;
  const path = join(dir, name);
  const stat = lstatSync(path, { throwIfNoEntry: false });
  if (stat?.isFile() === true && nowMs - stat.mtimeMs >= SPOOL_STALE_MS) {
    rmSync(path, { force: true });
  }
}
