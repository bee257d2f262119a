/**
 * The usable endpoints of one service for one port and one client location, in buckets by how near they are,
 * kept up to date one endpoint at a time. A pick reads no list: the better of two random members of the best
 * bucket, "better" being fewer open connections per unit of capacity.
 *
 * - Rank: how many leading scopes of the preference the endpoint shares with the client (hbone.md 3.4).
 *   STRICT keeps only full matches; without a mode all are equal; a lower bucket serves when the higher
 *   ones are empty or excluded.
 * - Under client affinity the client's address chooses, by rendezvous hashing weighted by capacity: every process
 *   and every node makes the same choice, and nothing is remembered. An endpoint that goes moves its own clients
 *   alone; one that comes takes its share of everybody's. Reads the bucket: 10,000 endpoints cost a fraction of a
 *   millisecond.
 * - Capacity 0 takes an endpoint out, as in Istio.
 */

import { hashText, mixBits } from '../base/hash.ts';
import type { Random } from '../base/random.ts';
import type { IpAddress } from '../core/address.ts';
import type { BalancingScope, Service, Workload } from '../core/workload.ts';
import type { Client } from './contract.ts';
import type { WorkloadRecord } from './workload-index.ts';

export interface PickerOptions {
  readonly service: Service;
  readonly servicePort: number;
  readonly client: Client;
  /** A waypoint or gateway is dialled on its tunnel port, whatever ports its service declares. */
  readonly anyPort: boolean;
}

interface Bucket {
  readonly members: WorkloadRecord[];
  readonly capacities: number[];
  /** Members whose capacity is not 1. */
  unevenCount: number;
  /** Running sums of the capacities, made when first needed after a change. */
  sums: number[] | undefined;
}

interface Place {
  readonly bucket: Bucket;
  index: number;
}

const UID_SEED = 0x2545f491;
const CLIENT_SEED = 0x7feb352d;
/** Random tries before a bucket that holds excluded members is read through. */
const TRIES_MAX = 8;

export class EndpointPicker {
  readonly #options: PickerOptions;
  readonly #buckets: Bucket[];
  readonly #places = new Map<WorkloadRecord, Place>();

  constructor(options: PickerOptions, members: Iterable<WorkloadRecord>) {
    this.#options = options;
    const ranks = options.service.balancing.preference.length + 1;
    this.#buckets = Array.from({ length: ranks }, () => ({
      members: [],
      capacities: [],
      unevenCount: 0,
      sums: undefined,
    }));
    for (const member of members) this.update(member);
  }

  get size(): number {
    return this.#places.size;
  }

  /** The endpoint is new or changed. */
  update(record: WorkloadRecord): void {
    this.remove(record);
    const rank = this.#rankOf(record.workload);
    const bucket = rank === undefined ? undefined : this.#buckets[rank];
    if (bucket === undefined) return;
    const { capacity } = record.workload;
    this.#places.set(record, { bucket, index: bucket.members.length });
    bucket.members.push(record);
    bucket.capacities.push(capacity);
    bucket.unevenCount += capacity === 1 ? 0 : 1;
    bucket.sums = undefined;
  }

  remove(record: WorkloadRecord): void {
    const place = this.#places.get(record);
    if (place === undefined) return;
    this.#places.delete(record);
    const { bucket, index } = place;
    bucket.unevenCount -= bucket.capacities[index] === 1 ? 0 : 1;
    bucket.sums = undefined;
    const last = bucket.members.pop();
    const lastCapacity = bucket.capacities.pop();
    if (last === undefined || lastCapacity === undefined || last === record) return;
    bucket.members[index] = last;
    bucket.capacities[index] = lastCapacity;
    const moved = this.#places.get(last);
    if (moved !== undefined) moved.index = index;
  }

  /** `sticky`: the address that always gets the same of the same endpoints; undefined: any will do. */
  pick(
    random: Random,
    exclude: ReadonlySet<string>,
    sticky?: IpAddress,
  ): WorkloadRecord | undefined {
    for (let rank = this.#buckets.length - 1; rank >= 0; rank--) {
      const bucket = this.#buckets[rank];
      if (bucket === undefined || bucket.members.length === 0) continue;
      const picked =
        sticky === undefined ? pickFrom(bucket, random, exclude) : pickFor(sticky, bucket, exclude);
      if (picked !== undefined) return picked;
    }
    return undefined;
  }

  #rankOf(workload: Workload): number | undefined {
    const { service, client } = this.#options;
    const { mode, preference, includeUnhealthy } = service.balancing;
    const usable =
      (workload.healthy || includeUnhealthy) && workload.capacity > 0 && this.#serves(workload);
    if (!usable) return undefined;
    if (mode !== 'STRICT' && mode !== 'FAILOVER') return 0;
    const mismatch = preference.findIndex((scope) => !sharesScope(scope, workload, client));
    const rank = mismatch < 0 ? preference.length : mismatch;
    return mode === 'STRICT' && rank < preference.length ? undefined : rank;
  }

  #serves(workload: Workload): boolean {
    const { service, servicePort, client, anyPort } = this.#options;
    const reachable =
      workload.network === client.network
        ? workload.addresses.length > 0
        : workload.networkGateway !== undefined;
    return reachable && (anyPort || targetPort(workload, service, servicePort) !== undefined);
  }
}

