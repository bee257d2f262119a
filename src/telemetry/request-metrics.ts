/**
 * Istio's HTTP and gRPC metrics as a waypoint reports them, with the names and labels that Kiali and Istio's boards
 * read, and our own by route. No label holds anything that a client chooses: no path, host, method or user text (T108).
 *
 * - Absent values are `unknown`, as Istio writes them; `grpc_response_status` is empty for HTTP.
 * - The labels of an edge and outcome are put together once; after that a request costs a lookup and additions.
 * - Limits: `REQUEST_SERIES_MAX` lines in all; what exceeds a family's is counted as `other`.
 */

import type { EdgePeer } from '../core/connection-record.ts';
import type { RequestEdge, RequestRecord } from '../core/request-record.ts';
import type { RouteRef } from '../core/route.ts';
import {
  linesOf,
  type Histogram,
  type HistogramOptions,
  type HistogramStore,
} from './histogram-store.ts';
import {
  DESTINATION_LABELS,
  orUnknown,
  peerValues,
  SOURCE_LABELS,
  trafficValues,
} from './peer-labels.ts';
import { createLabelSet } from './series-store.ts';
import { TRAFFIC_FAMILIES } from './traffic-metrics.ts';
import type { FamilyOptions, LabelSet, Series, SeriesStore } from './series-store.ts';

export const REQUEST_LABELS: readonly string[] = [
  'reporter',
  ...SOURCE_LABELS,
  ...DESTINATION_LABELS,
  'destination_service',
  'destination_service_name',
  'destination_service_namespace',
  'request_protocol',
  'response_code',
  'grpc_response_status',
  'response_flags',
  'connection_security_policy',
];

/** As Istio: messages have no outcome. */
const MESSAGE_LABELS: readonly string[] = REQUEST_LABELS.filter(
  (name) => !['response_code', 'grpc_response_status', 'response_flags'].includes(name),
);

const counter = (name: string, help: string, seriesMax: number): FamilyOptions => ({
  name,
  help,
  kind: 'counter',
  labels: REQUEST_LABELS,
  seriesMax,
  expires: true,
});
const REQUESTS = counter('istio_requests_total', 'Requests', 1_130);
const messages = (name: string, help: string): FamilyOptions => ({
  ...counter(name, help, 100),
  labels: MESSAGE_LABELS,
});
const REQUEST_MESSAGES = messages('istio_request_messages_total', 'gRPC messages from clients');
const RESPONSE_MESSAGES = messages('istio_response_messages_total', 'gRPC messages to clients');

const histogram = (
  name: string,
  help: string,
  bounds: readonly number[],
  setsMax: number,
): HistogramOptions => ({ name, help, labels: REQUEST_LABELS, bounds, setsMax });
const DURATION_BOUNDS_MS = [
  0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000,
];
const SIZE_BOUNDS = [256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576, 16_777_216];
const DURATION = histogram(
  'istio_request_duration_milliseconds',
  'Time from the first byte of a request to the last byte of its answer',
  DURATION_BOUNDS_MS,
  150,
);
const REQUEST_BYTES = histogram('istio_request_bytes', 'Bytes of request bodies', SIZE_BOUNDS, 100);
const RESPONSE_BYTES = histogram('istio_response_bytes', 'Bytes of answers', SIZE_BOUNDS, 100);

const ROUTE_REQUESTS: FamilyOptions = {
  name: 'nodemesh_route_requests_total',
  help: 'Requests by the rule that served them, its backend, and the class of the answer',
  kind: 'counter',
  labels: ['route_kind', 'route_namespace', 'route', 'rule', 'backend', 'code_class', 'flag'],
  seriesMax: 700,
  expires: true,
};
const ROUTE_DURATION: HistogramOptions = {
  name: 'nodemesh_route_duration_seconds',
  help: 'Time from the first byte of a request to the last byte of its answer, by rule',
  labels: ['route_kind', 'route_namespace', 'route', 'rule'],
  bounds: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  setsMax: 60,
};
const POLICY_DENIED: FamilyOptions = {
  name: 'nodemesh_request_denied_total',
  help: 'Requests refused by a policy',
  kind: 'counter',
  labels: ['policy'],
  seriesMax: 200,
  expires: true,
};
const POLICY_OBSERVED: FamilyOptions = {
  name: 'nodemesh_request_policy_observed_total',
  help: 'Requests that an AUDIT policy matched, or that a dry-run policy would have refused',
  kind: 'counter',
  labels: ['policy', 'effect'],
  seriesMax: 200,
  expires: true,
};

/** Whose series are remembered; a hostile application may answer with ever other statuses. */
const OUTCOMES_MAX = 4_096;

/** The node proxy's, with fewer series: connections that a waypoint carries as bytes are few. */
const connections = (options: FamilyOptions): FamilyOptions => ({ ...options, seriesMax: 100 });
const CONNECTIONS = {
  opened: connections(TRAFFIC_FAMILIES.opened),
  closed: connections(TRAFFIC_FAMILIES.closed),
  failed: connections(TRAFFIC_FAMILIES.failed),
  sent: connections(TRAFFIC_FAMILIES.sent),
  received: connections(TRAFFIC_FAMILIES.received),
};

