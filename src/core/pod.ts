/**
 * What travels between controller, agent and workers beyond Istio's types: the pods of one node, what is
 * captured there, and the node's settings. All plain values; the wire form is in discovery/.
 */

import type { IpAddress } from './address.ts';

/** A Kubernetes pod UID: the key of everything that belongs to one pod; names are reused, UIDs are not. */
export type PodUid = string & { readonly __brand: 'PodUid' };

/** A pod scheduled to this node, from scheduling on: controller → agent. */
export interface LocalPod {
  readonly podUid: PodUid;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly trustDomain: string;
  /** The workload uid under which the mesh knows it. */
  readonly workloadUid: string;
  readonly addresses: readonly IpAddress[];
  /** Enrolled by label; hostNetwork pods never are. */
  readonly enrolled: boolean;
  /** TCP ports of the pod's declared probes: the only ports open to the reserved probe source. */
  readonly probePorts: readonly number[];
}

/** A pod whose rules stand and whose namespace is verified: agent → workers. */
export interface CapturedPod {
  readonly pod: LocalPod;
  /** A path that enters its network namespace, e.g. `/proc/123/ns/net`. */
  readonly netnsPath: string;
  /** Inode of that namespace; a worker refuses a path that leads elsewhere (T47, T122). */
  readonly netnsInode: number;
}

/** What the agent tells the controller about one pod: agent → controller. */
export interface CaptureReport {
  readonly podUid: PodUid;
  /** `captured` only when rules, listeners of every worker and the certificate are there. */
  readonly state: 'captured' | 'pending' | 'failed';
  /** For `failed`: why, for status conditions and `meshctl`. */
  readonly reason: string;
}

/** Mesh-wide and node settings: controller → agent → workers. */
export interface NodeSettings {
  /** How same-node traffic goes: `auto` joins both ends directly where it is safe. */
  readonly localDelivery: 'auto' | 'tunnel';
  readonly node: string;
  readonly clusterId: string;
  readonly network: string;
  readonly region: string;
  readonly zone: string;
  readonly subzone: string;
  readonly trustDomain: string;
}

/** Ports and marks, Istio ambient's where it has one. */
export const PORTS = {
  outbound: 15001,
  inboundPassthrough: 15006,
  hbone: 15008,
  discovery: 15012,
  metrics: 15020,
  readiness: 15021,
  dns: 15053,
} as const;

/** Ports no peer may be led to through us (T22, T42). */
export const FORBIDDEN_TARGET_PORTS: readonly number[] = [
  PORTS.outbound,
  PORTS.inboundPassthrough,
  PORTS.hbone,
  PORTS.dns,
];

export const PACKET_MARK = 0x539;
export const CONNECTION_MARK = 0x111;
export const MARK_MASK = 0xfff;
/** The only source a probe from the node has after rewriting in the node's namespace (design 3.8). */
export const PROBE_SOURCE_IPV4 = '169.254.7.127' as IpAddress;
export const PROBE_SOURCE_IPV6 = 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff' as IpAddress;
