/**
 * Our own types between `nodemesh.v1` and plain values: pods of a node, settings, keys and roots downward;
 * captures, listeners and counters upward. Strict: an unknown enum value is an error here, since both ends are
 * ours and N-1 of us never sends one.
 */

import { create, toBinary, type MessageInitShape } from '@bufbuild/protobuf';

import type { Result } from '../base/result.ts';
import { addressBytes } from '../core/address.ts';
import {
  formatIdentity,
  isNamespaceName,
  isServiceAccountName,
  isTrustDomain,
  parseIdentity,
  type SpiffeId,
} from '../core/identity.ts';
import type { CapturedPod, CaptureReport, LocalPod, NodeSettings, PodUid } from '../core/pod.ts';
import {
  decodeBounded,
  invalidField,
  readAddress,
  readChecked,
  readList,
  readPort,
  readRequired,
  readSafeInteger,
  readText,
} from './codec-fields.ts';
import {
  CapturedPodSchema,
  CaptureReportSchema,
  EnrolledNamespaceSchema,
  ListenerReportSchema,
  LocalDelivery,
  LocalPodSchema,
  NodeSettingsSchema,
  TrafficDeltaSchema,
  TrustBundleSchema,
  WorkloadSecretSchema,
  type CaptureReport_State,
  type LocalPod as LocalPodMessage,
} from './gen/nodemesh/v1/node_pb.ts';
import { createWireResource, type WireResource } from './wire-resource.ts';

/** A key with its certificate: agent → workers, on the Unix socket only; never logged, never on a disk. */
export interface WorkloadSecret {
  readonly identity: SpiffeId;
  readonly privateKeyPem: string;
  /** Leaf first, then intermediates. */
  readonly chainPems: readonly string[];
  /** Milliseconds since the epoch. */
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}

/** The roots that are trusted for one trust domain. */
export interface SharedTrustBundle {
  readonly trustDomain: string;
  readonly rootPems: readonly string[];
  /** Grows with every change of the set. */
  readonly generation: number;
  /** SHA-256 of the DER of the root that issues now, lower-case hex. */
  readonly issuingRootFingerprint: string;
}

/** Whether one worker's listeners for one pod stand: worker → agent. */
export interface ListenerReport {
  readonly podUid: PodUid;
  readonly listening: boolean;
  /** Why not. */
  readonly reason: string;
}

/** What one worker's counters gained: worker → agent. A sequence seen before is to be dropped. */
export interface TrafficDelta {
  /** Names one life of one worker. */
  readonly worker: string;
  readonly sequence: number;
  readonly counters: readonly {
    readonly metric: string;
    readonly labels: readonly string[];
    readonly value: number;
  }[];
}

export const POD_ADDRESSES_MAX = 64;
export const PROBE_PORTS_MAX = 256;
export const CHAIN_MAX = 16;
export const ROOTS_MAX = 64;
export const COUNTERS_MAX = 10_000;
const COUNTER_LABELS_MAX = 64;
const PEM_CHARS_MAX = 65_536;
const POD_UID = /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$/;
const FINGERPRINT = /^(?:[0-9a-f]{64})?$/;
const CAPTURE_STATES = ['pending', 'captured', 'failed'] as const;
const REASON_CHARS_MAX = 2_048;
/** The one `NodeSettings` of a node. */
export const NODE_SETTINGS_NAME = 'node';

export function localPodResource(pod: LocalPod): WireResource {
  return createWireResource(
    pod.podUid,
    toBinary(LocalPodSchema, create(LocalPodSchema, podInit(pod))),
  );
}

export function decodeLocalPod(body: Uint8Array): Result<LocalPod> {
  return decodeBounded(LocalPodSchema, body, readPod);
}

/** A namespace that is enrolled by its label. */
export function enrolledNamespaceResource(name: string): WireResource {
  const message = create(EnrolledNamespaceSchema, { name });
  return createWireResource(name, toBinary(EnrolledNamespaceSchema, message));
}

export function decodeEnrolledNamespace(body: Uint8Array): Result<string> {
  return decodeBounded(EnrolledNamespaceSchema, body, ({ name }) =>
    readChecked('name', name, isNamespaceName),
  );
}

