/**
 * The folder source: the manifests of a folder as a stream of changes, kept up to date while it runs.
 *
 * - Looks again soon after the kernel reports a change, and every few seconds in any case: watches get lost
 *   (network file systems, a folder replaced as a whole).
 * - Write files atomically (another name, then rename): what is written slowly may be read half. A pause in
 *   the writing is waited for, so that a plain editor's save is read whole.
 * - A folder that cannot be listed changes nothing.
 */

import { watch, type FSWatcher } from 'node:fs';

import type { Clock, Timer } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Registry } from '../base/metrics.ts';
import { createTimeSlice } from '../base/time-slice.ts';
import type { ObjectChange } from '../controlplane/objects.ts';
import { DeclaredObjects, type ManifestStatus } from './declared.ts';
import { createFolder, SETTLE_MS } from './folder.ts';

export interface FilesSourceOptions {
  readonly path: string;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly registry: Registry;
  /** Every batch of changes, the first one included; never empty. */
  readonly onChanges: (changes: readonly ObjectChange[]) => void;
  /** Default 2,000. */
  readonly rescanPeriodMs?: number;
  /** How long the folder must be quiet before it is read. Default 50. */
  readonly quietMs?: number;
}

export interface FilesReport {
  /** Every document, in the order of files and lines. */
  readonly manifests: readonly ManifestStatus[];
  readonly objectCount: number;
  /** Why the folder itself could not be read last time. */
  readonly folderError: string;
}

export interface FilesSource extends AsyncDisposable {
  /** Reads the folder once; when it resolves, `onChanges` has had everything. Rejects if it cannot be listed. */
  start(): Promise<void>;
  /** Reads the folder now; resolves when done. A file that is just being written counts a little later. */
  rescan(): Promise<void>;
  report(): FilesReport;
}

const RESCAN_PERIOD_DEFAULT_MS = 2_000;
const QUIET_DEFAULT_MS = 50;
/** A folder that is never quiet is read this often. */
const QUIET_WAIT_MAX_MS = 500;
/** Error lines in the log for one reading; the report has them all. */
const LOGGED_MAX = 20;

export function createFilesSource(options: FilesSourceOptions): FilesSource {
  return new FolderSource(options);
}

class FolderSource implements FilesSource {
  readonly #options: FilesSourceOptions;
  readonly #folder: ReturnType<typeof createFolder>;
  readonly #declared = new DeclaredObjects();
  readonly #errorGauge;
  #watcher: FSWatcher | undefined;
  #periodic: Timer | undefined;
  #quiet: Timer | undefined;
  #firstEventMs: number | undefined;
  #running: Promise<void> | undefined;
  #closed = false;
  #folderError = '';
  #logged = new Set<string>();

  constructor(options: FilesSourceOptions) {
    this.#options = options;
    this.#folder = createFolder(options.path, options.clock);
    this.#errorGauge = options.registry.gauge({
      name: 'nodemesh_manifest_errors',
      help: 'Manifests that could not be read and keep their last good version',
    });
  }

  async start(): Promise<void> {
    await this.#scan();
    if (this.#folderError !== '') throw new MeshError('MESH_MANIFEST_INVALID', this.#folderError);
    const periodMs = this.#options.rescanPeriodMs ?? RESCAN_PERIOD_DEFAULT_MS;
    this.#periodic = this.#options.clock.every(periodMs, () => {
      if (this.#watcher === undefined) this.#watch();
      this.#rescanSoon();
    });
    this.#watch();
  }

  async rescan(): Promise<void> {
    // A reading that runs may have passed the change already: wait for it, then read again.
    await this.#running;
    await this.#scan();
  }

  report(): FilesReport {
    return {
      manifests: this.#declared.statuses,
      objectCount: this.#declared.size,
      folderError: this.#folderError,
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true;
    this.#periodic?.cancel();
    this.#quiet?.cancel();
    this.#watcher?.close();
    await this.#running;
  }

  #watch(): void {
    try {
      const watcher = watch(this.#options.path, { persistent: false });
      watcher.on('error', (error) => this.#unwatch(watcher, error));
      watcher.on('change', () => this.#rescanWhenQuiet());
      this.#watcher = watcher;
    } catch (error) {
      this.#unwatch(undefined, error);
    }
  }

  /** Without a watch the periodic reading goes on, and tries to watch again. */
  #unwatch(watcher: FSWatcher | undefined, error: unknown): void {
    watcher?.close();
    this.#watcher = undefined;
    this.#options.logger.warn('Cannot watch manifests; reading them periodically', {
      path: this.#options.path,
      error,
    });
  }

  #rescanWhenQuiet(): void {
    const { clock, quietMs = QUIET_DEFAULT_MS } = this.#options;
    if (this.#closed) return;
    const nowMs = clock.nowMs();
    this.#firstEventMs ??= nowMs;
    this.#quiet?.cancel();
    const leftMs = Math.max(0, this.#firstEventMs + QUIET_WAIT_MAX_MS - nowMs);
    this.#quiet = clock.after(Math.min(quietMs, leftMs), () => {
      this.#quiet = undefined;
      this.#firstEventMs = undefined;
      this.#rescanSoon();
    });
  }

  /** Once more when what was being written has rested; later events only bring it forward. */
  #rescanLater(delayMs: number): void {
    if (this.#quiet !== undefined || this.#closed) return;
    this.#quiet = this.#options.clock.after(delayMs, () => {
      this.#quiet = undefined;
      this.#rescanSoon();
    });
  }

  #rescanSoon(): void {
    if (this.#closed || this.#running !== undefined) {
      // One more reading after this one is enough for all that came meanwhile.
      this.#again = true;
      return;
    }
    void this.#scan();
  }

  #again = false;

  /** Never rejects: what is wrong is in the report. */
  #scan(): Promise<void> {
    this.#running ??= this.#read().finally(() => {
      this.#running = undefined;
      if (this.#again && !this.#closed) {
        this.#again = false;
        void this.#scan();
      }
    });
    return this.#running;
  }

  async #read(): Promise<void> {
    const { clock, logger, onChanges, path } = this.#options;
    const slice = createTimeSlice(clock);
    try {
      const files = await this.#folder.read(slice);
      const changes = await this.#declared.merge(files, slice);
      this.#folderError = '';
      if (this.#folder.unsettled) this.#rescanLater(SETTLE_MS);
      this.#logProblems();
      if (changes.length > 0 && !this.#closed) {
        logger.info('Manifests changed', { path, changed: changes.length });
        onChanges(changes);
      }
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message !== this.#folderError) logger.error('Cannot read manifests', { path, error });
      this.#folderError = message;
    }
  }

  /** Each problem is logged when it appears, not on every reading. */
  #logProblems(): void {
    const { logger } = this.#options;
    const seen = new Set<string>();
    let errorCount = 0;
    for (const { file, line, key, state, message } of this.#declared.statuses) {
      if (state === 'ok') continue;
      if (state === 'error') errorCount++;
      const id = `${file}:${line}:${message}`;
      const known = this.#logged.has(id);
      if (seen.size >= LOGGED_MAX) continue;
      seen.add(id);
      if (known) continue;
      if (state === 'error')
        logger.error('Manifest refused', { file, line, object: key, error: message });
      else logger.warn('Manifest ignored', { file, line, error: message });
    }
    this.#logged = seen;
    this.#errorGauge.set(errorCount);
  }
}
