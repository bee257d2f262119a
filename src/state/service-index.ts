/**
 * Services by key, by exact address and by address block, with the rules for which of several a client means
 * (hbone.md 3.2): visible to the client, of its own namespace, longest block, canonical, then by key, so that
 * arrival order decides nothing.
 */

import { addressBytes, addressFromBytes, type IpAddress } from '../core/address.ts';
import type { Service, ServiceKey, ServiceVip } from '../core/workload.ts';

/** Network, then bits of the block, then the block's first address. */
type Vips = Map<string, Map<number, Map<IpAddress, Service[]>>>;

export class ServiceIndex {
  version = 0;
  readonly #services = new Map<ServiceKey, Service>();
  /** Blocks of one address. IPv4 has 32 bits here and IPv6 128, so the two never meet. */
  readonly #exact: Vips = new Map();
  readonly #blocks: Vips = new Map();

  get size(): number {
    return this.#services.size;
  }

  get(key: ServiceKey): Service | undefined {
    return this.#services.get(key);
  }

  all(): Iterable<Service> {
    return this.#services.values();
  }

  put(service: Service): Service | undefined {
    const before = this.#services.get(service.key);
    this.version++;
    if (before !== undefined) this.#unlist(before);
    this.#services.set(service.key, service);
    for (const vip of service.vips) {
      const listed = this.#list(vip);
      if (!listed.includes(service)) listed.push(service);
    }
    return before;
  }

  remove(key: ServiceKey): Service | undefined {
    const service = this.#services.get(key);
    if (service === undefined) return undefined;
    this.version++;
    this.#services.delete(key);
    this.#unlist(service);
    return service;
  }

  /** Whether any service has exactly this address, visible or not. */
  hasExact(network: string, ip: IpAddress): boolean {
    return this.#exact.get(network)?.get(familyBits(ip))?.has(ip) === true;
  }

  exactMatch(network: string, ip: IpAddress, clientNamespace: string): Service | undefined {
    const listed = this.#exact.get(network)?.get(familyBits(ip))?.get(ip);
    return listed === undefined ? undefined : bestOf(listed, clientNamespace);
  }

  /** The best of all blocks that hold the address: own namespace first, then the longest block. */
  blockMatch(network: string, ip: IpAddress, clientNamespace: string): Service | undefined {
    const blocks = this.#blocks.get(network);
    if (blocks === undefined) return undefined;
    let best: Service | undefined;
    let bestKey = 0;
    for (const [key, starts] of blocks) {
      const start = blockStart(ip, key);
      const listed = start === undefined ? undefined : starts.get(start);
      const found = listed === undefined ? undefined : bestOf(listed, clientNamespace);
      if (found === undefined) continue;
      const closer = Number(found.namespace === clientNamespace);
      const than = best === undefined ? -1 : Number(best.namespace === clientNamespace);
      if (closer > than || (closer === than && key > bestKey)) [best, bestKey] = [found, key];
    }
    return best;
  }

  #list(vip: ServiceVip): Service[] {
    const { vips, key, start } = this.#place(vip);
    let network = vips.get(vip.network);
    if (network === undefined) vips.set(vip.network, (network = new Map()));
    let starts = network.get(key);
    if (starts === undefined) network.set(key, (starts = new Map()));
    let listed = starts.get(start);
    if (listed === undefined) starts.set(start, (listed = []));
    return listed;
  }

  #unlist(service: Service): void {
    for (const vip of service.vips) {
      const { vips, key, start } = this.#place(vip);
      const network = vips.get(vip.network);
      const starts = network?.get(key);
      const listed = starts?.get(start);
      if (network === undefined || starts === undefined || listed === undefined) continue;
      const left = listed.filter((other) => other !== service);
      if (left.length > 0) starts.set(start, left);
      else starts.delete(start);
      if (starts.size === 0) network.delete(key);
      if (network.size === 0) vips.delete(vip.network);
    }
  }

  #place(vip: ServiceVip): { vips: Vips; key: number; start: IpAddress } {
    const { ip, prefixLength } = vip.cidr;
    const bits = familyBits(ip);
    if (prefixLength >= bits) return { vips: this.#exact, key: bits, start: ip };
    const key = blockKey(bits, prefixLength);
    return { vips: this.#blocks, key, start: blockStart(ip, key) ?? ip };
  }
}

function familyBits(ip: IpAddress): 32 | 128 {
  return ip.includes(':') ? 128 : 32;
}

const IPV6_KEY = 1000;

/** Prefix lengths of both families in one number; within a family, longer is greater. */
function blockKey(bits: number, prefixLength: number): number {
  return prefixLength + (bits === 128 ? IPV6_KEY : 0);
}

/** First address of the block of that size around `ip`; undefined for the other family. */
function blockStart(ip: IpAddress, key: number): IpAddress | undefined {
  const ipv6 = key >= IPV6_KEY;
  if (ipv6 !== ip.includes(':')) return undefined;
  const prefixLength = ipv6 ? key - IPV6_KEY : key;
  const bytes = addressBytes(ip);
  for (let index = 0; index < bytes.length; index++) {
    const kept = Math.min(8, Math.max(0, prefixLength - index * 8));
    bytes[index] = (bytes[index] ?? 0) & (0xff << (8 - kept));
  }
  const start = addressFromBytes(bytes);
  return start.ok ? start.value : undefined;
}

function bestOf(listed: readonly Service[], clientNamespace: string): Service | undefined {
  let best: Service | undefined;
  for (const service of listed) {
    const visible = service.visibility === 'PUBLIC' || service.namespace === clientNamespace;
    if (visible && (best === undefined || isBetter(service, best, clientNamespace))) best = service;
  }
  return best;
}

function isBetter(service: Service, than: Service, clientNamespace: string): boolean {
  const own = service.namespace === clientNamespace;
  if (own !== (than.namespace === clientNamespace)) return own;
  if (service.canonical !== than.canonical) return service.canonical;
  return service.key < than.key;
}
