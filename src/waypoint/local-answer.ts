/**
 * Answers that the waypoint gives itself: redirects, refusals, errors. A gRPC call gets its status as gRPC says,
 * in one header block (trailers-only) with HTTP status 200.
 */

import type { HeaderField, HeaderList } from '../http/h2/contract.ts';
import type { HttpStream } from '../http/http-stream.ts';
import { headerValue } from './route-candidate.ts';

export interface LocalAnswer {
  /** HTTP status; 200 for a gRPC call, whose `grpc-status` is among the headers. */
  readonly status: number;
  /** Without framing fields. */
  readonly headers: HeaderList;
  readonly body: string;
  /** Empty unless the call was gRPC. */
  readonly grpcStatus: string;
}

/** Not gRPC-Web, which is ordinary HTTP. */
const GRPC_TYPE = /^application\/grpc(?:$|[;+])/;
const GRPC_STATUS = /^[0-9]{1,3}$/;

export function isGrpcType(contentType: string): boolean {
  return GRPC_TYPE.test(contentType);
}

export function isGrpcContent(headers: HeaderList): boolean {
  return isGrpcType(headerValue(headers, 'content-type') ?? '');
}

/** The `grpc-status` of a head or of trailers; -1: none that can be one. */
export function grpcStatusIn(headers: HeaderList): number {
  const status = headerValue(headers, 'grpc-status');
  return status !== undefined && GRPC_STATUS.test(status) ? Number(status) : -1;
}

/** `message` goes to the caller: nothing in it may be a secret. `grpc`: default, what gRPC makes of `status`. */
export function createLocalAnswer(
  status: number,
  message: string,
  isGrpc: boolean,
  headers: HeaderList = [],
  grpc: number = grpcStatusOf(status),
): LocalAnswer {
  if (!isGrpc) {
    const type: HeaderField[] = message === '' ? [] : [['content-type', 'text/plain']];
    return { status, headers: [...type, ...headers], body: message, grpcStatus: '' };
  }
  const grpcStatus = String(grpc);
  const fields: HeaderField[] = [
    ['content-type', 'application/grpc'],
    ['grpc-status', grpcStatus],
    ['grpc-message', encodeMessage(message)],
    ...headers,
  ];
  return { status: 200, headers: fields, body: '', grpcStatus };
}

/** All of it, and the end. Returns the bytes of its body: HEAD gets none (RFC 9110 section 9.3.2). `asked`: the request. */
export function sendLocalAnswer(
  client: HttpStream,
  answer: LocalAnswer,
  asked: HeaderList,
): number {
  const status: HeaderField = [':status', String(answer.status)];
  if (answer.body === '') {
    client.sendHeaders([status, ...answer.headers], true);
    return 0;
  }
  const body = Buffer.from(`${answer.body}\n`);
  const length: HeaderField = ['content-length', String(body.length)];
  const isHead = headerValue(asked, ':method') === 'HEAD';
  client.sendHeaders([status, ...answer.headers, length], isHead);
  if (isHead) return 0;
  client.write(body);
  client.end();
  return body.length;
}

/** gRPC over HTTP/2, "HTTP to gRPC status code mapping"; a timeout of ours is DEADLINE_EXCEEDED. */
function grpcStatusOf(status: number): number {
  switch (status) {
    case 400:
      return 13;
    case 401:
      return 16;
    case 403:
      return 7;
    case 404:
      return 12;
    case 429:
    case 502:
    case 503:
      return 14;
    case 504:
      return 4;
    default:
      return status >= 500 ? 13 : 2;
  }
}

/** Percent-encodes all but printable ASCII and the percent sign. */
function encodeMessage(message: string): string {
  return Buffer.from(message, 'utf8').reduce((text, byte) => {
    const plain = byte >= 0x20 && byte <= 0x7e && byte !== 0x25;
    const hex = byte.toString(16).toUpperCase().padStart(2, '0');
    return text + (plain ? String.fromCharCode(byte) : `%${hex}`);
  }, '');
}
