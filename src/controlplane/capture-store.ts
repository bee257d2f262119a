/**
 * Which pods are published as HBONE, kept for the controller's next life: a restarted controller that forgot
 * would publish them as plain until each node has reported again, and their peers would leave the tunnel.
 */

import { open, readFile, rename } from 'node:fs/promises';

import { MeshError } from '../base/errors.ts';
import type { PodUid } from '../core/pod.ts';

export interface CaptureStore {
  /** Empty when nothing was ever saved. Rejects with `MESH_CONFIG_INVALID` for what cannot be read. */
  load(): Promise<ReadonlySet<PodUid>>;
  save(pods: Iterable<PodUid>): Promise<void>;
}

/** Keeps nothing: for sources that carry the fact themselves, and tests. */
export function createNullCaptureStore(): CaptureStore {
  return { load: () => Promise.resolve(new Set()), save: () => Promise.resolve() };
}

const UID = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;

/** One UID per line, replaced as a whole. */
export function createFileCaptureStore(path: string): CaptureStore {
  return {
    async load() {
      let text: string;
      try {
        text = await readFile(path, 'utf8');
      } catch (cause) {
        if (cause instanceof Error && 'code' in cause && cause.code === 'ENOENT') return new Set();
        const message = `Cannot read captured pods from "${path}"`;
        throw new MeshError('MESH_CONFIG_INVALID', message, { cause });
      }
      const lines = text.split('\n').filter((line) => line !== '');
      const wrong = lines.find((line) => !UID.test(line));
      if (wrong !== undefined) {
        const message = `Cannot read captured pods from "${path}": a line is no pod UID; remove the file`;
        throw new MeshError('MESH_CONFIG_INVALID', message);
      }
      return new Set(lines as PodUid[]);
    },
    async save(pods) {
      const temporary = `${path}.new`;
      {
        await using file = await open(temporary, 'w', 0o600);
        await file.writeFile([...pods, ''].join('\n'));
        await file.sync();
      }
      await rename(temporary, path);
    },
  };
}
