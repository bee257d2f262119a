/**
 * What the CNI script knows without asking, as folders of empty files that it only has to look for: the enrolled
 * namespaces, on disk, so that their pods are held also after a reboot before we run; and the pods known to be
 * outside the mesh, which are not delayed by a question.
 *
 * - A marker that could not be written or removed is tried again every 30 s, and so is one that somebody took away.
 * - Names found at the start count until `keepOnlyWanted`: what is not known yet is held rather than passed.
 */

import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Clock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { syncFolder } from './atomic-file.ts';

export interface CniMarkers {
  has(name: string): boolean;
  add(name: string): void;
  remove(name: string): void;
  /** Everything has been told: what was found at the start and not added since goes. */
  keepOnlyWanted(): void;
  /** Touches the folder no more: a successor keeps it. Idempotent. */
  stop(): void;
}

export const MARKERS_RECONCILE_MS = 30_000;
/** Namespaces, or pods of one node; more are not marked, and logged. */
export const MARKERS_MAX = 20_000;
/** Kubernetes names and UIDs; nothing that could lead out of the folder. */
const NAME = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,126}[A-Za-z0-9])?$/;

/** Makes the folder (0700) if need be and reads it. Throws the file system's error. */
export function openCniMarkers(dir: string, clock: Clock, logger: Logger): CniMarkers {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const present = new Set(readdirSync(dir).filter((name) => NAME.test(name)));
  const wanted = new Set(present);
  const confirmed = new Set<string>();
  let stopped = false;
  let failing = false;

  const change = (act: () => void): void => {
    if (stopped) return;
    try {
      act();
      failing = false;
    } catch (error) {
      if (!failing) logger.error('cannot keep what the CNI script reads', { dir, error });
      failing = true;
    }
  };
  const write = (name: string): void => {
    writeFileSync(join(dir, name), '', { mode: 0o600 });
    present.add(name);
  };
  const erase = (name: string): void => {
    rmSync(join(dir, name), { force: true });
    present.delete(name);
  };
  const reconcile = (): void =>
    change(() => {
      mkdirSync(dir, { recursive: true, mode: 0o700 });
      present.clear();
      for (const name of readdirSync(dir)) present.add(name);
      for (const name of wanted) if (!present.has(name)) write(name);
      for (const name of present) if (NAME.test(name) && !wanted.has(name)) erase(name);
      syncFolder(dir);
    });

  const timer = clock.every(MARKERS_RECONCILE_MS, reconcile);
  return {
    has: (name) => wanted.has(name),
    add(name) {
      if (!NAME.test(name)) return;
      if (!wanted.has(name) && wanted.size >= MARKERS_MAX) {
        logger.error('too many names for the CNI script', { dir, name, max: MARKERS_MAX });
        return;
      }
      wanted.add(name);
      confirmed.add(name);
      if (present.has(name)) return;
      change(() => {
        write(name);
        syncFolder(dir);
      });
    },
    remove(name) {
      wanted.delete(name);
      confirmed.delete(name);
      if (!present.has(name)) return;
      change(() => {
        erase(name);
        syncFolder(dir);
      });
    },
    keepOnlyWanted() {
      for (const name of wanted) if (!confirmed.has(name)) wanted.delete(name);
      reconcile();
    },
    stop() {
      stopped = true;
      timer.cancel();
    },
  };
}
