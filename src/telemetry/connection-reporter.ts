/** Where a worker's connections report to: the access log, Istio's traffic metrics and our own counters. */

import type { ConnectionReporter } from '../core/connection-record.ts';
import type { AccessLog } from './access-log.ts';
import type { Series, SeriesStore } from './series-store.ts';
import { createTrafficMetrics } from './traffic-metrics.ts';
import {
  CONNECTION_ERRORS,
  CONNECTIONS_OPEN,
  HANDSHAKE_FAILURES,
  POLICY_DENIED,
  WAYPOINT_BYPASS,
} from './worker-metrics.ts';

export function createConnectionReporter(
  store: SeriesStore,
  accessLog: AccessLog,
): ConnectionReporter {
  const traffic = createTrafficMetrics(store);
  const denied = store.family(POLICY_DENIED);
  const errors = store.family(CONNECTION_ERRORS);
  const handshakes = store.family(HANDSHAKE_FAILURES);
  // There from the start, so that an alarm on it has something to look at.
  const bypass = store.series(store.family(WAYPOINT_BYPASS), []);
  const openFamily = store.family(CONNECTIONS_OPEN);
  // A connection's source end is what leaves the pod.
  const open: Readonly<Record<'source' | 'destination', Series>> = {
    source: store.series(openFamily, ['outbound']),
    destination: store.series(openFamily, ['inbound']),
  };
  return {
    opened(edge) {
      traffic.opened(edge);
      store.add(open[edge.reporter], 1);
    },
    handshakeFailed: (code) => store.add(store.series(handshakes, [code]), 1),
    progress: (edge, sent, received) => traffic.bytes(edge, sent, received),
    ended(record, toldSent, toldReceived) {
      const { edge, bytesSent, bytesReceived, policy, errorCode, flag } = record;
      if (bytesSent + bytesReceived > 0) {
        traffic.bytes(edge, bytesSent - toldSent, bytesReceived - toldReceived);
      }
      traffic.ended(edge, flag, record.opened);
      if (record.opened) store.add(open[edge.reporter], -1);
      if (flag === 'DENY' && policy !== '') store.add(store.series(denied, [policy]), 1);
      if (errorCode === 'MESH_WAYPOINT_BYPASSED') store.add(bypass, 1);
      if (errorCode !== undefined) {
        store.add(store.series(errors, [errorCode, record.direction]), 1);
      }
      accessLog.record(record);
    },
  };
}
