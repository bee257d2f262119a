/**
 * What the controller tells a waypoint, applied to its view: the mesh, the policies, the trusted roots, and what is
 * bound to it. A resource that cannot be read is rejected by name and the last good one stays.
 */

import type { Clock } from '../base/clock.ts';
import { runInSlices, type Steps } from '../base/steps.ts';
import { applyInSlices } from '../discovery/apply-in-slices.ts';
import type { TypeSubscription } from '../discovery/client.ts';
import { decodeHttpPolicy, decodeRequestAuthentication } from '../discovery/codec-http-policy.ts';
import { decodeTrustBundle } from '../discovery/codec-local.ts';
import { decodeTraffic } from '../discovery/codec-traffic.ts';
import { addressSubscription, policySubscriptions } from '../discovery/state-subscriptions.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import { decodeWaypointServiceInSteps } from '../discovery/waypoint-service-steps.ts';
import type { Rejection } from '../discovery/wire-messages.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import type { NodeState } from '../state/contract.ts';
import type { Guard } from './guard.ts';
import type { ServicePlans } from './service-plan.ts';
import type { Traffic } from './traffic.ts';

export interface WaypointFeedOptions {
  readonly clock: Clock;
  readonly state: NodeState;
  readonly plans: ServicePlans;
  readonly traffic: Traffic;
  readonly guard: Guard;
  /** Roots of one trust domain, in place of those before. */
  setRoots(trustDomain: string, rootPems: readonly string[]): void;
}

export function waypointSubscriptions(options: WaypointFeedOptions): readonly TypeSubscription[] {
  const { clock, state, plans, traffic, guard } = options;
  return [
    {
      typeUrl: TYPE_URL.trustBundle,
      mode: 'wildcard',
      apply: ({ resources }) =>
        applyInSlices(clock, resources, decodeTrustBundle, (values) => {
          for (const { trustDomain, rootPems } of values) options.setRoots(trustDomain, rootPems);
        }),
    },
    ...policySubscriptions(clock, state),
    {
      typeUrl: TYPE_URL.waypointService,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        const rejections = await runInSlices(clock, applyServices(plans, resources));
        plans.apply([], removed);
        return rejections;
      },
    },
    {
      typeUrl: TYPE_URL.httpPolicy,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        const rejections = await applyInSlices(clock, resources, decodeHttpPolicy, (values) =>
          guard.policies.apply(values, [], false),
        );
        if (removed.length > 0) guard.policies.apply([], removed, false);
        return rejections;
      },
    },
    {
      typeUrl: TYPE_URL.requestAuthentication,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        const rejections = await applyInSlices(
          clock,
          resources,
          decodeRequestAuthentication,
          (values) => guard.authenticator.apply(values, [], false),
        );
        if (removed.length > 0) guard.authenticator.apply([], removed, false);
        return rejections;
      },
    },
    {
      typeUrl: TYPE_URL.trafficPolicy,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        const rejections = await applyInSlices(clock, resources, decodeTraffic, (values) =>
          traffic.apply(values, []),
        );
        traffic.apply([], removed);
        return rejections;
      },
    },
    addressSubscription(clock, state, 'wildcard'),
  ];
}

/** Each service counts from when its routes are compiled; until then its old ones serve. */
function* applyServices(
  plans: ServicePlans,
  resources: readonly WireResource[],
): Steps<Rejection[]> {
  const rejections: Rejection[] = [];
  for (const { name, body } of resources) {
    const decoded = yield* decodeWaypointServiceInSteps(body);
    if (decoded.ok) {
      yield* plans.prepare(decoded.value);
      plans.apply([decoded.value], []);
    } else {
      rejections.push({ name, reason: decoded.error.message });
    }
    yield;
  }
  return rejections;
}
