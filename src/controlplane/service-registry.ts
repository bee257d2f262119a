/**
 * Services and EndpointSlices, filed by what they select and lead to.
 *
 * - A service with slices of its own takes its endpoints from them alone; without any, from its selector.
 * - An endpoint whose address belongs to a pod is that pod, with its identity; only other addresses become
 *   workloads of their own. So nobody can publish somebody else's pod as an address without identity (T102).
 */

import type { IpAddress } from '../core/address.ts';
import type { ServicePort } from '../core/workload.ts';
import { createSelectorIndex, type SelectorIndex } from './labels.ts';
import { addTo, removeFrom } from './multi-map.ts';
import type { EndpointSlice, Pod, ServiceObject } from './objects.ts';

/** `namespace/name`. */
export type ServiceName = string & { readonly __brand: 'ServiceName' };
export type SliceName = string & { readonly __brand: 'SliceName' };

export function serviceName(namespace: string, name: string): ServiceName {
  return `${namespace}/${name}` as ServiceName;
}

export function sliceName(slice: EndpointSlice): SliceName {
  return `${slice.meta.namespace}/${slice.meta.name}` as SliceName;
}

export function sliceService(slice: EndpointSlice): ServiceName {
  return serviceName(slice.meta.namespace, slice.service);
}

/** A service with the ports that one endpoint serves for it. */
export interface ServedService {
  readonly service: ServiceObject;
  readonly ports: readonly ServicePort[];
}

export class ServiceRegistry {
  readonly #services = new Map<ServiceName, ServiceObject>();
  readonly #slices = new Map<SliceName, EndpointSlice>();
  readonly #slicesOf = new Map<ServiceName, Set<SliceName>>();
  readonly #slicesAt = new Map<IpAddress, Set<SliceName>>();
  readonly #selectors: SelectorIndex<ServiceName> = createSelectorIndex();
  readonly #stated = new Set<ServiceName>();

  get(name: ServiceName): ServiceObject | undefined {
    return this.#services.get(name);
  }

  slice(name: SliceName): EndpointSlice | undefined {
    return this.#slices.get(name);
  }

  names(): Iterable<ServiceName> {
    return this.#services.keys();
  }

  sliceNames(): Iterable<SliceName> {
    return this.#slices.keys();
  }

  slicesOf(name: ServiceName): Iterable<SliceName> {
    return this.#slicesOf.get(name) ?? [];
  }

  slicesAt(ip: IpAddress): Iterable<SliceName> {
    return this.#slicesAt.get(ip) ?? [];
  }

  /** Whose status says something of a waypoint. */
  stated(): Iterable<ServiceName> {
    return this.#stated;
  }

  hasSlices(name: ServiceName): boolean {
    return this.#slicesOf.has(name);
  }

  putService(service: ServiceObject): ServiceObject | undefined {
    const name = serviceName(service.meta.namespace, service.meta.name);
    const before = this.removeService(name);
    this.#services.set(name, service);
    if (service.waypointBound !== undefined) this.#stated.add(name);
    if (service.selector !== undefined && service.type !== 'ExternalName') {
      this.#selectors.add(service.meta.namespace, service.selector, name);
    }
    return before;
  }

  removeService(name: ServiceName): ServiceObject | undefined {
    const before = this.#services.get(name);
    if (before === undefined) return undefined;
    this.#services.delete(name);
    this.#stated.delete(name);
    if (before.selector !== undefined) {
      this.#selectors.remove(before.meta.namespace, before.selector, name);
    }
    return before;
  }

  putSlice(slice: EndpointSlice): EndpointSlice | undefined {
    const name = sliceName(slice);
    const before = this.removeSlice(name);
    this.#slices.set(name, slice);
    addTo(this.#slicesOf, sliceService(slice), name);
    for (const { addresses } of slice.endpoints) {
      for (const ip of addresses) addTo(this.#slicesAt, ip, name);
    }
    return before;
  }

  removeSlice(name: SliceName): EndpointSlice | undefined {
    const before = this.#slices.get(name);
    if (before === undefined) return undefined;
    this.#slices.delete(name);
    removeFrom(this.#slicesOf, sliceService(before), name);
    for (const { addresses } of before.endpoints) {
      for (const ip of addresses) removeFrom(this.#slicesAt, ip, name);
    }
    return before;
  }

  /** The services one pod is behind; `ips` are the addresses it owns. */
  servedBy(pod: Pod, ips: readonly IpAddress[]): ServedService[] {
    const served = new Map<ServiceName, ServedService>();
    for (const name of this.#selectors.match(pod.meta.namespace, pod.meta.labels)) {
      const service = this.#services.get(name);
      if (service === undefined || this.hasSlices(name)) continue;
      served.set(name, { service, ports: podPorts(service, pod) });
    }
    for (const ip of ips) {
      for (const name of this.slicesAt(ip)) {
        const slice = this.#slices.get(name);
        const service = slice === undefined ? undefined : this.#services.get(sliceService(slice));
        if (slice === undefined || service === undefined) continue;
        if (!endpointCounts(slice, service, ip)) continue;
        const key = sliceService(slice);
        const before = served.get(key)?.ports ?? [];
        served.set(key, { service, ports: mergePorts(before, slicePorts(service, slice)) });
      }
    }
    return [...served.values()];
  }
}

function endpointCounts(slice: EndpointSlice, service: ServiceObject, ip: IpAddress): boolean {
  if (service.type === 'ExternalName') return false;
  const endpoint = slice.endpoints.find(({ addresses }) => addresses.includes(ip));
  return endpoint !== undefined && (endpoint.ready || service.publishNotReadyAddresses);
}

/** The service's ports as this pod serves them; a name that the pod does not declare is not served. */
function podPorts(service: ServiceObject, pod: Pod): ServicePort[] {
  const ports: ServicePort[] = [];
  for (const { port, targetPort, appProtocol } of service.ports) {
    const target =
      typeof targetPort === 'number'
        ? targetPort
        : pod.ports.find(({ name }) => name === targetPort)?.port;
    if (target !== undefined) ports.push({ servicePort: port, targetPort: target, appProtocol });
  }
  return ports;
}

/** A slice's ports carry the names of the service's ports; an only port may have none. */
export function slicePorts(service: ServiceObject, slice: EndpointSlice): ServicePort[] {
  const ports: ServicePort[] = [];
  for (const { name, port, appProtocol } of service.ports) {
    const target = slice.ports.find((entry) => entry.name === name);
    if (target !== undefined)
      ports.push({ servicePort: port, targetPort: target.port, appProtocol });
  }
  return ports;
}

function mergePorts(a: readonly ServicePort[], b: readonly ServicePort[]): readonly ServicePort[] {
  if (a.length === 0) return b;
  const known = new Set(a.map(({ servicePort }) => servicePort));
  return [...a, ...b.filter(({ servicePort }) => !known.has(servicePort))];
}
