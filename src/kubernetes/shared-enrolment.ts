/**
 * `EnrolmentSharing` over the API server: one record per node (enrolment-record.ts), one Lease per controller
 * (replicas.ts).
 *
 * - A record is written with the version it was read in: of two controllers that take themselves for a node's
 *   home, the later one's claim stands and the other's write is refused, whereupon it follows.
 * - Versions are the API server's own, which grow over all objects; a replica that has acknowledged one has
 *   acknowledged all before it.
 * - A record whose home is dead is adopted by the leader.
 */

import { createBackoff } from '../base/backoff.ts';
import { sleep, type Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import type { Logger } from '../base/logger.ts';
import type { Random } from '../base/random.ts';
import { ok, type Result } from '../base/result.ts';
import type {
  EnrolmentSharing,
  NodePhases,
  SharedNode,
} from '../controlplane/enrolment-sharing.ts';
import { statusOf, type ApiClient, type ApiRequest } from './api-client.ts';
import {
  formatRecord,
  parseRecord,
  RECORD_LABEL,
  recordName,
  samePhases,
  type EnrolmentRecord,
} from './enrolment-record.ts';
import type { ReflectorMetrics } from './metrics.ts';
import { createReflector, type Reflector } from './reflector.ts';
import type { Replicas } from './replicas.ts';

export interface SharedEnrolmentOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: ReflectorMetrics;
  readonly client: ApiClient;
  readonly namespace: string;
  readonly identity: string;
  readonly replicas: Replicas;
  readonly leads: () => boolean;
}

/** A step is published behind its storing when that takes longer: an API server that is down holds nobody up. */
const STORE_WAIT_MS = 2_000;
const ADOPT_PERIOD_MS = 5_000;
const BACKOFF = { initialMs: 200, maxMs: 10_000, floor: 0.25 };

interface Held {
  /** As last read or written; undefined while there is none. */
  record: EnrolmentRecord | undefined;
  isHome: boolean;
  /** What is to be written; undefined when all is. */
  wanted: NodePhases | undefined;
  writing: Promise<void> | undefined;
}

export interface SharedEnrolment extends EnrolmentSharing, AsyncDisposable {}

export function createSharedEnrolment(options: SharedEnrolmentOptions): SharedEnrolment {
  return new Sharing(options);
}

class Sharing implements SharedEnrolment {
  readonly #options: SharedEnrolmentOptions;
  readonly #path: string;
  readonly #nodes = new Map<string, Held>();
  readonly #stop = new AbortController();
  #reflector: Reflector | undefined;
  #onNode: (shared: SharedNode) => void = () => {};
  #onMoved: (version: number) => void = () => {};
  #adoption: { cancel(): void } | undefined;

  constructor(options: SharedEnrolmentOptions) {
    this.#options = options;
    this.#path = `/api/v1/namespaces/${options.namespace}/configmaps`;
  }

