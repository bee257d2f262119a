/** What a request of the waypoint can end with by the waypoint's own decision, each with its response flag. */

import { MeshError } from '../base/errors.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';

/** `service`: undefined for the pod that was addressed itself. */
export function noEndpoint(service: string | undefined): MeshError {
  const message = `Cannot reach "${service ?? 'the pod'}": it has no usable endpoint`;
  return new MeshError('MESH_NO_HEALTHY_ENDPOINT', message, { flag: 'NO_ENDPOINT' });
}

export function retryBudgetSpent(service: string): MeshError {
  const message = `The retry budget of "${service}" is used up`;
  return new MeshError('MESH_LIMIT_EXCEEDED', message, { flag: 'RETRY_BUDGET' });
}

/** Of one try. */
export function upstreamLate(address: SocketAddress): MeshError {
  return expired(`The upstream at "${formatSocketAddress(address)}" did not answer in time`);
}

export function expired(message: string): MeshError {
  return new MeshError('MESH_DEADLINE_EXCEEDED', message, { flag: 'TIMEOUT' });
}

export function badResponse(cause: unknown): MeshError {
  const message = 'The response cannot be handed on';
  return new MeshError('MESH_MESSAGE_INVALID', message, { cause, flag: 'RESET' });
}

/** What should never be thrown was. */
export function notServed(cause: unknown): MeshError {
  const message = 'The request was reset here: it could not be served';
  return new MeshError('MESH_HTTP2_STREAM_RESET', message, { cause, flag: 'RESET' });
}
