/**
 * Events (events.k8s.io/v1) on what the user owns: a pod that cannot be captured, a service whose waypoint is
 * missing, a policy that is not in force. By state: one Event when the trouble begins, a longer series while it
 * goes on, nothing when it is over.
 *
 * - Reasons are stable words. An Event's name is made from object, reason and text, so that the next leader goes on
 *   with the same one.
 * - Bounded: a bucket over all, and a series is written once in ten minutes.
 */

import { createHash } from 'node:crypto';

import type { Clock, Timer } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import type { ObjectCondition, ObjectKind } from '../controlplane/objects.ts';
import { MERGE_PATCH_CONTENT_TYPE, statusOf, type ApiClient } from './api-client.ts';

export const EVENT_CONTROLLER = 'nodemesh.dev/controller';
export const SERIES_PERIOD_MS = 600_000;
export const EVENTS_BURST = 50;
export const EVENTS_PER_SECOND = 2;
const NOTE_CHARS_MAX = 1_000;
const LOOK_MS = 2_000;
const TROUBLES_MAX = 10_000;

export interface EventRecorderOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly client: ApiClient;
  /** This controller's name. */
  readonly instance: string;
  readonly leads: () => boolean;
  /** Everything that is wrong now. */
  readonly troubles: () => Iterable<ObjectCondition>;
}

export interface EventRecorder extends AsyncDisposable {
  /** Troubles may have changed. */
  poke(): void;
}

interface Told {
  readonly name: string;
  readonly namespace: string;
  count: number;
  lastMs: number;
}

/** Where objects with Events live; others are cluster-wide or ours, and have a status instead. */
const PATHS: Partial<Record<ObjectKind, readonly [apiVersion: string, plural: string]>> = {
  Pod: ['v1', 'pods'],
  Service: ['v1', 'services'],
  PeerAuthentication: ['nodemesh.dev/v1alpha1', 'peerauthentications'],
  AuthorizationPolicy: ['nodemesh.dev/v1alpha1', 'authorizationpolicies'],
  RequestAuthentication: ['nodemesh.dev/v1alpha1', 'requestauthentications'],
  MeshConfig: ['nodemesh.dev/v1alpha1', 'meshconfigs'],
};

export function createEventRecorder(options: EventRecorderOptions): EventRecorder {
  const { clock, logger, client } = options;
  const told = new Map<string, Told>();
  let tokens = EVENTS_BURST;
  let filledMs = clock.nowMs();
  let running: Promise<void> | undefined;
  let dirty = true;
  let closed = false;
  let complained = '';

  const takeToken = (): boolean => {
    const nowMs = clock.nowMs();
    tokens = Math.min(EVENTS_BURST, tokens + ((nowMs - filledMs) * EVENTS_PER_SECOND) / 1_000);
    filledMs = nowMs;
    if (tokens < 1) return false;
    tokens--;
    return true;
  };
  const now = (): string => new Date(clock.wallMs()).toISOString().replace('Z', '000Z');

  /** The object's uid, without which `kubectl describe` does not find the Event; undefined: it is gone. */
  const uidOf = async (path: string, name: string): Promise<string | undefined> => {
    const query = { fieldSelector: `metadata.name=${name}` };
    const answer = await client.request({ path, query });
    if (!answer.ok) throw answer.error;
    const { items } = (answer.value ?? {}) as { items?: { metadata?: { uid?: unknown } }[] | null };
    const uid = items?.[0]?.metadata?.uid;
    return typeof uid === 'string' ? uid : undefined;
  };

  const extend = async (event: Told): Promise<void> => {
    event.count++;
    const path = `/apis/events.k8s.io/v1/namespaces/${event.namespace}/events/${event.name}`;
    const body = { series: { count: event.count, lastObservedTime: now() } };
    const contentType = MERGE_PATCH_CONTENT_TYPE;
    const answer = await client.request({ method: 'PATCH', path, body, contentType });
    // Events live for an hour; the next round makes it anew.
    if (!answer.ok && statusOf(answer.error) !== 404) throw answer.error;
    if (!answer.ok) event.lastMs = -Infinity;
  };

  const create = async (trouble: ObjectCondition, event: Told): Promise<void> => {
    const [kind = '', namespace = '', name = ''] = trouble.key.split('/');
    const [apiVersion, plural] = PATHS[kind as ObjectKind] ?? [];
    if (apiVersion === undefined || plural === undefined) return;
    const root = apiVersion === 'v1' ? '/api/v1' : `/apis/${apiVersion}`;
    const uid = await uidOf(`${root}/namespaces/${namespace}/${plural}`, name);
    if (uid === undefined) return;
    const answer = await client.request({
      method: 'POST',
      path: `/apis/events.k8s.io/v1/namespaces/${namespace}/events`,
      body: {
        apiVersion: 'events.k8s.io/v1',
        kind: 'Event',
        metadata: { name: event.name, namespace },
        eventTime: now(),
        reportingController: EVENT_CONTROLLER,
        reportingInstance: options.instance.slice(0, 128),
        action: 'Reconcile',
        type: 'Warning',
        reason: trouble.reason,
        note: trouble.message.slice(0, NOTE_CHARS_MAX),
        regarding: { apiVersion, kind, namespace, name, uid },
      },
    });
    if (answer.ok) return;
    // Told by the leader before us.
    if (statusOf(answer.error) === 409) await extend(event);
    // A namespace that is going away takes no Events.
    else if (statusOf(answer.error) !== 403) throw answer.error;
  };

  const round = async (): Promise<void> => {
    if (!options.leads()) return;
    const current = new Set<string>();
    for (const trouble of options.troubles()) {
      const id = `${trouble.key} ${trouble.reason} ${trouble.message}`;
      current.add(id);
      if (closed || current.size > TROUBLES_MAX) break;
      const before = told.get(id);
      if (before !== undefined && clock.nowMs() - before.lastMs < SERIES_PERIOD_MS) continue;
      if (!takeToken()) {
        dirty = true;
        break;
      }
      const event = before ?? newEvent(trouble, id);
      const isFirst = before === undefined || before.lastMs === -Infinity;
      event.lastMs = clock.nowMs();
      await (isFirst ? create(trouble, event) : extend(event));
      told.set(id, event);
    }
    if (current.size > TROUBLES_MAX || dirty) return;
    for (const id of told.keys()) if (!current.has(id)) told.delete(id);
  };

  const timer: Timer = clock.every(LOOK_MS, () => {
    if (!dirty || running !== undefined) return;
    dirty = false;
    running = round()
      .catch((error: unknown) => {
        dirty = true;
        const message = error instanceof Error ? error.message : String(error);
        if (message !== complained) logger.warn('Cannot write Events; trying again', { error });
        complained = message;
      })
      .finally(() => {
        running = undefined;
      });
  });
  /** What goes on is said again. */
  const series = clock.every(SERIES_PERIOD_MS, () => void (dirty = true));

  return {
    poke: () => void (dirty = true),
    async [Symbol.asyncDispose]() {
      closed = true;
      timer.cancel();
      series.cancel();
      await running;
    },
  };
}

function newEvent({ key }: ObjectCondition, id: string): Told {
  const [, namespace = '', object = ''] = key.split('/');
  const hash = createHash('sha256').update(id).digest('hex').slice(0, 16);
  return { name: `${object.slice(0, 230)}.${hash}`, namespace, count: 1, lastMs: -Infinity };
}
