/**
 * One node's live view of the mesh: owns the indexes, applies batches to all of them as one step, and tells
 * listeners afterwards. The rules are in the parts: claims to an address (`workload-index.ts`), services of an
 * address (`service-index.ts`), balancing (`endpoint-picker.ts`), the way out (`resolve.ts`), what is
 * known (`known-names.ts`). The cost of a change is that of the things changed.
 */

import type { Clock } from '../base/clock.ts';
import type { Random } from '../base/random.ts';
import { cidrContains, parseAddress, type IpAddress } from '../core/address.ts';
import type { NodeSettings } from '../core/pod.ts';
import {
  workloadIdentity,
  type Service,
  type ServiceKey,
  type Workload,
} from '../core/workload.ts';
import { formatIdentity } from '../core/identity.ts';
import {
  addressName,
  type AddressBatch,
  type CapturedChange,
  type Demand,
  type NodeState,
  type PolicyBatch,
  type ServiceView,
  type WorkloadView,
} from './contract.ts';
import { EndpointIndex } from './endpoint-index.ts';
import { Interner } from './interner.ts';
import { KnownNames } from './known-names.ts';
import { Listeners } from './listeners.ts';
import { PodIndex } from './pod-index.ts';
import { PolicyBook } from './policy-book.ts';
import { Resolver } from './resolve.ts';
import { ServiceIndex } from './service-index.ts';
import { WorkloadIndex } from './workload-index.ts';

export interface NodeStateOptions {
  /** For the time limit of `whenKnown`. */
  readonly clock: Clock;
  /** For balancing. */
  readonly random: Random;
  /** Absent: everything arrives unasked. */
  readonly demand?: Demand;
}

const NOBODY: ReadonlySet<string> = new Set();

