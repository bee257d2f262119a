/** The errors a session tells its streams and its owner: code, retryability and words in one place. */

import { MeshError } from '../../base/errors.ts';
import { H2_ERROR } from './contract.ts';
import { errorCodeName } from './frames.ts';

/** A rule of the connection was broken by the peer. */
export function protocolError(message: string): MeshError {
  return new MeshError('MESH_HTTP2_PROTOCOL', message, { flag: 'RESET' });
}

export function noSlots(): MeshError {
  const message = 'Cannot open a stream: the session takes no more of them now';
  return new MeshError('MESH_HTTP2_GOAWAY', message, { retryable: true });
}

/** The peer's GOAWAY says that it has not acted on this stream (RFC 9113 8.7): it may be sent again elsewhere. */
export function notProcessed(streamId: number, code: number): MeshError {
  const message = `Stream ${streamId} was not looked at: the peer ended the session with "${errorCodeName(code)}"`;
  return new MeshError('MESH_HTTP2_GOAWAY', message, {
    retryable: true,
    flag: 'RESET',
    details: { notProcessed: true },
  });
}

export function resetByPeer(streamId: number, code: number): MeshError {
  const message = `Stream ${streamId} was reset by the peer with "${errorCodeName(code)}"`;
  return new MeshError('MESH_HTTP2_STREAM_RESET', message, {
    flag: 'RESET',
    retryable: code === H2_ERROR.REFUSED_STREAM,
    details: { code, notProcessed: code === H2_ERROR.REFUSED_STREAM },
  });
}

export function resetHere(streamId: number, reason: string, cause?: unknown): MeshError {
  const message = `Stream ${streamId} was reset here: ${reason}`;
  return new MeshError('MESH_HTTP2_STREAM_RESET', message, { flag: 'RESET', cause });
}

/** The peer broke a rule of one stream. */
export function streamProtocolError(streamId: number, reason: string): MeshError {
  return protocolError(`Stream ${streamId} was reset here: ${reason}`);
}

export function streamOverLimit(streamId: number): MeshError {
  const message = `Stream ${streamId} was reset here: its session holds too much unsent data`;
  return new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'LIMIT' });
}

export function abusive(violation: string | undefined): MeshError {
  const message = `The peer's session was ended: ${violation ?? 'a limit was exceeded'}`;
  return new MeshError('MESH_HTTP2_ABUSE', message, { flag: 'LIMIT' });
}

export function peerSilent(): MeshError {
  const message = 'The peer is silent: no answer to a PING for 20 s';
  return new MeshError('MESH_DEADLINE_EXCEEDED', message, { flag: 'RESET', retryable: true });
}

export function noPreface(): MeshError {
  const message = 'The peer did not start HTTP/2 in time';
  return new MeshError('MESH_DEADLINE_EXCEEDED', message, { flag: 'H2_HANDSHAKE_FAILURE' });
}

export function connectionCut(): MeshError {
  const message = 'The peer closed the HTTP/2 connection';
  return new MeshError('MESH_CONNECTION_CLOSED', message, { flag: 'RESET', retryable: true });
}

export function sessionEnded(): MeshError {
  const message = 'The HTTP/2 session was ended';
  return new MeshError('MESH_CONNECTION_CLOSED', message, { flag: 'RESET' });
}

export function peerLingers(): MeshError {
  const message = 'The peer ended the session but did not close the connection';
  return new MeshError('MESH_HTTP2_GOAWAY', message, { flag: 'RESET', retryable: true });
}
