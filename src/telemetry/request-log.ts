/**
 * The access log of requests: exactly one line for each, when it has ended. Names as in the log of connections, and
 * for HTTP those of OpenTelemetry's conventions in short. Unknown fields are left out; queries are not written, since
 * they hold secrets. Served: info. Refused by a policy: warn. Failed on the way: error.
 *
 * - A request that an AUDIT policy matched, or that a dry-run policy would have refused, has an audit line besides.
 * - The line is put together as text, and what it says about the two ends, their addresses and the route only once for each
 *   of them; a line that would be too long goes the logger's slow way, which shortens it.
 */

import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { EdgePeer } from '../core/connection-record.ts';
import type { RequestRecord } from '../core/request-record.ts';
import type { RouteRef } from '../core/route.ts';
import { textMember } from './json-text.ts';
import type { RootLogger } from './logger.ts';
import { tracedSpan } from './tracing.ts';

export interface RequestLog {
  record(record: RequestRecord): void;
}

const TEXT_MAX = 1_024;
const SCOPE = { scope: 'access' };

function member(name: string, text: string): string {
  return textMember(name, text, TEXT_MAX);
}

function peerMembers(prefix: 'src' | 'dst', peer: EdgePeer): string {
  return (
    member(`${prefix}.workload`, peer.workload) +
    member(`${prefix}.namespace`, peer.namespace) +
    member(`${prefix}.identity`, peer.principal) +
    member(`${prefix}.cluster`, peer.cluster)
  );
}

/** Texts about objects and two things beside each, made once for as long as those stay the same. */
class Texts<T extends object> {
  readonly #known = new WeakMap<T, { one: unknown; other: unknown; text: string }>();

  find(of: T, one: unknown, other: unknown): string | undefined {
    const known = this.#known.get(of);
    if (known === undefined || known.one !== one || known.other !== other) return undefined;
    return known.text;
  }

  keep(of: T, one: unknown, other: unknown, text: string): string {
    this.#known.set(of, { one, other, text });
    return text;
  }
}

function withoutQuery(target: string): string {
  const mark = target.indexOf('?');
  return mark < 0 ? target : target.slice(0, mark);
}

/** Put together from whole numbers: writing out a fraction costs twice as much (100 ns, measured). */
function milliseconds(value: number): string {
  const tenths = Math.round(value * 10);
  const rest = tenths % 10;
  return rest === 0 ? `"${tenths / 10}ms"` : `"${Math.trunc(tenths / 10)}.${rest}ms"`;
}

/** What was asked, of whom, and where it was led. */
class Question {
  readonly #clients = new Texts<SocketAddress>();
  readonly #endpoints = new Texts<SocketAddress>();
  readonly #routes = new Texts<RouteRef>();

  members(record: RequestRecord): string {
    return (
      this.#client(record) +
      this.#endpoint(record) +
      member('method', record.method) +
      member('authority', record.authority) +
      member('path', withoutQuery(record.path)) +
      member('user_agent', record.userAgent) +
      member('request_id', record.requestId) +
      member('request_principal', record.requestPrincipal) +
      this.#route(record)
    );
  }

  /** Of its connection. */
  #client({ sourceAddress, source, destinationService, httpVersion }: RequestRecord): string {
    const known = this.#clients.find(sourceAddress, source, destinationService);
    if (known !== undefined) return known;
    const text =
      member('src.addr', formatSocketAddress(sourceAddress)) +
      peerMembers('src', source) +
      member('dst.service', destinationService) +
      member('http_version', httpVersion);
    return this.#clients.keep(sourceAddress, source, destinationService, text);
  }

  #endpoint({ upstreamAddress, destination, protocol }: RequestRecord): string {
    if (upstreamAddress === undefined) {
      return peerMembers('dst', destination) + member('protocol', protocol);
    }
    const known = this.#endpoints.find(upstreamAddress, destination, protocol);
    if (known !== undefined) return known;
    const text =
      member('dst.addr', formatSocketAddress(upstreamAddress)) +
      peerMembers('dst', destination) +
      member('protocol', protocol);
    return this.#endpoints.keep(upstreamAddress, destination, protocol, text);
  }

  #route({ route, routeRule, backend }: RequestRecord): string {
    if (route === undefined) return member('rule', routeRule) + member('backend', backend);
    const known = this.#routes.find(route, routeRule, backend);
    if (known !== undefined) return known;
    const { kind, namespace, name } = route;
    const text =
      member('route', `${kind}/${namespace}/${name}`) +
      member('rule', routeRule) +
      member('backend', backend);
    return this.#routes.keep(route, routeRule, backend, text);
  }
}

function answerMembers(record: RequestRecord): string {
  const { grpcStatus, upstreamMs } = record;
  const grpc = grpcStatus < 0 ? '' : `,"grpc_status":${grpcStatus}`;
  const upstream = upstreamMs === undefined ? '' : `,"upstream_time":${milliseconds(upstreamMs)}`;
  return (
    `,"status":${record.status}${grpc},"request_bytes":${record.requestBytes},"response_bytes":${record.responseBytes}` +
    `,"duration":${milliseconds(record.durationMs)}${upstream},"attempts":${record.attempts},"flag":"${record.flag}"` +
    member('policy', record.policy) +
    member('code', record.errorCode ?? '') +
    member('error', record.error) +
    member('trace_id', tracedSpan(record)?.traceId ?? '')
  );
}

function asFields(members: string): Record<string, unknown> {
  return JSON.parse(`{${members.slice(1)}}`) as Record<string, unknown>;
}

/** Lines go to `logger` with the field `scope`: `access` or `audit`. */
export function createRequestLog(logger: Pick<RootLogger, 'child' | 'lines'>): RequestLog {
  const lines = logger.lines(SCOPE);
  const access = logger.child(SCOPE);
  const audit = logger.child({ scope: 'audit' });
  const question = new Question();
  const log = (level: 'info' | 'warn' | 'error', message: string, members: string): void => {
    if (!lines.write(level, message, members)) access[level](message, asFields(members));
  };
  return {
    record(record) {
      const asked = question.members(record);
      if (record.audited.length > 0) {
        audit.info('request audited', { ...asFields(asked), policies: record.audited });
      }
      if (record.wouldDeny.length > 0) {
        audit.info('request would be denied', { ...asFields(asked), policies: record.wouldDeny });
      }
      const members = asked + answerMembers(record);
      if (record.flag === '-') log('info', 'request complete', members);
      else if (record.flag === 'DENY') log('warn', 'request denied', members);
      else log('error', 'request failed', members);
    },
  };
}
