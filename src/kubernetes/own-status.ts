/**
 * The status of the mesh's own kinds: condition `Accepted`, True when the object is in force, else saying what to
 * do. Written by the leader alone, by server-side apply under a name of its own, so that what others wrote into
 * the same status stays; and only when it differs from what is there.
 */

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { ObjectCondition } from '../controlplane/objects.ts';
import { APPLY_CONTENT_TYPE, statusOf, type ApiClient } from './api-client.ts';
import { kindPath, type WatchedKind } from './watched-kinds.ts';

export const STATUS_MANAGER = 'nodemesh-controller-status';

interface Condition {
  readonly type: string;
  readonly status: string;
  readonly reason: string;
  readonly message: string;
  readonly observedGeneration: number;
  readonly lastTransitionTime: string;
}

interface Entry {
  readonly kind: WatchedKind;
  readonly namespace: string;
  readonly name: string;
  readonly generation: number;
  readonly uid: unknown;
  readonly accepted: Partial<Condition> | undefined;
  /** Undefined when it could be read. */
  readonly refusal: Refusal | undefined;
  /** A good version was read before: it stays in force. */
  readonly hasGood: boolean;
}

/** Why an object cannot be read, and what holds until it can be; no effect: nothing does. */
export interface Refusal {
  readonly problem: string;
  readonly effect: string | undefined;
}

export interface OwnStatusOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly client: ApiClient;
  readonly leads: () => boolean;
  /** What the control plane has to say about objects that could be read. */
  readonly conditions: () => Iterable<ObjectCondition>;
}

export interface OwnStatus extends AsyncDisposable {
  /** An object as the API server has it; `refusal`: it could not be read. */
  note(kind: WatchedKind, value: unknown, refusal: Refusal | undefined): void;
  /** Conditions may have changed. */
  poke(): void;
}

/** Objects that are in force in spite of what is said about them. */
const IN_FORCE: ReadonlySet<string> = new Set(['L7Ignored']);
const GATHER_MS = 250;
const RETRY_MS = 5_000;
const MESSAGE_CHARS_MAX = 4_096;
const ENTRIES_MAX = 20_000;

export function createOwnStatus(options: OwnStatusOptions): OwnStatus {
  const { clock, logger, client } = options;
  const entries = new Map<string, Entry>();
  /** What was written last of each, until it is seen: an answer that is on its way is not written again. */
  const written = new Map<string, string>();
  let timer: Timer | undefined;
  let running: Promise<void> | undefined;
  let closed = false;
  let again = false;

  const wanted = (
    entry: Entry,
    said: ObjectCondition | undefined,
  ): Omit<Condition, 'lastTransitionTime'> => {
    const base = { type: 'Accepted', observedGeneration: entry.generation };
    if (entry.refusal !== undefined) {
      const message = refusalText(entry.refusal, entry.hasGood).slice(0, MESSAGE_CHARS_MAX);
      return { ...base, status: 'False', reason: 'Invalid', message };
    }
    if (said === undefined) return { ...base, status: 'True', reason: 'Accepted', message: '' };
    const status = IN_FORCE.has(said.reason) ? 'True' : 'False';
    const message = said.message.slice(0, MESSAGE_CHARS_MAX);
    return { ...base, status, reason: said.reason, message };
  };

  const write = async (
    key: string,
    entry: Entry,
    said: ObjectCondition | undefined,
  ): Promise<void> => {
    const condition = wanted(entry, said);
    const before = entry.accepted;
    const fields = ['status', 'reason', 'message', 'observedGeneration'] as const;
    if (before !== undefined && fields.every((field) => before[field] === condition[field])) return;
    const text = JSON.stringify(condition);
    if (written.get(key) === text) return;
    const { kind, namespace, name } = entry;
    const kept = before?.status === condition.status ? before.lastTransitionTime : undefined;
    const lastTransitionTime = kept ?? `${new Date(clock.wallMs()).toISOString().slice(0, 19)}Z`;
    const answer = await client.request({
      method: 'PATCH',
      path: `${namespacedPath(kind, namespace)}/${name}/status`,
      query: { fieldManager: STATUS_MANAGER, force: 'true' },
      contentType: APPLY_CONTENT_TYPE,
      body: {
        apiVersion: `${kind.group}/${kind.version}`,
        kind: kind.kind,
        metadata: { name, namespace },
        status: {
          observedGeneration: entry.generation,
          conditions: [{ ...condition, lastTransitionTime }],
        },
      },
    });
    if (answer.ok) written.set(key, text);
    else if (statusOf(answer.error) === 404) {
      entries.delete(key);
      written.delete(key);
    } else throw answer.error;
  };

  const round = async (): Promise<void> => {
    if (!options.leads()) {
      written.clear();
      return;
    }
    const said = new Map<string, ObjectCondition>();
    for (const condition of options.conditions()) said.set(condition.key, condition);
    let failed: unknown;
    for (const [key, entry] of entries) {
      if (closed || !options.leads()) return;
      try {
        await write(key, entry, said.get(key));
      } catch (error) {
        failed = error;
      }
    }
    if (failed === undefined) return;
    logger.warn('Cannot write status; trying again', { error: failed });
    schedule(RETRY_MS);
  };

  const schedule = (delayMs: number): void => {
    if (closed || timer !== undefined) return;
    timer = clock.after(delayMs, () => {
      timer = undefined;
      if (running !== undefined) {
        again = true;
        return;
      }
      running = round()
        .catch((error: unknown) => logger.error('Cannot write status', { error }))
        .finally(() => {
          running = undefined;
          if (again) schedule(GATHER_MS);
          again = false;
        });
    });
  };

  return {
    note(kind, value, refusal) {
      const { metadata, status } = (value ?? {}) as {
        metadata?: { name?: unknown; namespace?: unknown; generation?: unknown; uid?: unknown };
        status?: { conditions?: readonly Partial<Condition>[] } | null;
      };
      const { name, namespace = '', generation, uid } = metadata ?? {};
      if (typeof name !== 'string' || typeof namespace !== 'string') return;
      const key = `${kind.kind}/${namespace}/${name}`;
      const known = entries.get(key);
      if (known === undefined && entries.size >= ENTRIES_MAX) return;
      const conditions = Array.isArray(status?.conditions) ? status.conditions : [];
      written.delete(key);
      entries.set(key, {
        kind,
        namespace,
        name,
        generation: typeof generation === 'number' ? generation : 0,
        accepted: conditions.find(({ type }) => type === 'Accepted'),
        refusal,
        uid,
        // Of the same object only: one that was deleted and made anew has no earlier version.
        hasGood: refusal === undefined || (known?.uid === uid && known?.hasGood === true),
      });
      schedule(GATHER_MS);
    },
    poke: () => schedule(GATHER_MS),
    async [Symbol.asyncDispose]() {
      closed = true;
      timer?.cancel();
      await running;
    },
  };
}

function refusalText({ problem, effect }: Refusal, hasGood: boolean): string {
  if (hasGood) return `${problem}; the last good version stays in force`;
  const rest = effect === undefined ? 'it is not in force' : `until it can be read ${effect}`;
  return `${problem}; ${rest}`;
}

function namespacedPath(kind: WatchedKind, namespace: string): string {
  const prefix = `/apis/${kind.group}/${kind.version}`;
  return namespace === '' ? kindPath(kind) : `${prefix}/namespaces/${namespace}/${kind.plural}`;
}
