/**
 * What the agent tells a worker, applied to the worker's view: one subscription per type. A resource that cannot
 * be read is rejected by name and the last good one stays. Long updates are applied in slices of about 5 ms, so
 * that connections never wait longer than that for configuration (design, section 3.4).
 */

import type { Clock } from '../base/clock.ts';
import { sleep } from '../base/clock.ts';
import type { Result } from '../base/result.ts';
import type { PodUid } from '../core/pod.ts';
import { formatIdentity, parseIdentity, type SpiffeId } from '../core/identity.ts';
import type { TypeSubscription } from '../discovery/client.ts';
import type { TypeUpdate } from '../discovery/client-type.ts';
import {
  decodeCapturedPod,
  decodeNodeSettings,
  decodeTrustBundle,
  decodeWorkloadSecret,
} from '../discovery/codec-local.ts';
import { decodeAuditPolicy, decodeAuthorization } from '../discovery/codec-policy.ts';
import { decodeAddress } from '../discovery/codec-workload.ts';
import { TYPE_URL } from '../discovery/type-urls.ts';
import type { Rejection } from '../discovery/wire-messages.ts';
import type { WireResource } from '../discovery/wire-resource.ts';
import { createTrustBundle } from '../identity/trust-bundle.ts';
import { createWorkloadCertificate } from '../identity/workload-certificate.ts';
import type { Policy } from '../core/policy.ts';
import type { Service, Workload } from '../core/workload.ts';
import type { NodeState } from '../state/contract.ts';
import type { Credentials } from './credentials.ts';

const SLICE_MS = 5;
/** Resources between two looks at the clock. */
const SLICE_STEP = 32;

export interface WorkerFeedOptions {
  readonly clock: Clock;
  readonly state: NodeState;
  readonly credentials: Credentials;
}

/** Decodes `resources` in slices; `use` gets each slice's values, all rejected ones are returned. */
async function inSlices<T>(
  clock: Clock,
  resources: readonly WireResource[],
  decode: (body: Uint8Array) => Result<T>,
  use: (values: T[]) => void,
): Promise<Rejection[]> {
  const rejections: Rejection[] = [];
  let values: T[] = [];
  let sliceStartMs = clock.nowMs();
  for (const [index, { name, body }] of resources.entries()) {
    const decoded = decode(body);
    if (decoded.ok) values.push(decoded.value);
    else rejections.push({ name, reason: decoded.error.message });
    if (index % SLICE_STEP !== SLICE_STEP - 1 || clock.nowMs() - sliceStartMs < SLICE_MS) continue;
    use(values);
    values = [];
    await sleep(clock, 0);
    sliceStartMs = clock.nowMs();
  }
  use(values);
  return rejections;
}

export function workerSubscriptions(options: WorkerFeedOptions): readonly TypeSubscription[] {
  const { clock, state, credentials } = options;
  const roots = new Map<string, readonly string[]>();
  let bundleGeneration = 0;

  const policies = (
    decode: (body: Uint8Array) => Result<Policy>,
    apply: (policies: Policy[], removed: readonly string[]) => void,
  ): ((update: TypeUpdate) => Promise<readonly Rejection[]>) => {
    return async ({ resources, removed }) => {
      // What is new first: between the slices a pod must not be without the policy that replaces another one.
      const rejections = await inSlices(clock, resources, decode, (values) => apply(values, []));
      apply([], removed);
      return rejections;
    };
  };

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
        inSlices(clock, resources, decodeNodeSettings, (values) => {
          for (const settings of values) state.applySettings(settings);
        }),
    },
    {
      typeUrl: TYPE_URL.trustBundle,
      mode: 'wildcard',
      async apply({ resources, removed }) {
        for (const name of removed) roots.delete(name);
        const rejections = await inSlices(clock, resources, decodeTrustBundle, (values) => {
          for (const { trustDomain, rootPems } of values) roots.set(trustDomain, rootPems);
        });
        applyRoots();
        return rejections;
      },
    },
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
    {
      typeUrl: TYPE_URL.address,
      mode: 'on-demand',
      async apply({ resources, removed }) {
        if (removed.length > 0) state.applyAddresses({ removed });
        return inSlices(clock, resources, decodeAddress, (values) => {
          const workloads: Workload[] = [];
          const services: Service[] = [];
          for (const value of values) {
            if (value.kind === 'workload') workloads.push(value.workload);
            else services.push(value.service);
          }
          state.applyAddresses({ workloads, services });
        });
      },
    },
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
        return inSlices(clock, resources, decodeCapturedPod, (pods) =>
          state.applyCapturedPods({ pods }),
        );
      },
    },
  ];
}
