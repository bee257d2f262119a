/**
 * Requests as spans in OTLP's JSON form (opentelemetry-proto 1.x, `ExportTraceServiceRequest`), with the attribute
 * names of OpenTelemetry's HTTP conventions. The query of a target and the headers of a request are never written.
 */

import type { RequestRecord } from '../core/request-record.ts';
import { tracedSpan, type TracedSpan, type TracedTry, type TryOutcome } from './tracing.ts';

interface Attribute {
  readonly key: string;
  readonly value: { readonly stringValue: string } | { readonly intValue: string };
}

export type ResourceAttributes = Readonly<Record<string, string>>;

const KIND = { server: 2, client: 3 } as const;
const STATUS_ERROR = 2;
const KNOWN_METHODS: ReadonlySet<string> = new Set([
  'CONNECT',
  'DELETE',
  'GET',
  'HEAD',
  'OPTIONS',
  'PATCH',
  'POST',
  'PUT',
  'TRACE',
]);
const TEXT_MAX = 256;

/** The body of a POST to `/v1/traces`. Records without a trace are left out. */
export function formatSpans(
  records: readonly RequestRecord[],
  resource: ResourceAttributes,
  version: string,
): string {
  const spans = records.flatMap((record) => {
    const span = tracedSpan(record);
    return span === undefined ? [] : spansOf(record, span);
  });
  return JSON.stringify({
    resourceSpans: [
      {
        resource: { attributes: textAttributes(resource) },
        scopeSpans: [{ scope: { name: 'nodemesh', version }, spans }],
      },
    ],
  });
}

function spansOf(record: RequestRecord, span: TracedSpan): unknown[] {
  const method = KNOWN_METHODS.has(record.method) ? record.method : '_OTHER';
  const { route } = record;
  const where = route === undefined ? '' : ` ${route.namespace}/${route.name}`;
  const name = `${method}${where}`;
  const shared = textAttributes({
    'http.request.method': method,
    'network.protocol.version': record.httpVersion.replace('HTTP/', ''),
    'user_agent.original': record.userAgent,
    'nodemesh.route': route === undefined ? '' : `${route.kind}${where.replace(' ', '/')}`,
    'nodemesh.rule': record.routeRule,
  });
  const server = {
    traceId: span.traceId,
    startTimeUnixNano: nanoseconds(record.startWallMs),
    endTimeUnixNano: nanoseconds(record.startWallMs + record.durationMs),
    ...(span.parentSpanId === '' ? {} : { parentSpanId: span.parentSpanId }),
    spanId: span.serverSpanId,
    name,
    kind: KIND.server,
    attributes: [
      ...shared,
      ...textAttributes({
        'nodemesh.flag': record.flag === '-' ? '' : record.flag,
        'error.type': record.errorCode ?? '',
        'url.path': record.path,
        'server.address': record.authority,
        'client.address': record.sourceAddress.ip,
        'nodemesh.source.principal': record.source.principal,
        'nodemesh.request.principal': record.requestPrincipal,
        'nodemesh.request.id': record.requestId,
        'nodemesh.policy': record.policy,
      }),
      ...status(record, record.status, record.grpcStatus),
    ],
    // A refusal is not the server's error (HTTP conventions: only 5xx is).
    status: record.status === 0 || record.status >= 500 ? { code: STATUS_ERROR } : {},
  };
  const tries = span.tries.map((one, index) => ({
    traceId: span.traceId,
    parentSpanId: span.serverSpanId,
    name,
    kind: KIND.client,
    ...clientPart(record, one),
    attributes: [...shared, ...clientAttributes(record, one, index)],
  }));
  return [server, ...tries];
}

/** A client sees an error in every answer of 400 and more. */
function isFailed({ status: code, error }: TryOutcome): boolean {
  return error !== undefined || code === 0 || code >= 400;
}

function clientPart(record: RequestRecord, one: TracedTry): Record<string, unknown> {
  const { outcome } = one;
  const endWallMs =
    outcome === undefined
      ? record.startWallMs + record.durationMs
      : one.startWallMs + outcome.durationMs;
  return {
    spanId: one.spanId,
    startTimeUnixNano: nanoseconds(one.startWallMs),
    endTimeUnixNano: nanoseconds(Math.max(one.startWallMs, endWallMs)),
    status: outcome === undefined || isFailed(outcome) ? { code: STATUS_ERROR } : {},
  };
}

function clientAttributes(record: RequestRecord, one: TracedTry, index: number): Attribute[] {
  const { outcome } = one;
  const code = outcome?.status ?? 0;
  return [
    ...textAttributes({
      'server.address': one.address.ip,
      'nodemesh.destination.principal': one.principal,
      'nodemesh.backend': record.backend,
      'error.type': outcome?.error ?? (code >= 400 ? String(code) : ''),
    }),
    number('server.port', one.address.port),
    // The first one is no resending, and has no number.
    ...(index > 0 ? [number('http.request.resend_count', index)] : []),
    ...status(record, code, outcome?.grpcStatus ?? -1),
  ];
}

function status({ protocol }: RequestRecord, code: number, grpcStatus: number): Attribute[] {
  const found: Attribute[] = [];
  if (code > 0) found.push(number('http.response.status_code', code));
  if (protocol === 'grpc') {
    found.push(...textAttributes({ 'rpc.system.name': 'grpc' }));
    if (grpcStatus >= 0) found.push(number('rpc.grpc.status_code', grpcStatus));
  }
  return found;
}

function textAttributes(values: ResourceAttributes): Attribute[] {
  return Object.entries(values).flatMap(([key, text]) => {
    return text === '' ? [] : [{ key, value: { stringValue: text.slice(0, TEXT_MAX) } }];
  });
}

/** 64-bit integers are text in protobuf's JSON. */
function number(key: string, value: number): Attribute {
  return { key, value: { intValue: String(Math.trunc(value)) } };
}

/** A double holds a wall clock to the microsecond, no better. */
function nanoseconds(ms: number): string {
  return String(BigInt(Math.round(ms * 1_000)) * 1_000n);
}