export function nodeSettingsResource(settings: NodeSettings): WireResource {
  const localDelivery =
    settings.localDelivery === 'tunnel' ? LocalDelivery.TUNNEL : LocalDelivery.AUTO;
  const message = create(NodeSettingsSchema, { ...settings, localDelivery });
  return createWireResource(NODE_SETTINGS_NAME, toBinary(NodeSettingsSchema, message));
}

export function decodeNodeSettings(body: Uint8Array): Result<NodeSettings> {
  return decodeBounded(NodeSettingsSchema, body, (message): NodeSettings => {
    if (message.localDelivery > LocalDelivery.TUNNEL) {
      throw invalidField('local_delivery', `${message.localDelivery} is not known`);
    }
    return {
      localDelivery: message.localDelivery === LocalDelivery.TUNNEL ? 'tunnel' : 'auto',
      node: readText('node', message.node),
      clusterId: readText('cluster_id', message.clusterId),
      network: readText('network', message.network),
      region: readText('region', message.region),
      zone: readText('zone', message.zone),
      subzone: readText('subzone', message.subzone),
      trustDomain: readChecked('trust_domain', message.trustDomain, isTrustDomain),
    };
  });
}

export function capturedPodResource(captured: CapturedPod): WireResource {
  const message = create(CapturedPodSchema, {
    pod: podInit(captured.pod),
    netnsPath: captured.netnsPath,
    netnsInode: BigInt(captured.netnsInode),
  });
  return createWireResource(captured.pod.podUid, toBinary(CapturedPodSchema, message));
}

export function decodeCapturedPod(body: Uint8Array): Result<CapturedPod> {
  return decodeBounded(CapturedPodSchema, body, (message): CapturedPod => {
    if (message.pod === undefined) throw invalidField('pod', 'missing');
    return {
      pod: readPod(message.pod),
      netnsPath: readRequired('netns_path', message.netnsPath),
      netnsInode: readSafeInteger('netns_inode', message.netnsInode),
    };
  });
}

export function workloadSecretResource(secret: WorkloadSecret): WireResource {
  const message = create(WorkloadSecretSchema, {
    identity: secret.identity,
    privateKeyPem: secret.privateKeyPem,
    chainPems: [...secret.chainPems],
    notBeforeMs: BigInt(secret.notBeforeMs),
    notAfterMs: BigInt(secret.notAfterMs),
  });
  return createWireResource(secret.identity, toBinary(WorkloadSecretSchema, message));
}

export function decodeWorkloadSecret(body: Uint8Array): Result<WorkloadSecret> {
  return decodeBounded(WorkloadSecretSchema, body, (message): WorkloadSecret => {
    const identity = parseIdentity(message.identity);
    if (!identity.ok) throw identity.error;
    return {
      identity: formatIdentity(identity.value),
      privateKeyPem: readRequired('private_key_pem', message.privateKeyPem, PEM_CHARS_MAX),
      chainPems: readList('chain_pems', message.chainPems, CHAIN_MAX, (pem) =>
        readRequired('chain_pems', pem, PEM_CHARS_MAX),
      ),
      notBeforeMs: readSafeInteger('not_before_ms', message.notBeforeMs),
      notAfterMs: readSafeInteger('not_after_ms', message.notAfterMs),
    };
  });
}

export function trustBundleResource(bundle: SharedTrustBundle): WireResource {
  const message = create(TrustBundleSchema, {
    trustDomain: bundle.trustDomain,
    rootPems: [...bundle.rootPems],
    generation: BigInt(bundle.generation),
    issuingRootFingerprint: bundle.issuingRootFingerprint,
  });
  return createWireResource(bundle.trustDomain, toBinary(TrustBundleSchema, message));
}