const FAMILIES = [
  ...Object.values(CONNECTIONS),
  REQUESTS,
  REQUEST_MESSAGES,
  RESPONSE_MESSAGES,
  ROUTE_REQUESTS,
  POLICY_DENIED,
  POLICY_OBSERVED,
];
const HISTOGRAMS = [DURATION, REQUEST_BYTES, RESPONSE_BYTES, ROUTE_DURATION];

/** What all of these can show at most. */
export const REQUEST_SERIES_MAX: number =
  FAMILIES.reduce((sum, { seriesMax = 0 }) => sum + seriesMax, 0) +
  HISTOGRAMS.reduce((sum, options) => sum + options.setsMax * linesOf(options), 0);

export interface RequestMetrics {
  count(record: RequestRecord): void;
  /** Messages of a gRPC call that have passed since it was last counted. */
  countMessages(edge: RequestEdge, requestCount: number, responseCount: number): void;
}

/** The series of one edge and outcome, found once. */
interface OutcomeSeries {
  readonly requests: Series;
  readonly duration: Histogram;
  readonly requestBytes: Histogram;
  readonly responseBytes: Histogram;
}

interface LastOutcome extends Pick<
  RequestRecord,
  'source' | 'destinationService' | 'protocol' | 'status' | 'grpcStatus' | 'flag'
> {
  readonly series: OutcomeSeries;
}

function isSameOutcome(last: LastOutcome, record: RequestRecord): boolean {
  return (
    last.status === record.status &&
    last.source === record.source &&
    last.destinationService === record.destinationService &&
    last.flag === record.flag &&
    last.grpcStatus === record.grpcStatus &&
    last.protocol === record.protocol
  );
}

/** gRPC messages of one edge. */
interface MessageSeries {
  readonly requests: Series;
  readonly responses: Series;
}

/** The same for one route. */
interface RouteSeries {
  readonly requests: Series;
  readonly duration: Histogram;
}

interface RouteOutcomes {
  readonly byKey: Map<string, RouteSeries>;
  last: LastRouting | undefined;
}

interface LastRouting extends Pick<RequestRecord, 'routeRule' | 'backend' | 'status' | 'flag'> {
  readonly series: RouteSeries;
}

function isSameRouting(last: LastRouting, record: RequestRecord): boolean {
  return (
    last.status === record.status &&
    last.routeRule === record.routeRule &&
    last.backend === record.backend &&
    last.flag === record.flag
  );
}

function securityOf({ source }: RequestEdge): string {
  return source.principal === '' ? 'unknown' : 'mutual_tls';
}

function edgeValues(edge: RequestEdge): string[] {
  return [
    'waypoint',
    ...peerValues(edge.source),
    ...peerValues(edge.destination),
    orUnknown(edge.destinationService),
    orUnknown(edge.destinationServiceName),
    orUnknown(edge.destinationServiceNamespace),
  ];
}

function labelValues(record: RequestRecord, code: string, grpcStatus: string): string[] {
  return [
    ...edgeValues(record),
    record.protocol,
    code,
    grpcStatus,
    record.flag,
    securityOf(record),
  ];
}

