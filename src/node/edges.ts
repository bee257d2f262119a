/**
 * What a workload is called on the wire and in telemetry, and edges, shared by the connections that have the same
 * ends: all of it is put together once and not for every connection. Bounded; what falls out is made again.
 */

import { peerOfWorkload, type Edge, type EdgePeer } from '../core/connection-record.ts';
import type { Service, Workload } from '../core/workload.ts';
import {
  formatBaggage,
  metadataOf,
  parseBaggage,
  type WorkloadMetadata,
} from '../tunnel/metadata.ts';

const EDGES_MAX = 8192;
/** Peers remembered by what they say, and how much of it at most. */
const CLAIMED_MAX = 2048;
const CLAIMED_TEXT_MAX = 1024;
/** Principals under which one workload is met: its own, and none. */
const PER_WORKLOAD_MAX = 8;
/** Edges remembered between two peers: a few services lead from one to the other. */
const PER_PAIR_MAX = 16;

/** For a peer that is not in our view (another network): what it says of itself. */
function peerOfMetadata(metadata: WorkloadMetadata, principal: string): EdgePeer {
  return {
    workload: metadata.workloadName,
    namespace: metadata.namespace,
    principal,
    canonicalName: metadata.canonicalName,
    canonicalRevision: metadata.canonicalRevision,
    cluster: metadata.cluster,
    region: metadata.region,
    zone: metadata.zone,
  };
}

export interface EdgeParts {
  readonly reporter: 'source' | 'destination';
  readonly source: EdgePeer;
  readonly destination: EdgePeer;
  readonly service: Service | undefined;
  readonly secured: boolean;
}

export interface Edges {
  get(parts: EdgeParts): Edge;
  /** As `peerOfWorkload`. */
  peer(workload: Workload | undefined, principal: string): EdgePeer;
  /** Of a peer that is not in our view: what it says of itself in its `baggage`. */
  claimedPeer(baggage: readonly string[], principal: string): EdgePeer;
  /** The workload's `baggage` header. */
  baggage(workload: Workload): string;
}

interface Met {
  readonly service: Service | undefined;
  readonly edge: Edge;
}

function peerKey(peer: EdgePeer): string {
  const { workload, namespace, principal, canonicalName, canonicalRevision, cluster } = peer;
  return `${cluster}|${namespace}|${workload}|${principal}|${canonicalName}|${canonicalRevision}|${peer.region}|${peer.zone}`;
}

export function createEdges(): Edges {
  const known = new Map<string, Edge>();
  const peers = new WeakMap<Workload, EdgePeer[]>();
  const lasting = new WeakSet<EdgePeer>();
  const claimed = new Map<string, EdgePeer>();
  const baggages = new WeakMap<Workload, string>();
  /** By the objects of both ends; the list has one for each reporter and service. */
  const met = new WeakMap<EdgePeer, WeakMap<EdgePeer, Met[]>>();
  const metBetween = (source: EdgePeer, destination: EdgePeer): Met[] => {
    let bySource = met.get(source);
    if (bySource === undefined) met.set(source, (bySource = new WeakMap()));
    let list = bySource.get(destination);
    if (list === undefined) bySource.set(destination, (list = []));
    return list;
  };
  return {
    peer(workload, principal) {
      if (workload === undefined) return peerOfWorkload(undefined, principal);
      let list = peers.get(workload);
      if (list === undefined) peers.set(workload, (list = []));
      let peer = list.find((one) => one.principal === principal);
      if (peer === undefined) {
        peer = peerOfWorkload(workload, principal);
        if (list.length >= PER_WORKLOAD_MAX) list.length = 0;
        list.push(peer);
        lasting.add(peer);
      }
      return peer;
    },
    claimedPeer(baggage, principal) {
      const key = `${principal}|${baggage.join(',')}`;
      let peer = claimed.get(key);
      if (peer === undefined) {
        peer = peerOfMetadata(parseBaggage(baggage), principal);
        // Long ones are nobody's we know; they must not fill the memory, nor push out the others.
        if (key.length > CLAIMED_TEXT_MAX) return peer;
        if (claimed.size >= CLAIMED_MAX) claimed.clear();
        claimed.set(key, peer);
        lasting.add(peer);
      }
      return peer;
    },
    baggage(workload) {
      let text = baggages.get(workload);
      if (text === undefined) {
        text = formatBaggage(metadataOf(workload));
        baggages.set(workload, text);
      }
      return text;
    },
    get({ reporter, source, destination, service, secured }) {
      // Others are new objects each time: nothing would be found.
      const isLasting = lasting.has(source) && lasting.has(destination);
      const list = isLasting ? metBetween(source, destination) : [];
      const securityPolicy = secured ? 'mutual_tls' : 'unknown';
      for (const one of list) {
        if (one.service !== service || one.edge.reporter !== reporter) continue;
        if (one.edge.securityPolicy === securityPolicy) return one.edge;
      }
      const key = `${reporter}|${secured}|${service?.key ?? ''}|${peerKey(source)}|${peerKey(destination)}`;
      let edge = known.get(key);
      if (edge === undefined) {
        if (known.size >= EDGES_MAX) known.clear();
        edge = {
          reporter,
          source,
          destination,
          destinationService: service?.hostname ?? '',
          destinationServiceName: service?.name ?? '',
          destinationServiceNamespace: service?.namespace ?? '',
          securityPolicy,
        };
        known.set(key, edge);
      }
      if (list.length >= PER_PAIR_MAX) list.length = 0;
      list.push({ service, edge });
      return edge;
    },
  };
}
