/** Pods and other endpoints, one at a time: as workloads, and as what their node must do for them. */

import type { IpAddress } from '../core/address.ts';
import type { Workload } from '../core/workload.ts';
import { wantsEnrolment, type EnrolmentEffect } from './enrolment.ts';
import { waypointAddress } from './gateway-registry.ts';
import type { EndpointSlice } from './objects.ts';
import { claimsAddresses, isTerminal, type PodName, type PodRecord } from './pod-registry.ts';
import { setLocalPod, type Publication } from './publication.ts';
import {
  serviceName,
  slicePorts,
  sliceService,
  type ServedService,
  type SliceName,
} from './service-registry.ts';
import {
  endpointWorkload,
  endpointWorkloadUid,
  localPodView,
  podWorkload,
  podWorkloadUid,
} from './workload-view.ts';
import type { WorldParts } from './world-parts.ts';

export class WorldPods {
  readonly #parts: WorldParts;

  constructor(parts: WorldParts) {
    this.#parts = parts;
  }

  viewSlice(name: SliceName, out: Publication): void {
    const { services, pods } = this.#parts.state;
    const slice = services.slice(name);
    const service = slice && services.get(sliceService(slice));
    if (slice === undefined) return;
    const carried = service !== undefined && service.type !== 'ExternalName';
    const served = carried ? { service, ports: slicePorts(service, slice) } : undefined;
    for (const ip of addressesOf(slice.endpoints)) {
      const uid = endpointWorkloadUid(this.#parts.state.config.clusterId, slice, ip);
      const ownedByPod = pods.owner(ip) !== undefined;
      const workload = ownedByPod
        ? undefined
        : endpointWorkload(slice, ip, served, this.#parts.state.config);
      out.workloads.set(uid, workload);
    }
  }

  viewPod(name: PodName, out: Publication): void {
    const record = this.#parts.state.pods.get(name);
    if (record === undefined) {
      this.#parts.state.gateways.forgetPod(name);
      this.#onlyKey(name, [], out);
      return;
    }
    const { pod } = record;
    const effect = this.#evaluate(record, out);
    const local = isTerminal(pod) ? undefined : localPodView(pod, effect, this.#parts.state.config);
    setLocalPod(out, pod.node, pod.uid, local);
    const uid = podWorkloadUid(
      this.#parts.state.config.clusterId,
      pod.meta.namespace,
      pod.meta.name,
    );
    const workload = this.#viewWorkload(record, effect, out);
    if (workload === undefined) this.#onlyKey(name, [], out);
    out.workloads.set(uid, workload);
  }

  /** Key of the policy that opens governed ports of the pod to their waypoints alone. */
  #onlyKey(name: PodName, served: readonly ServedService[], out: Publication): string | undefined {
    const ports = served.map(({ service: { meta }, ports: list }) => {
      const targets = list.map(({ targetPort }) => targetPort).toSorted((a, b) => a - b);
      return [serviceName(meta.namespace, meta.name), targets] as const;
    });
    return this.#parts.only.keyFor(name, ports, (key, policy) =>
      this.#parts.published.set(key, policy, out),
    );
  }

  #viewWorkload(
    record: PodRecord,
    effect: EnrolmentEffect,
    out: Publication,
  ): Workload | undefined {
    const { pod } = record;
    const { policies, services, nodes, gateways, namespaces } = this.#parts.state;
    if (isTerminal(pod)) return undefined;
    const addresses = claimsAddresses(pod)
      ? pod.addresses.filter((ip) => this.#parts.state.pods.owner(ip) === record)
      : pod.addresses;
    // A pod that is only starting is known to its node before it has an address: its first act may be to connect.
    const starting = effect.attached && pod.node !== '' && !pod.hostNetwork;
    if (addresses.length === 0 && (!starting || pod.addresses.length > 0)) return undefined;
    const binding = gateways.bindPod(record.name, pod, namespaces.get(pod.meta.namespace));
    const served = services.servedBy(pod, claimsAddresses(pod) ? addresses : []);
    const only = this.#onlyKey(record.name, served, out);
    const selecting = policies.selectingKeys(pod);
    const facts = {
      pod,
      addresses,
      effect,
      served,
      selectingKeys: only === undefined ? selecting : [...selecting, only],
      strictKey: policies.strictKey(pod),
      filtered: policies.isFiltered(pod),
      node: nodes.get(pod.node),
      isWaypoint: gateways.isWaypointPod(pod),
      waypoint: binding && waypointAddress(binding, this.#parts.state.config.clusterDomain),
    };
    return podWorkload(facts, this.#parts.state.config);
  }

  /** Moves the pod's enrolment as far as it goes now, and asks for the acknowledgement it then needs. */
  #evaluate(record: PodRecord, out: Publication): EnrolmentEffect {
    const { pod } = record;
    const namespace = this.#parts.state.namespaces.get(pod.meta.namespace);
    // A waypoint is never captured: what it sends goes through its own tunnels.
    const apart = isTerminal(pod) || this.#parts.state.gateways.isWaypointPod(pod);
    const wanted = !apart && wantsEnrolment(pod, namespace, this.#parts.istioLabels);
    return this.#parts.enrolments.evaluate(record, wanted, out.settlements);
  }
}

export function* addressesOf(endpoints: EndpointSlice['endpoints']): Iterable<IpAddress> {
  for (const { addresses } of endpoints) yield* addresses;
}