export function decodeTrustBundle(body: Uint8Array): Result<SharedTrustBundle> {
  return decodeBounded(TrustBundleSchema, body, (message): SharedTrustBundle => ({
    trustDomain: readChecked('trust_domain', message.trustDomain, isTrustDomain),
    rootPems: readList('root_pems', message.rootPems, ROOTS_MAX, (pem) =>
      readRequired('root_pems', pem, PEM_CHARS_MAX),
    ),
    generation: readSafeInteger('generation', message.generation),
    issuingRootFingerprint: readChecked(
      'issuing_root_fingerprint',
      message.issuingRootFingerprint,
      (text) => FINGERPRINT.test(text),
    ),
  }));
}

export function captureReportResource(report: CaptureReport): WireResource {
  const state = CAPTURE_STATES.indexOf(report.state) as CaptureReport_State;
  const message = create(CaptureReportSchema, { ...report, state });
  return createWireResource(report.podUid, toBinary(CaptureReportSchema, message));
}

export function decodeCaptureReport(body: Uint8Array): Result<CaptureReport> {
  return decodeBounded(CaptureReportSchema, body, (message): CaptureReport => {
    const state = CAPTURE_STATES[message.state];
    if (state === undefined) throw invalidField('state', `${message.state} is not known`);
    return {
      podUid: readPodUid(message.podUid),
      state,
      reason: readText('reason', message.reason, REASON_CHARS_MAX),
    };
  });
}

export function listenerReportResource(report: ListenerReport): WireResource {
  const message = create(ListenerReportSchema, { ...report });
  return createWireResource(report.podUid, toBinary(ListenerReportSchema, message));
}

export function decodeListenerReport(body: Uint8Array): Result<ListenerReport> {
  return decodeBounded(ListenerReportSchema, body, (message): ListenerReport => ({
    podUid: readPodUid(message.podUid),
    listening: message.listening,
    reason: readText('reason', message.reason, REASON_CHARS_MAX),
  }));
}

export function trafficDeltaResource(delta: TrafficDelta): WireResource {
  const message = create(TrafficDeltaSchema, {
    worker: delta.worker,
    sequence: BigInt(delta.sequence),
    counters: delta.counters.map((counter) => ({ ...counter, labels: [...counter.labels] })),
  });
  return createWireResource(delta.worker, toBinary(TrafficDeltaSchema, message));
}

export function decodeTrafficDelta(body: Uint8Array): Result<TrafficDelta> {
  return decodeBounded(TrafficDeltaSchema, body, (message): TrafficDelta => ({
    worker: readRequired('worker', message.worker),
    sequence: readSafeInteger('sequence', message.sequence),
    counters: readList('counters', message.counters, COUNTERS_MAX, (counter) => {
      // A counter that shrinks or turns NaN would poison the total for ever.
      if (!Number.isFinite(counter.value) || counter.value < 0) {
        throw invalidField('value', `${counter.value} cannot be added to a counter`);
      }
      return {
        metric: readRequired('metric', counter.metric),
        labels: readList('labels', counter.labels, COUNTER_LABELS_MAX, (label) =>
          readText('labels', label),
        ),
        value: counter.value,
      };
    }),
  }));
}

function podInit(pod: LocalPod): MessageInitShape<typeof LocalPodSchema> {
  return {
    ...pod,
    addresses: pod.addresses.map((ip) => Uint8Array.from(addressBytes(ip))),
    probePorts: [...pod.probePorts],
  };
}

function readPodUid(text: string): PodUid {
  return readChecked('pod_uid', text, (uid) => POD_UID.test(uid)) as PodUid;
}

function readPod(message: LocalPodMessage): LocalPod {
  return {
    podUid: readPodUid(message.podUid),
    name: readRequired('name', message.name),
    namespace: readChecked('namespace', message.namespace, isNamespaceName),
    serviceAccount: readChecked('service_account', message.serviceAccount, isServiceAccountName),
    trustDomain: readChecked('trust_domain', message.trustDomain, isTrustDomain),
    workloadUid: readText('workload_uid', message.workloadUid),
    addresses: readList('addresses', message.addresses, POD_ADDRESSES_MAX, (bytes) =>
      readAddress('addresses', bytes),
    ),
    enrolled: message.enrolled,
    probePorts: readList('probe_ports', message.probePorts, PROBE_PORTS_MAX, (port) =>
      readPort('probe_ports', port),
    ),
  };
}
