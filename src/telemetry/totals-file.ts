/**
 * The copy of the workers' totals on disk, so that a restarted agent goes on counting. Losing it costs no more
 * than a counter reset: it is written now and then, and every failure is only a warning (F65).
 */

import { open, readFile, rename, stat, unlink } from 'node:fs/promises';

import type { Clock } from '../base/clock.ts';
import { errorFromNode } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { WorkerTotals } from './worker-totals.ts';

export interface TotalsFile {
  /** Takes what the file holds; does nothing without one. Never rejects. */
  load(): Promise<void>;
  /** Writes the file now, or again when it is being written. Never rejects. */
  save(): Promise<void>;
  /** Stops writing. */
  stop(): void;
}

const SAVE_PERIOD_MS = 15_000;
const FILE_MAX_BYTES = 64 * 1024 * 1024;

/** Writes to `path` every 15 s, once `load` has been called. */
export function createTotalsFile(
  clock: Clock,
  logger: Logger,
  path: string,
  totals: WorkerTotals,
): TotalsFile {
  let isSaving = false;
  let isStale = false;
  let written = '';
  const save = async (): Promise<void> => {
    isStale = isSaving;
    if (isSaving) return;
    isSaving = true;
    const next = `${path}.next`;
    try {
      const text = totals.save();
      if (text === written) return;
      await using file = await open(next, 'w', 0o600);
      await file.writeFile(text);
      await rename(next, path);
      written = text;
    } catch (error) {
      logger.warn('Cannot save metrics', { path, error: errorFromNode(error, 'Cannot write') });
      await unlink(next).catch(() => {});
    } finally {
      isSaving = false;
    }
    if (isStale) await save();
  };
  let stop = (): void => {};
  return {
    async load() {
      try {
        const { size } = await stat(path);
        if (size > FILE_MAX_BYTES) {
          logger.warn('Saved metrics are too large; starting from 0', { path, bytes: size });
        } else {
          const restored = totals.restore(await readFile(path, 'utf8'));
          if (!restored.ok) logger.warn('Starting metrics from 0', { path, error: restored.error });
        }
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
          logger.warn('Cannot read saved metrics', {
            path,
            error: errorFromNode(error, 'Cannot read'),
          });
        }
      }
      const timer = clock.every(SAVE_PERIOD_MS, () => void save());
      stop = () => timer.cancel();
    },
    save,
    stop: () => stop(),
  };
}
