/**
 * The last look before a connection leaves: whoever declares a waypoint is reached through it or not at all (T49).
 * The resolver decides the same; this asks again at the place where it would matter, and what it finds is
 * counted as `nodemesh_waypoint_bypass_total`, which therefore stays 0.
 */

import { MeshError } from '../base/errors.ts';
import { serviceKey, type Workload } from '../core/workload.ts';
import type { EndpointDestination, PassthroughDestination } from '../state/contract.ts';

/** The error that must end the connection; undefined: it may go there. */
export function bypassError(
  destination: EndpointDestination | PassthroughDestination,
  client: Workload,
): MeshError | undefined {
  const { service } = destination;
  const workload = destination.kind === 'endpoint' ? destination.workload : undefined;
  const { waypoint } = service ?? { waypoint: workload?.waypoint };
  if (waypoint === undefined) return undefined;
  const { target } = waypoint;
  const isItself =
    target.kind === 'address'
      ? client.addresses.includes(target.ip)
      : client.services.has(serviceKey(target.namespace, target.hostname)) ||
        client.hostname === target.hostname;
  if (isItself) return undefined;
  const name = service?.key ?? workload?.uid ?? '';
  const message = `Cannot connect to "${name}" past its waypoint: this is a fault of the proxy`;
  return new MeshError('MESH_WAYPOINT_BYPASSED', message, { flag: 'WAYPOINT' });
}
