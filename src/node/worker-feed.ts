/**
 * What the agent tells a worker, applied to the worker's view: one subscription per type. A resource that cannot
 * be read is rejected by name and the last good one stays. Long updates are applied in slices of about 5 ms, so
 * that connections never wait longer than that for configuration (design, section 3.4).
 */

import type { Clock } from '../base/clock.ts';
import type { PodUid } from '../core/pod.ts';
import { formatIdentity, parseIdentity, type SpiffeId } from '../core/identity.ts';
import { applyInSlices } from '../discovery/apply-in-slices.ts';
import type { TypeSubscription } from '../discovery/client.ts';
import {
  decodeCapturedPod,
  decodeNodeSettings,
  decodeTrustBundle,
  decodeWorkloadSecret,
} from '../discovery/codec-local.ts';
import { addressSubscription, policySubscriptions } from '../discovery/state-subscriptions.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { Rejection } from '../discovery/wire-messages.ts';
import { createTrustBundle } from '../identity/trust-bundle.ts';
import { createWorkloadCertificate } from '../identity/workload-certificate.ts';
import type { NodeState } from '../state/contract.ts';
import type { Credentials } from './credentials.ts';

export interface WorkerFeedOptions {
  readonly clock: Clock;
  readonly state: NodeState;
  readonly credentials: Credentials;
}

export function workerSubscriptions(options: WorkerFeedOptions): readonly TypeSubscription[] {
  const { clock, state, credentials } = options;
  const roots = new Map<string, readonly string[]>();
  let bundleGeneration = 0;

  const applyRoots = (): void => {
    if (roots.size === 0) return;
    const bundle = createTrustBundle(++bundleGeneration, roots);
    if (bundle.ok) credentials.setBundle(bundle.value);
  };

  return [
    {
      typeUrl: TYPE_URL.nodeSettings,
      mode: 'wildcard',
      apply: ({ resources }) =>
        applyInSlices(clock, resources, decodeNodeSettings, (values) => {
          for (const settings of values) state.applySettings(settings);
        }),
    },
    {
      typeUrl: TYPE_URL.trustBundle,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        for (const name of removed) roots.delete(name);
        const rejections = await applyInSlices(clock, resources, decodeTrustBundle, (values) => {
          for (const { trustDomain, rootPems } of values) roots.set(trustDomain, rootPems);
        });
        applyRoots();
        return rejections;
      },
    },
    ...policySubscriptions(clock, state),
    addressSubscription(clock, state, 'on-demand'),
    {
      typeUrl: TYPE_URL.workloadSecret,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        // An agent that starts anew may not have the certificate of a pod we serve yet; ours is good meanwhile.
        const used = new Set<string>();
        for (const { pod } of state.pods.capturedPods()) used.add(formatIdentity(pod));
        for (const name of removed) {
          if (!used.has(name) && parseIdentity(name).ok) credentials.remove(name as SpiffeId);
        }
        const rejections: Rejection[] = [];
        for (const { name, body } of resources) {
          const secret = decodeWorkloadSecret(body);
          const certificate = secret.ok
            ? createWorkloadCertificate(
                secret.value.identity,
                secret.value.privateKeyPem,
                secret.value.chainPems,
              )
            : secret;
          if (certificate.ok) credentials.set(certificate.value);
          else rejections.push({ name, reason: certificate.error.message });
        }
        return rejections;
      },
    },
    {
      typeUrl: TYPE_URL.capturedPod,
      mode: 'wildcard',
      apply: ({ resources, removed }) => {
        if (removed.length > 0) state.applyCapturedPods({ removed: removed as readonly PodUid[] });
        return applyInSlices(clock, resources, decodeCapturedPod, (pods) =>
          state.applyCapturedPods({ pods }),
        );
      },
    },
  ];
}
