/**
 * One request as policy, routing and the upstream see it: normalised once, never changed. What the client claims
 * about itself or other hops is taken out here (T89); what we say about the client is put in by `upstreamHeaders`.
 */

import { fail, ok, type Result } from '../base/result.ts';
import { MeshError } from '../base/errors.ts';
import type { Random } from '../base/random.ts';
import type { IpAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { HeaderField, HeaderList } from '../http/h2/contract.ts';
import {
  normaliseTarget,
  STRICT_TARGETS,
  type HostMemory,
  type RequestTarget,
} from '../http/request-target.ts';
import { isGrpcType } from './local-answer.ts';

export interface HttpRequest {
  readonly method: string;
  readonly target: RequestTarget;
  /** Regular ones; lower-case names; nothing of the connection, no claims of identity. */
  readonly headers: HeaderList;
  /** From the tunnel's certificate. */
  readonly client: SpiffeId;
  readonly clientNamespace: string;
  readonly clientIp: IpAddress;
  readonly isGrpc: boolean;
}

export interface RequestClient {
  readonly identity: SpiffeId;
  readonly namespace: string;
  readonly ip: IpAddress;
  /** It may say for whom it forwards (`x-forwarded-for`, `forwarded`, …): a configured hop, e.g. an ingress. */
  readonly trustedHop: boolean;
  readonly hosts: HostMemory;
}

/** The application learns from it which workload asks. Ours alone: nobody else's passes. */
export const CLIENT_HEADER = 'x-nodemesh-client';
const OWN_PREFIX = 'x-nodemesh-';

/** What hops say about those before them. */
const HOP_CLAIMS: ReadonlySet<string> = new Set([
  'forwarded',
  'x-forwarded-for',
  'x-forwarded-host',
  'x-forwarded-port',
  'x-forwarded-proto',
  'x-forwarded-prefix',
  'x-real-ip',
  'x-client-ip',
  'x-original-url',
  'x-rewrite-url',
  'true-client-ip',
]);
/** Claims of identity that only a proxy of ours, or of a mesh before us, may make; nobody's are believed. */
const IDENTITY_CLAIMS: ReadonlySet<string> = new Set([
  'x-forwarded-client-cert',
  'x-envoy-peer-metadata',
  'x-envoy-peer-metadata-id',
  'l5d-client-id',
]);

export interface ReadRequest {
  readonly request: HttpRequest;
  readonly requestId: string;
  readonly userAgent: string;
}

/** `headers`: a request's, pseudo headers first. An error's `details.status` is the answer. */
export function readRequest(
  headers: HeaderList,
  version: 1 | 2,
  client: RequestClient,
): Result<ReadRequest> {
  let method = '';
  let scheme = '';
  let path = '';
  let authority: string | undefined;
  let cookieAt = -1;
  let requestId = '';
  let userAgent = '';
  let isGrpc = false;
  let underscore = '';
  const hosts: string[] = [];
  const kept: HeaderField[] = [];
  for (const field of headers) {
    const [name, value] = field;
    switch (name) {
      case ':method':
        method = value;
        continue;
      case ':scheme':
        scheme = value;
        continue;
      case ':path':
        path = value;
        continue;
      case ':authority':
        authority = value;
        continue;
      case 'host':
        hosts.push(value);
        continue;
      case 'cookie':
        // HTTP/2 may send one for each; whoever reads them knows them as one (RFC 9113 section 8.2.3).
        if (cookieAt >= 0) {
          kept[cookieAt] = [name, `${kept[cookieAt]?.[1]}; ${value}`];
          continue;
        }
        cookieAt = kept.length;
        break;
      case 'x-request-id':
        requestId = value;
        break;
      case 'user-agent':
        userAgent = value;
        break;
      case 'content-type':
        isGrpc = version === 2 && isGrpcType(value);
        break;
      default:
        if (isClaim(name, client.trustedHop)) continue;
        if (name.includes('_')) underscore = name;
        break;
    }
    kept.push(field);
  }
  // Many applications take `x_y` and `x-y` for one name (T90); gRPC's metadata never meets such a one.
  if (underscore !== '' && !isGrpc) return invalid(`field name "${underscore.slice(0, 40)}"`);
  const raw = { method, scheme, target: path, authority, hosts };
  const target = normaliseTarget(raw, STRICT_TARGETS, client.hosts);
  if (!target.ok) return target;
  return ok({
    request: {
      method,
      target: target.value,
      headers: kept,
      client: client.identity,
      clientNamespace: client.namespace,
      clientIp: client.ip,
      isGrpc,
    },
    requestId,
    userAgent,
  });
}

function invalid(what: string): Result<never> {
  return fail(new MeshError('MESH_HTTP_TARGET_INVALID', `Cannot serve the request: ${what}`));
}

function isClaim(name: string, trustedHop: boolean): boolean {
  if (name.charCodeAt(0) === 0x78 && name.startsWith(OWN_PREFIX)) return true;
  return IDENTITY_CLAIMS.has(name) || (!trustedHop && HOP_CLAIMS.has(name));
}

/** The request as it goes upstream. `routed`: its headers and target after filters. */
export function upstreamHeaders(
  request: HttpRequest,
  routed: { readonly authority: string; readonly path: string; readonly headers: HeaderList },
  requestId: string,
  trace: HeaderList | undefined,
): HeaderList {
  const list: HeaderField[] = [
    [':method', request.method],
    [':scheme', request.target.scheme],
    [':authority', routed.authority],
    [':path', routed.path],
  ];
  let forwardedFor = '';
  let hasId = false;
  for (const field of routed.headers) {
    const [name, value] = field;
    if (name === 'x-forwarded-for') {
      forwardedFor += `${value}, `;
      continue;
    }
    if (name === 'x-request-id') hasId = true;
    if (trace !== undefined && trace.some(([own]) => own === name)) continue;
    list.push(field);
  }
  if (trace !== undefined) list.push(...trace);
  list.push(['x-forwarded-for', forwardedFor + request.clientIp], [CLIENT_HEADER, request.client]);
  if (!hasId) list.push(['x-request-id', requestId]);
  return list;
}

const ID_BYTES = 16;
/** Drawn and written down together: each is a call into native code. */
const IDS_AT_ONCE = 32;

/** Ids for requests that came without one: random UUIDs (RFC 9562 version 4). One per process. */
export class RequestIds {
  readonly #random: Random;
  #hex = '';
  #at = 0;

  constructor(random: Random) {
    this.#random = random;
  }

  next(): string {
    if (this.#at === this.#hex.length) this.#draw();
    const at = this.#at;
    const hex = this.#hex;
    this.#at += ID_BYTES * 2;
    return `${hex.slice(at, at + 8)}-${hex.slice(at + 8, at + 12)}-${hex.slice(at + 12, at + 16)}-${hex.slice(at + 16, at + 20)}-${hex.slice(at + 20, at + 32)}`;
  }

  #draw(): void {
    const bytes = this.#random.bytes(ID_BYTES * IDS_AT_ONCE);
    for (let at = 0; at < bytes.length; at += ID_BYTES) {
      bytes[at + 6] = ((bytes[at + 6] ?? 0) & 0x0f) | 0x40;
      bytes[at + 8] = ((bytes[at + 8] ?? 0) & 0x3f) | 0x80;
    }
    this.#hex = bytes.toString('hex');
    this.#at = 0;
  }
}