export function createNodeState(options: NodeStateOptions): NodeState {
  const { clock, random, demand } = options;
  const workloads = new WorkloadIndex();
  const services = new ServiceIndex();
  const endpoints = new EndpointIndex();
  const policies = new PolicyBook();
  const pods = new PodIndex();
  const interner = new Interner();
  const trustBundles = new Map<string, Uint8Array>();
  const names = new KnownNames({ clock, demand, isHeld });
  const resolver = new Resolver({ random, workloads, services, endpoints, names });
  const policyListeners = new Listeners<void>();
  const workloadListeners = new Map<string, Listeners<Workload | undefined>>();
  const capturedListeners = new Listeners<CapturedChange>();
  const settingsListeners = new Listeners<NodeSettings>();
  const trustListeners = new Listeners<string>();
  let settings: NodeSettings | undefined;

  function isHeld(name: string): boolean {
    if (workloads.record(name) !== undefined) return true;
    if (services.get(name as ServiceKey) !== undefined) return true;
    const slash = name.lastIndexOf('/');
    const network = name.slice(0, slash);
    const last = name.slice(slash + 1) as IpAddress;
    if (services.hasExact(network, last) || workloads.atAddress(network, last) !== undefined) {
      return true;
    }
    return workloads.withHostname(last) !== undefined;
  }

  function applyAddresses(batch: AddressBatch): void {
    const upserts = new Map((batch.workloads ?? []).map((workload) => [workload.uid, workload]));
    const serviceUpserts = new Map((batch.services ?? []).map((service) => [service.key, service]));
    const changed: string[] = [];
    for (const name of batch.removed ?? []) {
      if (upserts.has(name) || serviceUpserts.has(name as ServiceKey)) continue;
      const record = workloads.remove(name);
      if (record !== undefined) {
        endpoints.move(record, record.workload, undefined);
        tellAbsent(record.workload.network, record.workload.addresses);
        changed.push(name);
      }
      const service = services.remove(name as ServiceKey);
      if (service !== undefined) removeService(service);
      names.markAbsent(name);
    }
    for (const service of serviceUpserts.values()) putService(service);
    for (const workload of upserts.values()) {
      putWorkload(workload);
      changed.push(workload.uid);
    }
    names.settle();
    if (workloadListeners.size === 0) return;
    for (const uid of changed) {
      workloadListeners.get(uid)?.emit(workloads.record(uid)?.workload);
    }
  }

  function putWorkload(given: Workload): void {
    const workload = interner.workload(given);
    const { record, before } = workloads.put(workload);
    endpoints.move(record, before, workload);
    if (!names.onDemand) return;
    if (before !== undefined) {
      const left = before.addresses.filter((ip) => !workload.addresses.includes(ip));
      tellAbsent(before.network, left);
    }
    names.markPresent(workload.uid);
    for (const ip of workload.addresses) names.markPresent(addressName(workload.network, ip));
  }

  function putService(service: Service): void {
    const before = services.put(service);
    endpoints.serviceChanged(service.key);
    if (!names.onDemand) return;
    if (before !== undefined) tellVipsAbsent(before);
    names.markPresent(service.key);
    for (const vip of service.vips) {
      if (services.hasExact(vip.network, vip.cidr.ip)) {
        names.markPresent(addressName(vip.network, vip.cidr.ip));
        continue;
      }
      // A block is the best answer there is for an address inside it: no resource has just that address.
      for (const name of names.awaited()) {
        const slash = name.lastIndexOf('/');
        const ip = parseAddress(name.slice(slash + 1));
        if (name.slice(0, slash) === vip.network && ip.ok && cidrContains(vip.cidr, ip.value)) {
          if (!isHeld(name)) names.markAbsent(name);
        }
      }
    }
  }

  function removeService(service: Service): void {
    endpoints.serviceChanged(service.key);
    tellVipsAbsent(service);
  }

  function tellVipsAbsent(service: Service): void {
    for (const vip of service.vips) tellAbsent(vip.network, [vip.cidr.ip]);
  }

  /** On demand: we are subscribed to what we asked for, so its end means "there is none" from now on. */
  function tellAbsent(network: string, addresses: readonly IpAddress[]): void {
    if (!names.onDemand) return;
    for (const ip of addresses) {
      const name = addressName(network, ip);
      if (!isHeld(name)) names.markAbsent(name);
    }
  }

  function applyPolicies(apply: (batch: PolicyBatch) => boolean, batch: PolicyBatch): void {
    if (apply(batch)) policyListeners.emit();
  }

  const workloadView: WorkloadView = {
    get version() {
      return workloads.version;
    },
    get size() {
      return workloads.size;
    },
    get: (uid) => workloads.record(uid)?.workload,
    atAddress: (network, ip) => workloads.atAddress(network, ip)?.workload,
    all: () => workloads.all(),
  };
  const serviceView: ServiceView = {
    get version() {
      return services.version;
    },
    get size() {
      return services.size;
    },
    get: (key) => services.get(key),
    atAddress: (network, ip, clientNamespace) =>
      services.exactMatch(network, ip, clientNamespace) ??
      services.blockMatch(network, ip, clientNamespace),
    *endpoints(key) {
      for (const record of endpoints.members(key) ?? []) yield record.workload;
    },
    endpointsVersion: (key) => endpoints.version(key),
    all: () => services.all(),
  };

  return {
    policies,
    workloads: workloadView,
    services: serviceView,
    pods,
    trustBundles,
    get settings() {
      return settings;
    },
    get policiesSynced() {
      return policies.synced;
    },
    get addressesSynced() {
      return names.synced;
    },
    applyAddresses,
    applyPolicies: (batch) => applyPolicies((given) => policies.applyEnforced(given), batch),
    applyAuditPolicies: (batch) => applyPolicies((given) => policies.applyAudit(given), batch),
    applyLocalPods: (batch) => pods.applyLocal(batch),
    applyCapturedPods(batch) {
      const change = pods.applyCaptured(batch);
      if (change.added.length + change.removed.length > 0) capturedListeners.emit(change);
    },
    applySettings(given) {
      settings = given;
      settingsListeners.emit(given);
    },
    applyTrustBundle(name, bytes) {
      if (bytes === undefined) trustBundles.delete(name);
      else trustBundles.set(name, bytes);
      trustListeners.emit(name);
    },
    markPoliciesSynced() {
      if (policies.markSynced()) policyListeners.emit();
    },
    markAddressesSynced() {
      names.synced = true;
      names.settle();
    },
    onPolicyChange: (listener) => policyListeners.add(listener),
    onWorkloadChange(uid, listener) {
      const listeners = workloadListeners.get(uid) ?? new Listeners();
      workloadListeners.set(uid, listeners);
      const stop = listeners.add(listener);
      return () => {
        stop();
        if (listeners.size === 0 && workloadListeners.get(uid) === listeners) {
          workloadListeners.delete(uid);
        }
      };
    },
    onCapturedChange: (listener) => capturedListeners.add(listener),
    onSettingsChange: (listener) => settingsListeners.add(listener),
    onTrustChange: (listener) => trustListeners.add(listener),
    resolveDestination: (original, client, exclude = NOBODY, source) =>
      resolver.resolve(original, client, exclude, source),
    whenKnown: (wanted, waitOptions) => names.whenKnown(wanted, waitOptions),
    beginConnection(uid) {
      let end = workloads.begin(uid);
      return {
        end() {
          end?.();
          end = undefined;
        },
      };
    },
    openConnections: (uid) => workloads.openConnections(uid),
    sameNodeTarget(source, destination, address) {
      if (settings?.localDelivery !== 'auto') return undefined;
      const target = pods.capturedByWorkload(destination.uid);
      if (target === undefined || pods.captured(source.pod.podUid) === undefined) return undefined;
      const from = workloads.record(source.pod.workloadUid)?.workload;
      if (from?.localDelivery !== true || !destination.localDelivery) return undefined;
      // A pod that took over an address or a name must not get what was meant for the one before (T47).
      const same =
        pods.capturedByIp(address.ip) === target &&
        workloadIdentity(destination) === formatIdentity(target.pod);
      return same ? target : undefined;
    },
  };
}