  async start(
    onNode: (shared: SharedNode) => void,
    onMoved: (version: number) => void,
  ): Promise<void> {
    this.#onNode = onNode;
    this.#onMoved = onMoved;
    const { clock, random, logger, metrics, client } = this.#options;
    await this.#options.replicas.start();
    this.#reflector = createReflector<string, EnrolmentRecord>({
      clock,
      random,
      logger,
      metrics,
      client,
      name: 'enrolment records',
      path: this.#path,
      labelSelector: `${RECORD_LABEL}=true`,
      read: (value) => {
        const record = parseRecord(value);
        if (record === undefined) return { status: 'ignored' };
        return { status: 'object', key: record.node, object: record };
      },
      onChanges: (changes) => {
        let moved = 0;
        for (const change of changes) {
          if (change.type === 'put') moved = Math.max(moved, this.#take(change.object));
          else this.#takeGone(change.key);
        }
        if (moved > 0) this.#onMoved(moved);
      },
    });
    await this.#reflector.synced;
    this.#adoptDead();
    this.#adoption = clock.every(ADOPT_PERIOD_MS, () => this.#adoptDead());
  }

  claim(node: string): void {
    const held = this.#hold(node);
    if (held.isHome) return;
    held.isHome = true;
    const phases = held.record?.phases ?? new Map();
    this.#onNode({ node, phases, isHome: true });
    // A node of which nothing is stored needs no record yet: nobody could follow it wrongly.
    if (held.record !== undefined) this.#want(node, held, phases);
  }

  async store(node: string, phases: NodePhases): Promise<void> {
    const held = this.#hold(node);
    // Where nobody else is home, the one that has something to store is.
    if (held.record === undefined) held.isHome = true;
    if (!held.isHome) return;
    if (held.wanted === undefined && this.#isStored(held, phases)) return;
    this.#want(node, held, phases);
    const { clock } = this.#options;
    const { promise: overdue, resolve } = Promise.withResolvers<void>();
    const timer = clock.after(STORE_WAIT_MS, resolve);
    await Promise.race([held.writing, overdue]);
    timer.cancel();
  }

  isSettled(node: string): boolean {
    const held = this.#nodes.get(node);
    if (held === undefined) return true;
    if (held.wanted !== undefined) return false;
    const version = Number(held.record?.version ?? 0);
    return this.#options.replicas.acknowledgedByOthers >= version;
  }

  acknowledge(version: number): void {
    this.#options.replicas.acknowledge(version);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#adoption?.cancel();
    await this.#reflector?.[Symbol.asyncDispose]();
    this.#stop.abort(new MeshError('MESH_ABORTED', 'The controller ends'));
    for (const { writing } of this.#nodes.values()) await writing;
    await this.#options.replicas[Symbol.asyncDispose]();
  }

  #hold(node: string): Held {
    let held = this.#nodes.get(node);
    if (held === undefined) {
      held = { record: undefined, isHome: false, wanted: undefined, writing: undefined };
      this.#nodes.set(node, held);
    }
    return held;
  }

  #isStored({ record }: Held, phases: NodePhases): boolean {
    if (record === undefined) return phases.size === 0;
    return record.home === this.#options.identity && samePhases(record.phases, phases);
  }

  /** A record from the API server; returns its version when it is another's and waited for. */
  #take(record: EnrolmentRecord): number {
    const { node, home, phases, version } = record;
    const held = this.#hold(node);
    // The echo of our own write, or one that was overtaken by it.
    if (Number(version) <= Number(held.record?.version ?? 0)) return 0;
    held.record = record;
    if (home === this.#options.identity) {
      // Of an earlier life under our name: nobody else may decide, so we do.
      if (!held.isHome) {
        held.isHome = true;
        this.#onNode({ node, phases, isHome: true });
      }
      return 0;
    }
    held.isHome = false;
    held.wanted = undefined;
    this.#onNode({ node, phases, isHome: false });
    return isWaitedFor(phases) ? Number(version) : 0;
  }

  #takeGone(node: string): void {
    const held = this.#nodes.get(node);
    if (held === undefined || held.isHome) return;
    this.#nodes.delete(node);
    this.#onNode({ node, phases: new Map(), isHome: true });
  }

  #want(node: string, held: Held, phases: NodePhases): void {
    held.wanted = phases;
    held.writing ??= this.#writeAll(node, held).finally(() => {
      held.writing = undefined;
    });
  }

  async #writeAll(node: string, held: Held): Promise<void> {
    const { clock, random, logger } = this.#options;
    const backoff = createBackoff(random, BACKOFF);
    let complained = '';
    while (held.wanted !== undefined && !this.#stop.signal.aborted) {
      if (held.record === undefined && held.wanted.size === 0) {
        held.wanted = undefined;
        return;
      }
      const error = await this.#write(node, held, held.wanted);
      if (error === undefined) continue;
      if (error.message !== complained) {
        logger.warn('Cannot store where the pods of a node are; trying again', { node, error });
      }
      complained = error.message;
      await sleep(clock, backoff.nextMs(), this.#stop.signal).catch(() => {});
    }
  }

  /** One try; undefined when it is written, or needs no writing any more. */
  async #write(node: string, held: Held, phases: NodePhases): Promise<MeshError | undefined> {
    const { client, namespace, identity } = this.#options;
    const before = held.record;
    const version = before?.version ?? '';
    const path = `${this.#path}/${recordName(node)}`;
    const answer = await client.request(
      writeRequest(this.#path, path, before, { node, home: identity, phases, version }, namespace),
    );
    if (answer.ok) {
      if (phases.size === 0) held.record = undefined;
      const written = phases.size === 0 ? undefined : parseRecord(answer.value);
      if (written !== undefined && Number(written.version) > Number(held.record?.version ?? 0)) {
        held.record = written;
      }
      if (held.wanted === phases) held.wanted = undefined;
      return undefined;
    }
    const status = statusOf(answer.error);
    if (status === 404) held.record = undefined;
    if (status !== 409 && status !== 404) return answer.error;
    return this.#reread(path, held);
  }

  /** Somebody else wrote: if that was another home, it is theirs, and what we wanted is void. */
  async #reread(path: string, held: Held): Promise<MeshError | undefined> {
    const answer = await this.#options.client.request({ path });
    if (!answer.ok) {
      if (statusOf(answer.error) !== 404) return answer.error;
      held.record = undefined;
      return undefined;
    }
    const record = parseRecord(answer.value);
    if (record === undefined) return new MeshError('MESH_API_REFUSED', 'A record is damaged');
    const isClaim = held.record === undefined || held.record.home !== this.#options.identity;
    if (record.home !== this.#options.identity && !isClaim) {
      this.#take(record);
      return undefined;
    }
    // Ours is the newer claim: it goes on from what the home before us stored last.
    held.record = record;
    if (record.home !== this.#options.identity) {
      held.wanted = record.phases;
      this.#onNode({ node: record.node, phases: record.phases, isHome: true });
    }
    return undefined;
  }

  #adoptDead(): void {
    const { leads, replicas, logger } = this.#options;
    if (!leads()) return;
    for (const [node, held] of this.#nodes) {
      const { record } = held;
      if (held.isHome || record === undefined || replicas.isAlive(record.home)) continue;
      logger.info('The pods of a node are led by another controller now', {
        node,
        was: record.home,
      });
      this.claim(node);
    }
  }
}

