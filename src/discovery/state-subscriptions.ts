/**
 * What every proxy is told of the mesh, applied to its view: policies, workloads and services. A resource that cannot be
 * read is rejected by name and the last good one stays. Long updates are applied in slices, so that connections never
 * wait longer than that for configuration (design, section 3.4).
 */

import type { Clock } from '../base/clock.ts';
import type { Result } from '../base/result.ts';
import type { Policy } from '../core/policy.ts';
import type { Service, Workload } from '../core/workload.ts';
import type { NodeState } from '../state/contract.ts';
import { applyInSlices } from './apply-in-slices.ts';
import type { TypeSubscription } from './client.ts';
import { decodeAuditPolicy, decodeAuthorization } from './codec-policy.ts';
import { decodeAddress } from './codec-workload.ts';
import { TYPE_URL } from './type-urls.ts';

/** Subscribed to before addresses: nobody is served by a policy that is not there. */
export function policySubscriptions(clock: Clock, state: NodeState): readonly TypeSubscription[] {
  const policies =
    (
      decode: (body: Uint8Array) => Result<Policy>,
      apply: (policies: Policy[], removed: readonly string[]) => void,
    ): TypeSubscription['apply'] =>
    async ({ resources, removed }) => {
      // What is new first: between the slices nobody must be without the policy that replaces another one.
      const rejections = await applyInSlices(clock, resources, decode, (values) =>
        apply(values, []),
      );
      apply([], removed);
      return rejections;
    };
  return [
    {
      typeUrl: TYPE_URL.authorization,
      mode: 'wildcard',
      apply: policies(decodeAuthorization, (values, removed) =>
        state.applyPolicies({ policies: values, removed }),
      ),
    },
    {
      typeUrl: TYPE_URL.auditPolicy,
      mode: 'wildcard',
      apply: policies(decodeAuditPolicy, (values, removed) =>
        state.applyAuditPolicies({ policies: values, removed }),
      ),
    },
  ];
}

/** Workloads and services: of the whole mesh, or as they are asked for. */
export function addressSubscription(
  clock: Clock,
  state: NodeState,
  mode: TypeSubscription['mode'],
): TypeSubscription {
  return {
    typeUrl: TYPE_URL.address,
    mode,
    async apply({ resources, removed }) {
      if (removed.length > 0) state.applyAddresses({ removed });
      return applyInSlices(clock, resources, decodeAddress, (values) => {
        const workloads: Workload[] = [];
        const services: Service[] = [];
        for (const value of values) {
          if (value.kind === 'workload') workloads.push(value.workload);
          else services.push(value.service);
        }
        state.applyAddresses({ workloads, services });
      });
    },
  };
}
