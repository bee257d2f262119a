/**
 * Workloads by uid, by address and by host name.
 *
 * - One record per uid, for as long as the workload is there or connections to it are counted; updates
 *   change the record, so whoever holds it sees the newest workload and the true load.
 * - An address that several workloads claim (a reused pod IP, a shared one) belongs to the one that
 *   `compareClaims` puts first, whatever came first; the others take over when it goes.
 */

import type { IpAddress } from '../core/address.ts';
import type { Workload } from '../core/workload.ts';

export interface WorkloadRecord {
  workload: Workload;
  /** Connections open to it from here. */
  open: number;
  /** Of its uid; made when first needed, by `endpoint-picker.ts`. */
  uidHash: number | undefined;
}

/** One claimant alone, as nearly always, or all of them in the order of `compareClaims`. */
type Claims = WorkloadRecord | WorkloadRecord[];

export class WorkloadIndex {
  version = 0;
  readonly #records = new Map<string, WorkloadRecord>();
  readonly #networks = new Map<string, Map<IpAddress, Claims>>();
  readonly #hostnames = new Map<string, Map<string, Claims>>();
  /** Removed workloads that still have connections open: their load survives a return. */
  readonly #departed = new Map<string, WorkloadRecord>();

  get size(): number {
    return this.#records.size;
  }

  record(uid: string): WorkloadRecord | undefined {
    return this.#records.get(uid);
  }

  *all(): Iterable<Workload> {
    for (const record of this.#records.values()) yield record.workload;
  }

  atAddress(network: string, ip: IpAddress): WorkloadRecord | undefined {
    const claims = this.#networks.get(network)?.get(ip);
    return Array.isArray(claims) ? claims[0] : claims;
  }

  /** Host names of workloads are unique in the mesh. */
  withHostname(hostname: string): WorkloadRecord | undefined {
    const claims = this.#hostnames.get('')?.get(hostname);
    return Array.isArray(claims) ? claims[0] : claims;
  }

  /** `before` is what the record held; undefined when the uid is new. */
  put(workload: Workload): { record: WorkloadRecord; before: Workload | undefined } {
    const { uid } = workload;
    this.version++;
    let record = this.#records.get(uid);
    const before = record?.workload;
    if (record === undefined) {
      record = this.#departed.get(uid) ?? { workload, open: 0, uidHash: undefined };
      this.#departed.delete(uid);
      this.#records.set(uid, record);
    } else {
      this.#unclaim(record);
    }
    record.workload = workload;
    this.#claim(record);
    return { record, before };
  }

  remove(uid: string): WorkloadRecord | undefined {
    const record = this.#records.get(uid);
    if (record === undefined) return undefined;
    this.version++;
    this.#records.delete(uid);
    this.#unclaim(record);
    if (record.open > 0) this.#departed.set(uid, record);
    return record;
  }

  /** A connection began; call what it returns once when it ended. */
  begin(uid: string): (() => void) | undefined {
    const record = this.#records.get(uid) ?? this.#departed.get(uid);
    if (record === undefined) return undefined;
    record.open++;
    return () => {
      record.open--;
      if (record.open === 0 && this.#departed.get(uid) === record) this.#departed.delete(uid);
    };
  }

  openConnections(uid: string): number {
    return (this.#records.get(uid) ?? this.#departed.get(uid))?.open ?? 0;
  }

  #claim(record: WorkloadRecord): void {
    const { workload } = record;
    for (const ip of indexedAddresses(workload)) {
      addClaim(this.#networks, workload.network, ip, record);
    }
    if (workload.hostname !== '') addClaim(this.#hostnames, '', workload.hostname, record);
  }

  #unclaim(record: WorkloadRecord): void {
    const { workload } = record;
    for (const ip of indexedAddresses(workload)) {
      dropClaim(this.#networks, workload.network, ip, record);
    }
    if (workload.hostname !== '') dropClaim(this.#hostnames, '', workload.hostname, record);
  }
}

/** A hostNetwork pod shares its node's address with everything there, so the address is not its name. */
function indexedAddresses(workload: Workload): readonly IpAddress[] {
  return workload.hostNetwork ? [] : workload.addresses;
}

/** Tunnelled before plain, so that a stale claim can only refuse, never leak; then healthy, then uid. */
function compareClaims(a: WorkloadRecord, b: WorkloadRecord): number {
  const one = a.workload;
  const two = b.workload;
  if (one.tunnelProtocol !== two.tunnelProtocol) return one.tunnelProtocol === 'hbone' ? -1 : 1;
  if (one.healthy !== two.healthy) return one.healthy ? -1 : 1;
  if (one.uid === two.uid) return 0;
  return one.uid < two.uid ? -1 : 1;
}

function addClaim<Key>(
  groups: Map<string, Map<Key, Claims>>,
  group: string,
  key: Key,
  record: WorkloadRecord,
): void {
  let claimed = groups.get(group);
  if (claimed === undefined) {
    claimed = new Map();
    groups.set(group, claimed);
  }
  const claims = claimed.get(key);
  if (claims === undefined) {
    claimed.set(key, record);
  } else if (Array.isArray(claims)) {
    if (!claims.includes(record)) claims.push(record);
    claims.sort(compareClaims);
  } else if (claims !== record) {
    claimed.set(key, [claims, record].toSorted(compareClaims));
  }
}

function dropClaim<Key>(
  groups: Map<string, Map<Key, Claims>>,
  group: string,
  key: Key,
  record: WorkloadRecord,
): void {
  const claimed = groups.get(group);
  const claims = claimed?.get(key);
  if (claimed === undefined || claims === undefined) return;
  if (Array.isArray(claims)) {
    const left = claims.filter((other) => other !== record);
    const [only] = left;
    if (only !== undefined) claimed.set(key, left.length === 1 ? only : left);
  } else if (claims === record) {
    claimed.delete(key);
    if (claimed.size === 0) groups.delete(group);
  }
}
