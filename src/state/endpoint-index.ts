/**
 * Which workloads stand behind each service, and the pickers made from them.
 *
 * - A workload names its services, so members are kept whether or not the service itself is known yet.
 * - A picker is made at the first connection that needs it and then follows every change of a member;
 *   a change of the service throws its pickers away.
 */

import type { Service, ServiceKey, Workload } from '../core/workload.ts';
import type { Client } from './contract.ts';
import { EndpointPicker } from './endpoint-picker.ts';
import type { WorkloadRecord } from './workload-index.ts';

/** Pickers of one service: clients of one node share a location, so this bounds the ports in use. */
const PICKERS_MAX = 64;

interface ServiceMembers {
  readonly records: Set<WorkloadRecord>;
  version: number;
  pickers: Map<string, EndpointPicker> | undefined;
}

export class EndpointIndex {
  readonly #services = new Map<ServiceKey, ServiceMembers>();
  #version = 0;
  /** Location of a client as a text; clients are few objects used often. */
  readonly #locations = new WeakMap<Client, string>();

  /** Follows a workload from `before` to what its record holds now (`after`); undefined: not there. */
  move(record: WorkloadRecord, before: Workload | undefined, after: Workload | undefined): void {
    if (before !== undefined && before.services !== after?.services) {
      for (const key of before.services.keys()) {
        if (after?.services.has(key) !== true) this.#leave(key, record);
      }
    }
    if (after === undefined) return;
    for (const key of after.services.keys()) {
      let members = this.#services.get(key);
      if (members === undefined) {
        members = { records: new Set(), version: 0, pickers: undefined };
        this.#services.set(key, members);
      }
      members.records.add(record);
      members.version = ++this.#version;
      if (members.pickers === undefined) continue;
      for (const picker of members.pickers.values()) picker.update(record);
    }
  }

  /** Ports, balancing or health policy of a service may have changed. */
  serviceChanged(key: ServiceKey): void {
    const members = this.#services.get(key);
    if (members !== undefined) members.pickers = undefined;
  }

  /** Another number whenever a member came, went or changed; 0 without any. */
  version(key: ServiceKey): number {
    return this.#services.get(key)?.version ?? 0;
  }

  members(key: ServiceKey): ReadonlySet<WorkloadRecord> | undefined {
    return this.#services.get(key)?.records;
  }

  picker(
    service: Service,
    servicePort: number,
    client: Client,
    anyPort: boolean,
  ): EndpointPicker | undefined {
    const members = this.#services.get(service.key);
    if (members === undefined) return undefined;
    const key = `${servicePort}${anyPort ? '*' : ''} ${this.#location(client)}`;
    members.pickers ??= new Map();
    let picker = members.pickers.get(key);
    if (picker === undefined) {
      if (members.pickers.size >= PICKERS_MAX) members.pickers.clear();
      picker = new EndpointPicker({ service, servicePort, client, anyPort }, members.records);
      members.pickers.set(key, picker);
    }
    return picker;
  }

  #location(client: Client): string {
    let location = this.#locations.get(client);
    if (location === undefined) {
      const { network, clusterId, node } = client;
      const { region, zone, subzone } = client.locality;
      location = JSON.stringify([network, clusterId, node, region, zone, subzone]);
      this.#locations.set(client, location);
    }
    return location;
  }

  #leave(key: ServiceKey, record: WorkloadRecord): void {
    const members = this.#services.get(key);
    if (members === undefined) return;
    members.records.delete(record);
    members.version = ++this.#version;
    if (members.records.size === 0) {
      this.#services.delete(key);
      return;
    }
    if (members.pickers === undefined) return;
    for (const picker of members.pickers.values()) picker.remove(record);
  }
}