/** The workload's own list counts first (named target ports), then the service's. */
export function targetPort(
  workload: Workload,
  service: Service,
  servicePort: number,
): number | undefined {
  const own = workload.services.get(service.key)?.find((port) => port.servicePort === servicePort);
  if (own !== undefined && own.targetPort > 0) return own.targetPort;
  const declared = service.ports.find((port) => port.servicePort === servicePort);
  return declared !== undefined && declared.targetPort > 0 ? declared.targetPort : undefined;
}

/** Whether the endpoint and the client are in the same region, zone, node and so on. */
export function sharesScope(scope: BalancingScope, workload: Workload, client: Client): boolean {
  switch (scope) {
    case 'UNSPECIFIED':
      return false;
    case 'REGION':
      return workload.locality.region === client.locality.region;
    case 'ZONE':
      return workload.locality.zone === client.locality.zone;
    case 'SUBZONE':
      return workload.locality.subzone === client.locality.subzone;
    case 'NODE':
      return workload.node === client.node;
    case 'CLUSTER':
      return workload.clusterId === client.clusterId;
    case 'NETWORK':
      return workload.network === client.network;
  }
}

function pickFrom(
  bucket: Bucket,
  random: Random,
  exclude: ReadonlySet<string>,
): WorkloadRecord | undefined {
  const { members } = bucket;
  const usable = (index: number): WorkloadRecord | undefined => {
    const record = members[index];
    return record === undefined || exclude.has(record.workload.uid) ? undefined : record;
  };
  for (let tries = 0; tries < TRIES_MAX; tries++) {
    const index = sample(bucket, random);
    const first = usable(index);
    if (first === undefined) continue;
    const other = sample(bucket, random);
    const second = usable(other === index ? (index + 1) % members.length : other);
    return second === undefined ? first : lessLoaded(first, second);
  }
  return members.find((record) => !exclude.has(record.workload.uid));
}

/** The endpoint with the highest score for this client (Thaler and Ravishankar 1998, weighted by Schindelhauer). */
function pickFor(
  client: IpAddress,
  { members, capacities, unevenCount }: Bucket,
  exclude: ReadonlySet<string>,
): WorkloadRecord | undefined {
  const key = hashText(client, CLIENT_SEED);
  let best: WorkloadRecord | undefined;
  let bestScore = -Infinity;
  for (const [index, record] of members.entries()) {
    const { uid } = record.workload;
    if (exclude.has(uid)) continue;
    record.uidHash ??= hashText(uid, UID_SEED);
    // In (0, 1), so that its logarithm is never 0.
    const share = (mixBits(record.uidHash ^ key) + 0.5) / 0x1_0000_0000;
    const score = unevenCount === 0 ? share : -(capacities[index] ?? 1) / Math.log(share);
    const wins = score > bestScore || (score === bestScore && uid < (best?.workload.uid ?? ''));
    if (!wins) continue;
    best = record;
    bestScore = score;
  }
  return best;
}

function lessLoaded(a: WorkloadRecord, b: WorkloadRecord): WorkloadRecord {
  return b.open / b.workload.capacity < a.open / a.workload.capacity ? b : a;
}

/** An index, with a chance in proportion to capacity. */
function sample(bucket: Bucket, random: Random): number {
  const { members, capacities } = bucket;
  if (bucket.unevenCount === 0) return Math.floor(random.next() * members.length);
  if (bucket.sums === undefined) {
    let sum = 0;
    bucket.sums = capacities.map((capacity) => (sum += capacity));
  }
  const { sums } = bucket;
  const aim = random.next() * (sums.at(-1) ?? 0);
  let low = 0;
  let high = sums.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sums[middle] ?? 0) > aim) high = middle;
    else low = middle + 1;
  }
  return low;
}