/** Whether any pod is stored as being in the mesh: a trace of identities that outlives the CA's Secret. */
export async function hasEnrolmentRecords(
  client: ApiClient,
  namespace: string,
): Promise<Result<boolean>> {
  const answer = await client.request({
    path: `/api/v1/namespaces/${namespace}/configmaps`,
    query: { labelSelector: `${RECORD_LABEL}=true`, limit: '1' },
  });
  if (!answer.ok) return answer;
  const { items } = (answer.value ?? {}) as { items?: readonly unknown[] | null };
  return ok((items ?? []).length > 0);
}

/** A record of no pods is none: nothing is left of a node that went. */
function writeRequest(
  collection: string,
  path: string,
  before: EnrolmentRecord | undefined,
  record: EnrolmentRecord,
  namespace: string,
): ApiRequest {
  if (before === undefined) {
    return { method: 'POST', path: collection, body: formatRecord(record, namespace) };
  }
  if (record.phases.size > 0) return { method: 'PUT', path, body: formatRecord(record, namespace) };
  const preconditions = { resourceVersion: before.version };
  const body = { apiVersion: 'v1', kind: 'DeleteOptions', preconditions };
  return { method: 'DELETE', path, body };
}

/** Phases that end only when everybody has them. */
function isWaitedFor(phases: NodePhases): boolean {
  for (const phase of phases.values()) {
    if (phase === 'announcing' || phase === 'retracting') return true;
  }
  return false;
}
