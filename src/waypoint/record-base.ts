/** What is known of a connection that is carried as bytes, for its record. */

import type { MeshError } from '../base/errors.ts';
import type { RequestRecord } from '../core/request-record.ts';
import type { AttemptTarget } from './attempt.ts';
import type { ServedConnection } from './served-connection.ts';

type RecordBase = Pick<
  RequestRecord,
  | 'source'
  | 'destination'
  | 'destinationService'
  | 'destinationServiceName'
  | 'destinationServiceNamespace'
  | 'sourceAddress'
  | 'upstreamAddress'
  | 'flag'
  | 'policy'
  | 'errorCode'
  | 'error'
>;

/** `target`: the endpoint that was asked last. `error`: why it did not go well. */
export function recordBase(
  connection: ServedConnection,
  target: AttemptTarget | undefined,
  error: MeshError | undefined,
): RecordBase {
  const { service } = connection.addressed;
  return {
    source: connection.sourcePeer,
    destination: connection.destinationPeer(target?.workload),
    destinationService: service?.hostname ?? '',
    destinationServiceName: service?.name ?? '',
    destinationServiceNamespace: service?.namespace ?? '',
    sourceAddress: connection.sourceAddress,
    upstreamAddress: target?.address,
    flag: error === undefined ? '-' : (error.flag ?? 'RESET'),
    policy: error === undefined ? '' : policyOf(error),
    errorCode: error?.code,
    error: error?.message ?? '',
  };
}

/** The policy that refused; empty: none did. */
export function policyOf(error: MeshError): string {
  const { policy } = error.details;
  return typeof policy === 'string' ? policy : '';
}
