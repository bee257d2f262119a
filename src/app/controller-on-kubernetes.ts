/** A controller in a Kubernetes cluster: the API server is source, proof of who calls, and memory. */

import { hostname } from 'node:os';

import type { Clock } from '../base/clock.ts';
import { MeshError } from '../base/errors.ts';
import { createNullCaptureStore } from '../controlplane/capture-store.ts';
import { ROOT_NAMESPACE, type ObjectCondition } from '../controlplane/objects.ts';
import { unwrap } from '../base/result.ts';
import type { CertificateAuthority } from '../identity/ca.ts';
import { bundlePem } from '../identity/trust-bundle.ts';
import { createApiClient, type ApiClient } from '../kubernetes/api-client.ts';
import {
  inClusterCredentials,
  kubeconfigCredentials,
  type ApiCredentials,
} from '../kubernetes/api-credentials.ts';
import { openClusterCa, watchClusterCa, watchPluggedCa } from '../kubernetes/cluster-ca.ts';
import { createEventRecorder } from '../kubernetes/event-recorder.ts';
import { createGatewayWriter, type GatewayWriter } from '../kubernetes/gateway-writer.ts';
import { createLeaderElection } from '../kubernetes/leader-election.ts';
import { createOwnStatus } from '../kubernetes/own-status.ts';
import { publishRoots, readPublishedRoots } from '../kubernetes/root-config-map.ts';
import { createReflectorMetrics } from '../kubernetes/metrics.ts';
import { createReplicas } from '../kubernetes/replicas.ts';
import { createSharedEnrolment, hasEnrolmentRecords } from '../kubernetes/shared-enrolment.ts';
import { createKubernetesSource } from '../kubernetes/source.ts';
import { createTokenReviewer } from '../kubernetes/token-review.ts';
import type { ControllerConfig } from './config/settings.ts';
import type { ControllerEnvironment, EnvironmentParts } from './controller-environment.ts';

const LEASE = 'nodemesh-controller';

function rootsOf(ca: CertificateAuthority): string {
  return bundlePem(ca.bundle).join('');
}

async function credentialsOf(config: ControllerConfig, clock: Clock): Promise<ApiCredentials> {
  if (config.kubeconfig !== '') return kubeconfigCredentials(config.kubeconfig, clock);
  if (config.apiHost === '') {
    const message =
      'Cannot start: NODEMESH_SOURCE is kubernetes, but this is no pod and NODEMESH_KUBECONFIG is not set';
    throw new MeshError('MESH_CONFIG_INVALID', message);
  }
  return inClusterCredentials({ clock, host: config.apiHost, port: config.apiPort });
}

export async function openKubernetesEnvironment(
  parts: EnvironmentParts,
): Promise<ControllerEnvironment> {
  const { config, clock, random, logger, registry } = parts;
  const client: ApiClient = createApiClient({
    clock,
    credentials: await credentialsOf(config, clock),
  });
  const namespace = ROOT_NAMESPACE;
  const common = { clock, random, logger, registry, client };
  const ca = await openClusterCa({
    ...common,
    namespace,
    trustDomain: config.trustDomain,
    identitiesExist: async () => unwrap(await hasEnrolmentRecords(client, namespace)),
  });
  const identity = config.replica === '' ? hostname() : config.replica;
  let gateways: GatewayWriter | undefined;
  const election = createLeaderElection({
    ...common,
    namespace,
    name: LEASE,
    identity,
    onChange(leads) {
      // Whatever the one before left undone.
      if (leads) void publishRoots(client, namespace, rootsOf(ca));
      gateways?.poke();
      ownStatus.poke();
      events.poke();
    },
  });
  const leads = (): boolean => election.leads();
  const sharingParts = {
    ...common,
    metrics: createReflectorMetrics(registry),
    namespace,
    identity,
    leads,
  };
  let plane: Parameters<ControllerEnvironment['published']>[0] | undefined;
  const troubles = (): Iterable<ObjectCondition> => plane?.troubles() ?? [];
  const ownStatus = createOwnStatus({ ...common, leads, conditions: troubles });
  const events = createEventRecorder({ ...common, leads, instance: identity, troubles });
  const replicas = createReplicas(sharingParts);
  const sharing = createSharedEnrolment({ ...sharingParts, replicas });
  return {
    ca,
    authenticator: createTokenReviewer({
      clock,
      client,
      isPodKnown: (uid) => plane?.hasPod(uid) ?? true,
    }),
    // Each step is stored through `sharing` instead.
    captureStore: createNullCaptureStore(),
    sharing,
    async publishRoots() {
      // The first roots are anybody's to publish, since node proxies wait for them; changed ones the leader's.
      const published = unwrap(await readPublishedRoots(client, namespace));
      if (published !== '' && !election.leads()) return;
      unwrap(await publishRoots(client, namespace, rootsOf(ca)));
    },
    createSource: (onChanges) =>
      createKubernetesSource({
        ...common,
        onChanges,
        onOwnObject: (...seen) => ownStatus.note(...seen),
      }),
    leads,
    run(onAuthorityChanged) {
      const watched = { ...common, namespace, onChanged: onAuthorityChanged };
      if ('refresh' in ca) watchClusterCa({ ...watched, ca });
      else watchPluggedCa({ ...watched, ca });
    },
    published(published) {
      plane = published;
      ownStatus.poke();
      events.poke();
      if (config.waypointImage === '') return;
      gateways ??= createGatewayWriter({
        clock,
        random,
        logger,
        client,
        leads,
        view: () => published.gatewayApi(),
        roots: () => rootsOf(ca),
        values: {
          image: config.waypointImage,
          controller: config.waypointController,
          controllerName: config.names.split(',')[0]?.trim() ?? '',
          trustDomain: config.trustDomain,
          logLevel: config.logLevel,
        },
      });
      gateways.poke();
    },
    async leave() {
      await gateways?.[Symbol.asyncDispose]();
      await Promise.all([ownStatus[Symbol.asyncDispose](), events[Symbol.asyncDispose]()]);
      await Promise.all([election[Symbol.asyncDispose](), sharing[Symbol.asyncDispose]()]);
    },
  };
}
