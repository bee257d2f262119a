/**
 * What is asked before bytes reach an application, on whatever path they came: does the request mean this pod,
 * on a port that may be reached, and does policy allow it. One function decides for tunnel, plain text and the
 * same-node path (T23, T24, T40–T42).
 */

import { MeshError } from '../base/errors.ts';
import { fail, ok, type Result } from '../base/result.ts';
import { isLoopback, type IpAddress, type SocketAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import type { Workload } from '../core/workload.ts';
import { decisionError, type Decision } from '../policy/decide.ts';
import type { ConnectionFacts } from '../policy/match.ts';
import type { Authority } from '../tunnel/authority.ts';
import { isForbiddenPort, type ServedPod, type WorkerContext } from './context.ts';

/**
 * The pod's own address and port that an authority names (HBONE 1.4): an address must be the one the tunnel
 * was accepted on; a host name must be a service this workload is an endpoint of. Nothing is resolved.
 */
export function targetOfAuthority(
  context: WorkerContext,
  pod: ServedPod,
  authority: Authority,
  acceptedOn: IpAddress,
): Result<SocketAddress> {
  if (isLoopback(acceptedOn)) {
    // Only the pod itself can come this way, and would reach what listens on its loopback alone (T41).
    const message = `Cannot deliver to "${acceptedOn}": tunnels end at the pod's own address`;
    return fail(new MeshError('MESH_DESTINATION_FORBIDDEN', message, { details: { status: 400 } }));
  }
  if (authority.kind === 'address') {
    if (authority.ip !== acceptedOn) {
      const message = `Cannot deliver to "${authority.ip}": this pod is "${acceptedOn}"`;
      return fail(
        new MeshError('MESH_DESTINATION_FORBIDDEN', message, { details: { status: 400 } }),
      );
    }
    return ok({ ip: acceptedOn, port: authority.port });
  }
  const { hostname, port } = authority;
  for (const [key, ports] of pod.workload()?.services ?? []) {
    if (!key.endsWith(`/${hostname}`)) continue;
    const own = ports.find(({ servicePort }) => servicePort === port)?.targetPort ?? 0;
    const service = context.state.services.get(key);
    const declared =
      service?.ports.find(({ servicePort }) => servicePort === port)?.targetPort ?? 0;
    const targetPort = own === 0 ? declared : own;
    if (targetPort !== 0) return ok({ ip: acceptedOn, port: targetPort });
  }
  const message = `Cannot deliver to "${hostname}:${port}": this pod is no endpoint of it`;
  return fail(new MeshError('MESH_DESTINATION_UNKNOWN', message, { details: { status: 503 } }));
}

export interface Admission {
  readonly facts: ConnectionFacts;
  readonly workload: Workload;
  readonly decision: Decision;
}

/** Port and policy. An error carries the flag for the record and, in `details.policy`, who denied. */
export function admit(
  context: WorkerContext,
  pod: ServedPod,
  source: SpiffeId | undefined,
  sourceIp: IpAddress,
  destination: SocketAddress,
): Result<Admission> {
  if (isForbiddenPort(destination.port)) {
    const message = `Cannot deliver to port ${destination.port}: it is the proxy's own`;
    return fail(
      new MeshError('MESH_DESTINATION_FORBIDDEN', message, {
        flag: 'DENY',
        details: { status: 503 },
      }),
    );
  }
  const workload = pod.workload();
  if (workload === undefined) {
    const { namespace, name } = pod.captured.pod;
    const message = `Cannot deliver to pod "${namespace}/${name}": its workload is not known yet`;
    return fail(
      new MeshError('MESH_CONFIG_UNAVAILABLE', message, {
        flag: 'CONFIG',
        details: { status: 503 },
      }),
    );
  }
  const facts: ConnectionFacts = { source, sourceIp, destination };
  const decision = context.authorizer.decide(facts, workload);
  return decision.allowed ? ok({ facts, workload, decision }) : fail(decisionError(decision));
}
