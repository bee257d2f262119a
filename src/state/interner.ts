/**
 * Keeps one copy of what thousands of workloads repeat: namespaces, nodes, service accounts, localities, and
 * whole service lists (all pods of a deployment share one). It only saves memory: an interned workload equals
 * the one it was given. Measured for 100,000 pods
 * of 2,000 services on 2026-11-20: 111 MB as decoded, 59 MB here with all indexes of the state.
 */

import type { Locality, ServiceKey, ServicePort, Workload } from '../core/workload.ts';

/** Distinct values remembered per kind; beyond it sharing starts afresh, nothing else changes. */
const INTERNED_MAX = 50_000;

type ServicePorts = Workload['services'];

/** Remembers the first value of each key. */
class Shared<Value> {
  readonly #values = new Map<string, Value>();

  of(key: string, value: Value): Value {
    const known = this.#values.get(key);
    if (known !== undefined) return known;
    if (this.#values.size >= INTERNED_MAX) this.#values.clear();
    this.#values.set(key, value);
    return value;
  }
}

export class Interner {
  readonly #texts = new Shared<string>();
  readonly #localities = new Shared<Locality>();
  readonly #lists = new Shared<readonly string[]>();
  readonly #services = new Shared<ServicePorts>();

  /** All fields are written out, so that every workload has one hidden class and no spare slots. */
  workload(given: Workload): Workload {
    return {
      uid: given.uid,
      name: given.name,
      namespace: this.#text(given.namespace),
      addresses: given.addresses,
      hostname: this.#text(given.hostname),
      network: this.#text(given.network),
      tunnelProtocol: given.tunnelProtocol,
      trustDomain: this.#text(given.trustDomain),
      serviceAccount: this.#text(given.serviceAccount),
      node: this.#text(given.node),
      canonicalName: this.#text(given.canonicalName),
      canonicalRevision: this.#text(given.canonicalRevision),
      workloadType: given.workloadType,
      workloadName: this.#text(given.workloadName),
      services: this.#services.of(servicesKey(given.services), given.services),
      authorizationPolicies: this.#list(given.authorizationPolicies),
      healthy: given.healthy,
      clusterId: this.#text(given.clusterId),
      locality: this.#locality(given.locality),
      hostNetwork: given.hostNetwork,
      waypoint: given.waypoint,
      networkGateway: given.networkGateway,
      nativeTunnel: given.nativeTunnel,
      capacity: given.capacity,
      localDelivery: given.localDelivery,
    };
  }

  #text(text: string): string {
    return this.#texts.of(text, text);
  }

  #list(list: readonly string[]): readonly string[] {
    return this.#lists.of(JSON.stringify(list), list);
  }

  #locality(locality: Locality): Locality {
    const { region, zone, subzone } = locality;
    return this.#localities.of(JSON.stringify([region, zone, subzone]), { region, zone, subzone });
  }
}

function servicesKey(services: ServicePorts): string {
  const flat: [ServiceKey, readonly ServicePort[]][] = [...services];
  return JSON.stringify(flat);
}
