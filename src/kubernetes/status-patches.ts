/**
 * Writes into the status of objects that others write into as well: read, changed where it is ours, and written back
 * against the version that was read. What was written last of each object is remembered, so that the same is not
 * written again.
 */

import { isDeepStrictEqual } from 'node:util';

import type { Logger } from '../base/logger.ts';
import type { MeshError } from '../base/errors.ts';
import type { StatusCondition } from '../controlplane/gateway-status.ts';
import { MERGE_PATCH_CONTENT_TYPE, statusOf, type ApiClient } from './api-client.ts';

export type Json = Record<string, unknown>;

export interface StatusPatchesOptions {
  readonly client: ApiClient;
  readonly logger: Logger;
  readonly fieldManager: string;
  /** We write no more: asked before each write. */
  readonly isOver: () => boolean;
}

export class StatusPatches {
  readonly #options: StatusPatchesOptions;
  readonly #written = new Map<string, string>();
  readonly #wanted = new Set<string>();
  /** Writes that failed since `begin`; the first of them is logged, the others are like it as a rule. */
  failed = 0;

  #complained = false;

  constructor(options: StatusPatchesOptions) {
    this.#options = options;
  }

  /** What is there may be another's now. */
  forget(): void {
    this.#written.clear();
  }

  begin(): void {
    this.failed = 0;
    this.#complained = false;
    this.#wanted.clear();
  }

  /** Lets go of objects that nothing was said of since `begin`. */
  end(): void {
    if (this.#options.isOver()) return;
    for (const path of this.#written.keys())
      if (!this.#wanted.has(path)) this.#written.delete(path);
  }

  /**
   * `paths`: where the object may be, by version, best first. `content` tells one status from the next. `change`: the
   * fields of the status that are to be as it returns them.
   */
  async write(
    paths: readonly string[],
    content: string,
    change: (status: Json) => Json,
  ): Promise<void> {
    const [key = ''] = paths;
    if (this.#options.isOver()) return;
    this.#wanted.add(key);
    if (this.#written.get(key) === content) return;
    const { client, fieldManager } = this.#options;
    for (const path of paths) {
      const found = await client.request({ path });
      if (!found.ok) {
        if (statusOf(found.error) === 404) continue;
        return this.#note('Cannot read', path, found.error);
      }
      const object = (found.value ?? {}) as { metadata?: Json; status?: Json | null };
      const status = object.status ?? {};
      const changed = change(status);
      const same = Object.entries(changed).every(([name, value]) =>
        isDeepStrictEqual(status[name], JSON.parse(JSON.stringify(value))),
      );
      const answer = same
        ? found
        : await client.request({
            method: 'PATCH',
            path: `${path}/status`,
            query: { fieldManager },
            contentType: MERGE_PATCH_CONTENT_TYPE,
            body: {
              metadata: { resourceVersion: object.metadata?.['resourceVersion'] },
              status: changed,
            },
          });
      if (answer.ok) this.#written.set(key, content);
      else this.#note('Cannot write the status of', path, answer.error);
      return;
    }
    // Deleted meanwhile: nothing to say.
    this.#written.set(key, content);
  }

  #note(what: string, path: string, error: MeshError): void {
    this.failed++;
    // Somebody else wrote meanwhile: the next round reads anew.
    if (statusOf(error) === 409 || this.#complained) return;
    this.#complained = true;
    this.#options.logger.warn(`${what} an object`, { path, error });
  }
}

export function listOf(value: unknown): readonly Json[] {
  return Array.isArray(value) ? (value as Json[]) : [];
}

/** Ours by type over those that are there; `only`: the list is all ours, what we do not say is over. */
export function mergedConditions(
  before: unknown,
  conditions: readonly StatusCondition[],
  now: string,
  only: boolean = false,
): Json[] {
  const known = listOf(before);
  const ours = conditions.map((condition): Json => {
    const same = known.find(
      (entry) => entry['type'] === condition.type && entry['status'] === condition.status,
    );
    return { ...condition, lastTransitionTime: same?.['lastTransitionTime'] ?? now };
  });
  const types = new Set(conditions.map(({ type }) => type));
  const others = only ? [] : known.filter((entry) => !types.has(entry['type'] as string));
  return [...others, ...ours];
}
