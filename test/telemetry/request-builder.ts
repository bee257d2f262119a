/** Records of requests for the telemetry tests: valid defaults, any part replaced. */

import { unwrap } from '../../src/base/result.ts';
import { parseSocketAddress } from '../../src/core/address.ts';
import type { RequestRecord } from '../../src/core/request-record.ts';
import type { TracedSpan, TracedTry, TryOutcome } from '../../src/telemetry/tracing.ts';
import { buildEdge } from './connection-builder.ts';

export function buildRequestRecord(parts: Partial<RequestRecord> = {}): RequestRecord {
  const { reporter: _, securityPolicy: __, ...edge } = buildEdge();
  return {
    ...edge,
    protocol: 'http',
    httpVersion: 'HTTP/1.1',
    method: 'GET',
    authority: 'cart',
    path: '/items/1',
    userAgent: 'curl/8',
    requestId: 'r-1',
    status: 200,
    grpcStatus: -1,
    requestBytes: 10,
    responseBytes: 2_000,
    startWallMs: 1_000,
    durationMs: 12.44,
    upstreamMs: 9.06,
    attempts: 1,
    route: { kind: 'HTTPRoute', namespace: 'shop', name: 'cart', createdMs: 0 },
    routeRule: '0',
    backend: 'shop/cart.shop.svc.cluster.local:80',
    sourceAddress: unwrap(parseSocketAddress('10.0.1.2:40000')),
    upstreamAddress: unwrap(parseSocketAddress('10.0.2.3:80')),
    requestPrincipal: '',
    flag: '-',
    policy: '',
    audited: [],
    wouldDeny: [],
    errorCode: undefined,
    error: '',
    trace: undefined,
    ...parts,
  };
}

export function buildTrace(parts: Partial<TracedSpan> = {}): TracedSpan {
  return {
    traceId: 'a'.repeat(32),
    serverSpanId: 'b'.repeat(16),
    parentSpanId: '',
    sampled: true,
    headers: [],
    tries: [buildTry('c')],
    beginTry: () => ({ headers: [], ended: () => {} }),
    ...parts,
  };
}

/** `digit`: what its id is made of. */
export function buildTry(digit: string, outcome: Partial<TryOutcome> = {}): TracedTry {
  return {
    spanId: digit.repeat(16),
    address: unwrap(parseSocketAddress('10.0.2.3:80')),
    principal: 'spiffe://cluster.local/ns/shop/sa/cart',
    startWallMs: 1_001,
    outcome: { durationMs: 10, status: 200, grpcStatus: -1, error: undefined, ...outcome },
  };
}
