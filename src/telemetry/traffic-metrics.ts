/**
 * Istio's TCP metrics, counted per edge (who talks to whom): the names and labels that Kiali and Istio's boards
 * read. The labels of an edge are put together once; after that a connection costs a few additions, where the
 * Prometheus library needs some 4 µs for each.
 *
 * - Absent values are `unknown`, as Istio writes them; edges beyond the limit are counted as `other` (T108, G28).
 * - Sent and received are seen from the request: received is what the source sent, whoever reports. In the access
 *   log they are the reporter's own view.
 * - Series of edges with open connections do not expire, so opened minus closed stays the open ones.
 */

import type { ResponseFlag } from '../base/errors.ts';
import type { Edge } from '../core/connection-record.ts';
import { TRAFFIC_LABELS, trafficValues } from './peer-labels.ts';
import type { Family, FamilyOptions, LabelSet, Series, SeriesStore } from './series-store.ts';

const EDGES_MAX = 1_800;
/** An edge has one series here for each way its connections ended. */
const CLOSED_SERIES_MAX = 2_000;
const FAILED_SERIES_MAX = 1_500;

const traffic = (name: string, help: string, seriesMax: number = EDGES_MAX): FamilyOptions => ({
  name: `istio_tcp_${name}_total`,
  help,
  kind: 'counter',
  labels: TRAFFIC_LABELS,
  seriesMax,
  expires: true,
});

export const TRAFFIC_FAMILIES: Readonly<
  Record<'opened' | 'closed' | 'failed' | 'sent' | 'received', FamilyOptions>
> = {
  opened: traffic('connections_opened', 'TCP connections opened'),
  closed: traffic('connections_closed', 'TCP connections closed', CLOSED_SERIES_MAX),
  failed: traffic(
    'connections_failed',
    'TCP connections that were refused or ended by an error',
    FAILED_SERIES_MAX,
  ),
  sent: traffic('sent_bytes', 'Bytes from destination to source'),
  received: traffic('received_bytes', 'Bytes from source to destination'),
};

export interface TrafficMetrics {
  opened(edge: Edge): void;
  /** Bytes towards the other side and back, from the reporter's point of view. */
  bytes(edge: Edge, sent: number, received: number): void;
  /** A connection ended; `wasOpened` tells whether `opened` was called for it. */
  ended(edge: Edge, flag: ResponseFlag, wasOpened: boolean): void;
}

/** What one worker has counted of one series. */
export interface Counted {
  readonly metric: string;
  readonly labels: readonly string[];
  readonly value: number;
}

const FLAG_INDEX = TRAFFIC_LABELS.indexOf('response_flags');
const LOST_FLAG: ResponseFlag = 'RESET';

/**
 * What a worker that died would have counted for the connections that died with it: each of them closed and failed,
 * so that opened minus closed is what is open once more.
 */
export function countLostConnections(counted: Iterable<Counted>): Counted[] {
  const open = new Map<string, { labels: readonly string[]; count: number }>();
  for (const { metric, labels, value } of counted) {
    const isOpened = metric === TRAFFIC_FAMILIES.opened.name;
    if (!isOpened && metric !== TRAFFIC_FAMILIES.closed.name) continue;
    const key = labels.filter((_, index) => index !== FLAG_INDEX).join('\u0000');
    const entry = open.get(key) ?? { labels, count: 0 };
    entry.count += isOpened ? value : -value;
    open.set(key, entry);
  }
  return [...open.values()].flatMap(({ labels, count }) => {
    if (count <= 0) return [];
    const lost = { labels: labels.with(FLAG_INDEX, LOST_FLAG), value: count };
    const { closed, failed } = TRAFFIC_FAMILIES;
    return [
      { metric: closed.name, ...lost },
      { metric: failed.name, ...lost },
    ];
  });
}

/** The series of one edge, found once. */
interface EdgeSeries {
  /** With the flag `-`. */
  readonly labels: LabelSet;
  readonly opened: Series;
  readonly sent: Series;
  readonly received: Series;
  readonly closed: Map<ResponseFlag, Series>;
  readonly failed: Map<ResponseFlag, Series>;
  /** All of the above. */
  readonly all: Series[];
  openCount: number;
}

function labelValues(edge: Edge, flag: ResponseFlag): string[] {
  return trafficValues(edge.reporter, edge, flag, edge.securityPolicy);
}

export function createTrafficMetrics(store: SeriesStore): TrafficMetrics {
  const families = {
    opened: store.family(TRAFFIC_FAMILIES.opened),
    closed: store.family(TRAFFIC_FAMILIES.closed),
    failed: store.family(TRAFFIC_FAMILIES.failed),
    sent: store.family(TRAFFIC_FAMILIES.sent),
    received: store.family(TRAFFIC_FAMILIES.received),
  };
  // Edges are shared by many connections and let go by their maker; so are their series here.
  const known = new WeakMap<Edge, EdgeSeries>();

  const find = (edge: Edge): EdgeSeries => {
    const found = known.get(edge);
    if (found !== undefined && (found.openCount > 0 || found.all.every(({ isLive }) => isLive))) {
      return found;
    }
    const labels = store.labelSet(families.opened, labelValues(edge, '-'));
    const opened = store.series(families.opened, labels);
    const sent = store.series(families.sent, labels);
    const received = store.series(families.received, labels);
    const made: EdgeSeries = {
      labels,
      opened,
      sent,
      received,
      closed: new Map(),
      failed: new Map(),
      all: [opened, sent, received],
      openCount: 0,
    };
    known.set(edge, made);
    return made;
  };
  const withFlag = (
    edge: Edge,
    series: EdgeSeries,
    family: Family,
    byFlag: Map<ResponseFlag, Series>,
    flag: ResponseFlag,
  ): Series => {
    let found = byFlag.get(flag);
    if (found === undefined) {
      found = store.series(family, flag === '-' ? series.labels : labelValues(edge, flag));
      found.pins += series.openCount;
      byFlag.set(flag, found);
      series.all.push(found);
    }
    return found;
  };
  return {
    opened(edge) {
      const series = find(edge);
      series.openCount++;
      for (const one of series.all) one.pins++;
      store.add(series.opened, 1);
    },
    bytes(edge, sent, received) {
      const series = find(edge);
      const isSource = edge.reporter === 'source';
      store.add(series.received, isSource ? sent : received);
      store.add(series.sent, isSource ? received : sent);
    },
    ended(edge, flag, wasOpened) {
      const series = find(edge);
      if (flag !== '-') {
        store.add(withFlag(edge, series, families.failed, series.failed, flag), 1);
      }
      if (!wasOpened) return;
      store.add(withFlag(edge, series, families.closed, series.closed, flag), 1);
      series.openCount--;
      for (const one of series.all) one.pins--;
    },
  };
}
