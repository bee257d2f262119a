/** Warnings of the last hour: about our own pods, and those that the mesh wrote on users' objects. */

import type { Cluster } from '../cluster.ts';
import { NAMESPACE } from '../install/kube-object.ts';
import type { KubeItem } from '../kube-shapes.ts';
import type { Attempt } from './survey.ts';

export interface MeshEvent {
  readonly timeMs: number;
  /** `KIND NAMESPACE/NAME`. */
  readonly about: string;
  readonly reason: string;
  readonly note: string;
}

interface EventItem extends KubeItem {
  readonly eventTime?: string | null;
  readonly deprecatedLastTimestamp?: string | null;
  readonly series?: { readonly lastObservedTime?: string };
  readonly reason?: string;
  readonly note?: string;
  readonly regarding?: {
    readonly kind?: string;
    readonly namespace?: string;
    readonly name?: string;
  };
  readonly reportingController?: string;
}

const API = '/apis/events.k8s.io/v1';
const REPORTERS = /(?:^|\.)nodemesh(?:\.|-|$)/;

function read(event: EventItem): MeshEvent {
  const { regarding, reason = '', note = '', series, eventTime, deprecatedLastTimestamp } = event;
  const time = series?.lastObservedTime ?? eventTime ?? deprecatedLastTimestamp;
  const { kind = '', namespace = '', name = '' } = regarding ?? {};
  return {
    timeMs: Date.parse(time ?? event.metadata?.creationTimestamp ?? ''),
    about: `${kind} ${namespace === '' ? '' : `${namespace}/`}${name}`,
    reason,
    // One line on a screen.
    note: note.replaceAll(/\s+/g, ' ').trim(),
  };
}

export async function surveyEvents(cluster: Cluster, attempt: Attempt): Promise<MeshEvent[]> {
  const none: readonly unknown[] | undefined = undefined;
  const query = { fieldSelector: 'type=Warning' };
  const items = await attempt('the events', () => cluster.list(`${API}/events`, query), none);
  return ((items ?? []) as readonly EventItem[])
    .filter(
      ({ metadata, reportingController = '' }) =>
        metadata?.namespace === NAMESPACE || REPORTERS.test(reportingController),
    )
    .map(read)
    .toSorted((a, b) => b.timeMs - a.timeMs);
}
