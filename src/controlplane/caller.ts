/**
 * Who calls the control plane, as an authenticator proves it: a node proxy by its node, any other workload (a
 * waypoint) by its own namespace and service account. What each may see and have follows from this alone.
 */

import { MeshError } from '../base/errors.ts';
import { fail, type Result } from '../base/result.ts';

export type CallerIdentity =
  | { readonly kind: 'node'; readonly node: string }
  | {
      readonly kind: 'workload';
      readonly namespace: string;
      readonly serviceAccount: string;
      /** The pod's name; undefined when the token does not say. */
      readonly pod?: string | undefined;
    };

/** Proves who calls. The reason of a refusal is for the log only. */
export interface Authenticator {
  authenticate(token: string): Promise<Result<CallerIdentity>>;
}

/** One per node or pod: what is limited per client goes by it. A node name has no slash, so they differ. */
export function callerId(caller: CallerIdentity): string {
  if (caller.kind === 'node') return caller.node;
  const { namespace, serviceAccount, pod } = caller;
  const account = `${namespace}/${serviceAccount}`;
  return pod === undefined ? account : `${account}/${pod}`;
}

export function unauthenticated(reason: string): Result<never> {
  const message = `Cannot authenticate caller: ${reason}`;
  return fail(new MeshError('MESH_DISCOVERY_UNAUTHENTICATED', message));
}