export function createRequestMetrics(
  store: SeriesStore,
  histograms: HistogramStore,
): RequestMetrics {
  const requests = store.family(REQUESTS);
  const requestMessages = store.family(REQUEST_MESSAGES);
  const responseMessages = store.family(RESPONSE_MESSAGES);
  const duration = histograms.family(DURATION);
  const requestBytes = histograms.family(REQUEST_BYTES);
  const responseBytes = histograms.family(RESPONSE_BYTES);
  const routeRequests = store.family(ROUTE_REQUESTS);
  const routeDuration = histograms.family(ROUTE_DURATION);
  const opened = store.family(CONNECTIONS.opened);
  const closed = store.family(CONNECTIONS.closed);
  const failed = store.family(CONNECTIONS.failed);
  const tcpSent = store.family(CONNECTIONS.sent);
  const tcpReceived = store.family(CONNECTIONS.received);
  const denied = store.family(POLICY_DENIED);
  const observed = store.family(POLICY_OBSERVED);
  // Whoever talks to whom with which outcome, remembered: the labels are long, and mostly the same again.
  const known = new Map<string, OutcomeSeries>();
  /** The last outcome of each destination as a connection knows it: nearly always the next one's, too. */
  const last = new WeakMap<EdgePeer, LastOutcome>();

  const edgeKey = ({ source, destination, destinationService }: RequestEdge): string =>
    `${source.principal} ${source.workload} ${destination.principal} ${destination.workload} ${destinationService}`;
  const find = (record: RequestRecord): OutcomeSeries => {
    const before = last.get(record.destination);
    if (before?.series.requests.isLive === true && isSameOutcome(before, record)) {
      return before.series;
    }
    const series = findByLabels(record);
    const { source, destinationService, protocol, status, grpcStatus, flag } = record;
    last.set(record.destination, {
      source,
      destinationService,
      protocol,
      status,
      grpcStatus,
      flag,
      series,
    });
    return series;
  };
  const findByLabels = (record: RequestRecord): OutcomeSeries => {
    const code = String(record.status);
    const grpcStatus = readGrpcStatus(record);
    const key = `${edgeKey(record)} ${record.protocol} ${code} ${grpcStatus} ${record.flag}`;
    const found = known.get(key);
    if (found?.requests.isLive === true) return found;
    const labels: LabelSet = store.labelSet(requests, labelValues(record, code, grpcStatus));
    const made: OutcomeSeries = {
      requests: store.series(requests, labels),
      duration: histograms.histogram(duration, labels),
      requestBytes: histograms.histogram(requestBytes, labels),
      responseBytes: histograms.histogram(responseBytes, labels),
    };
    if (known.size >= OUTCOMES_MAX) known.clear();
    known.set(key, made);
    return made;
  };
  const calls = new Map<string, MessageSeries>();
  const findCalls = (edge: RequestEdge): MessageSeries => {
    const key = edgeKey(edge);
    const found = calls.get(key);
    if (found?.requests.isLive === true && found.responses.isLive) return found;
    const values = [...edgeValues(edge), 'grpc', securityOf(edge)];
    const labels = store.labelSet(requestMessages, values);
    const made: MessageSeries = {
      requests: store.series(requestMessages, labels),
      responses: store.series(responseMessages, labels),
    };
    if (calls.size >= OUTCOMES_MAX) calls.clear();
    calls.set(key, made);
    return made;
  };
  const countConnection = (record: RequestRecord): void => {
    const values = trafficValues('waypoint', record, record.flag, securityOf(record));
    const labels = store.labelSet(opened, values);
    store.add(store.series(opened, labels), 1);
    store.add(store.series(closed, labels), 1);
    store.add(store.series(tcpReceived, labels), record.requestBytes);
    store.add(store.series(tcpSent, labels), record.responseBytes);
    if (record.flag !== '-') store.add(store.series(failed, labels), 1);
    countPolicies(record);
  };
  const countPolicies = (record: RequestRecord): void => {
    if (record.flag === 'DENY' && record.policy !== '') {
      store.add(store.series(denied, [record.policy]), 1);
    }
    for (const policy of record.audited) {
      store.add(store.series(observed, [policy, 'audited']), 1);
    }
    for (const policy of record.wouldDeny) {
      store.add(store.series(observed, [policy, 'would_deny']), 1);
    }
  };
  // By the route's own object, which lives as long as its configuration does.
  const routes = new WeakMap<RouteRef, RouteOutcomes>();
  const routeSeries = (record: RequestRecord, route: RouteRef): RouteSeries => {
    let outcomes = routes.get(route);
    if (outcomes === undefined) {
      outcomes = { byKey: new Map(), last: undefined };
      routes.set(route, outcomes);
    }
    const { last: before } = outcomes;
    if (before?.series.requests.isLive === true && isSameRouting(before, record)) {
      return before.series;
    }
    const series = routeSeriesByKey(record, route, outcomes.byKey);
    const { routeRule, backend, status, flag } = record;
    outcomes.last = { routeRule, backend, status, flag, series };
    return series;
  };
  const routeSeriesByKey = (
    record: RequestRecord,
    route: RouteRef,
    outcomes: Map<string, RouteSeries>,
  ): RouteSeries => {
    const codeClass = record.status === 0 ? 'none' : `${Math.trunc(record.status / 100)}xx`;
    const key = `${record.routeRule} ${record.backend} ${codeClass} ${record.flag}`;
    const found = outcomes.get(key);
    if (found?.requests.isLive === true) return found;
    const rule = [route.kind, route.namespace, route.name, record.routeRule];
    const labels = [...rule, orUnknown(record.backend), codeClass, record.flag];
    const made: RouteSeries = {
      requests: store.series(routeRequests, labels),
      duration: histograms.histogram(routeDuration, createLabelSet(ROUTE_DURATION.labels, rule)),
    };
    if (outcomes.size >= OUTCOMES_MAX) outcomes.clear();
    outcomes.set(key, made);
    return made;
  };
  const countRoute = (record: RequestRecord): void => {
    if (record.route === undefined) return;
    const series = routeSeries(record, record.route);
    store.add(series.requests, 1);
    histograms.observe(series.duration, record.durationMs / 1_000);
  };

  return {
    countMessages(edge, requestCount, responseCount) {
      const series = findCalls(edge);
      store.add(series.requests, requestCount);
      store.add(series.responses, responseCount);
    },
    count(record) {
      if (record.protocol === 'tcp') {
        countConnection(record);
        return;
      }
      const series = find(record);
      store.add(series.requests, 1);
      histograms.observe(series.duration, record.durationMs);
      histograms.observe(series.requestBytes, record.requestBytes);
      histograms.observe(series.responseBytes, record.responseBytes);
      countRoute(record);
      countPolicies(record);
    },
  };
}

/** Two digits at most; an application's nonsense is `other`. */
function readGrpcStatus({ protocol, grpcStatus }: RequestRecord): string {
  if (protocol !== 'grpc' || grpcStatus < 0) return '';
  return grpcStatus < 100 ? String(grpcStatus) : 'other';
}
