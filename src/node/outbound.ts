/**
 * The outbound path: one connection that a captured pod opened, from its original destination to a relay or a
 * refusal. Nothing is read from the application before the far side accepts, so nothing is lost when the first
 * endpoint fails and another one is tried.
 *
 * A refused connection is reset, so that an application never takes it for a clean end. A destination the mesh
 * does not know passes in plain text; one it knows never does unless its workload has no tunnel.
 */

import type { Socket } from 'node:net';

import { errorFromNode, MeshError, type ErrorCode } from '../base/errors.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { EdgePeer } from '../core/connection-record.ts';
import type { SpiffeId } from '../core/identity.ts';
import { PORTS } from '../core/pod.ts';
import type { Service, Workload } from '../core/workload.ts';
import { H2_ERROR, type H2Stream } from '../http/h2/contract.ts';
import type { ConnectionHandle, Destination, EndpointDestination } from '../state/contract.ts';
import { connectTunnel } from '../tunnel/client.ts';
import { formatForwarded, formatTraceparent } from '../tunnel/metadata.ts';
import { isForbiddenPort, type ServedPod, type WorkerContext } from './context.ts';
import { admit } from './inbound-checks.ts';
import type { EntryFacts, JournalEntry } from './journal.ts';
import { acceptedEnds, readOriginalDestination, type AcceptedEnds } from './pod-sockets.ts';
import { relaySockets } from './relay-sockets.ts';
import { relayStream } from './relay-stream.ts';
import { runRelay } from './run-relay.ts';
import { bypassError } from './waypoint-guard.ts';

/** Endpoints tried for one connection. */
const ATTEMPTS_MAX = 3;
/**
 * Times an endpoint is tried again because its tunnel broke before an answer: its proxy's worker died or was
 * replaced, and another one listens. Safe, since nothing of the application was sent.
 */
const BROKEN_TUNNELS_MAX = 2;
/** How that looks here. A refusal and an endpoint that nobody answers at are not among them. */
const BROKEN_TUNNEL: ReadonlySet<ErrorCode> = new Set([
  'MESH_TUNNEL_CLOSED',
  'MESH_TUNNEL_HANDSHAKE_FAILED',
  'MESH_CONNECTION_RESET',
  'MESH_CONNECTION_CLOSED',
  'MESH_HTTP2_GOAWAY',
]);
/**
 * A waypoint that does not serve what we take to it: one of us has not heard yet that the two are bound, or are no
 * longer (seen when a waypoint was deleted under load). Asked again until both can have heard: after 50 ms and each
 * time twice as long, 1.55 s in all, so that one which is bound wrongly costs few requests.
 */
const UNSERVED: ReadonlySet<string> = new Set(['400', '503']);
const STRANGE_WAYPOINT_MS = 50;
const STRANGE_WAYPOINTS_MAX = 5;
/** Times a destination may turn out to be not known yet. */
const LOOKUPS_MAX = 4;

/** A socket accepted on port 15001 of `pod`, paused. Owns it from here. */
export function acceptOutbound(context: WorkerContext, pod: ServedPod, socket: Socket): void {
  socket.on('error', () => {});
  socket.setNoDelay(true);
  const ends = acceptedEnds(socket);
  const original = ends && readOriginalDestination(context.native, socket, ends);
  if (ends === undefined) {
    socket.destroy();
    return;
  }
  const connection = new OutboundConnection(context, pod, socket, ends, original ?? ends.local);
  if (original === undefined || isAimedAtProxy(pod, ends, original)) {
    const message = `Cannot connect to "${formatSocketAddress(connection.original)}": it is the proxy's own port`;
    connection.fail(new MeshError('MESH_DESTINATION_FORBIDDEN', message, { flag: 'DENY' }));
    return;
  }
  connection.start();
}

/**
 * Whether a connection was made to a port of ours in the pod itself instead of being captured (T22). Served, it
 * would be dialled again from inside the pod, and accepted again, until no descriptor is left (tried).
 */
function isAimedAtProxy(pod: ServedPod, ends: AcceptedEnds, original: SocketAddress): boolean {
  const { ip, port } = original;
  // Not redirected: whatever addresses the pod has given itself.
  if (ip === ends.local.ip && port === ends.local.port) return true;
  return isForbiddenPort(port) && pod.captured.pod.addresses.includes(ip);
}

class OutboundConnection {
  readonly original: SocketAddress;
  readonly #context: WorkerContext;
  readonly #pod: ServedPod;
  readonly #socket: Socket;
  readonly #ends: AcceptedEnds;
  readonly #startMs: number;
  readonly #excluded = new Set<string>();
  readonly #traceparent: string;
  #forget: () => void = () => {};
  #cancel: () => void = () => {};
  #load: ConnectionHandle | undefined;
  #attempts = 0;
  #brokenTunnels = 0;
  #strangeWaypoints = 0;
  #lookups = 0;
  #settled = false;
  /** Facts of the destination tried last, for the record. */
  #service: Service | undefined;
  #workload: Workload | undefined;
  #hop: SocketAddress;
  #transport: 'hbone' | 'direct' | 'plaintext' = 'plaintext';
  #throughWaypoint = false;

  constructor(
    context: WorkerContext,
    pod: ServedPod,
    socket: Socket,
    ends: AcceptedEnds,
    original: SocketAddress,
  ) {
    this.#context = context;
    this.#pod = pod;
    this.#socket = socket;
    this.#ends = ends;
    this.original = original;
    this.#hop = original;
    this.#startMs = context.clock.nowMs();
    this.#traceparent = formatTraceparent(context.random.bytes(24));
  }

  start(): void {
    this.#forget = this.#context.connections.add({
      pod: this.#pod.uid,
      close: (error) => this.fail(error),
    });
    this.#resolve();
  }

  /** Ends the connection before it was relayed; the application sees a reset. */
  fail(error: MeshError): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#forget();
    this.#cancel();
    this.#load?.end();
    this.#socket.resetAndDestroy();
    const facts = this.#facts(this.#context.edges.peer(this.#workload, ''), false);
    this.#context.journal.refuse(facts, this.#startMs, error);
  }

  #facts(destination: EdgePeer, secured: boolean, audited: readonly string[] = []): EntryFacts {
    return {
      edge: this.#context.edges.get({
        reporter: 'source',
        source: this.#context.edges.peer(this.#pod.workload(), this.#pod.identity),
        destination,
        service: this.#service,
        secured,
      }),
      direction: 'outbound',
      transport: this.#transport,
      sourceAddress: this.#ends.source,
      destinationAddress: this.#hop,
      hboneAuthority: this.#transport === 'hbone' ? formatSocketAddress(this.original) : '',
      audited,
      traceId: this.#traceparent.slice(3, 35),
    };
  }

  #resolve(): void {
    const client = this.#pod.workload();
    if (client === undefined) {
      this.#lookUp([this.#pod.captured.pod.workloadUid]);
      return;
    }
    const destination = this.#choose(client);
    if (destination.kind === 'pending') {
      this.#lookUp(destination.names);
      return;
    }
    const leaves = destination.kind === 'endpoint' || destination.kind === 'passthrough';
    const bypass = leaves ? bypassError(destination, client) : undefined;
    if (bypass === undefined) this.#connect(destination);
    else this.fail(bypass);
  }

  #choose(client: Workload): Destination {
    const { state } = this.#context;
    return state.resolveDestination(this.original, client, this.#excluded, this.#ends.source.ip);
  }

  #lookUp(names: readonly string[]): void {
    if (++this.#lookups > LOOKUPS_MAX) {
      const message = `Cannot connect to "${formatSocketAddress(this.original)}": the configuration does not settle`;
      this.fail(new MeshError('MESH_CONFIG_UNAVAILABLE', message, { flag: 'CONFIG' }));
      return;
    }
    const abort = new AbortController();
    this.#cancel = () => abort.abort();
    this.#context.state.whenKnown(names, { signal: abort.signal }).then(
      () => {
        if (!this.#settled) this.#resolve();
      },
      (error: unknown) => {
        const action = `Cannot connect to "${formatSocketAddress(this.original)}"`;
        const cause = errorFromNode(error, action);
        this.fail(new MeshError(cause.code, cause.message, { cause, flag: 'CONFIG' }));
      },
    );
  }

  #connect(destination: Exclude<Destination, { kind: 'pending' }>): void {
    this.#attempts++;
    this.#service = destination.service;
    this.#throughWaypoint = destination.kind === 'waypoint';
    switch (destination.kind) {
      case 'passthrough':
        this.#workload = undefined;
        this.#dialPlain(destination.address);
        break;
      case 'endpoint':
        this.#workload = destination.workload;
        this.#load = this.#context.state.beginConnection(destination.workload.uid);
        this.#connectEndpoint(destination);
        break;
      case 'waypoint':
        this.#workload = destination.waypoint;
        this.#load = this.#context.state.beginConnection(destination.waypoint.uid);
        this.#tunnel(destination.hop, destination.address, destination.identities);
        break;
      case 'gateway': {
        this.#workload = destination.workload;
        const message = `Cannot connect to "${destination.authority}": it is in another network, which this version does not reach`;
        this.fail(new MeshError('MESH_DESTINATION_FORBIDDEN', message, { flag: 'CONNECT' }));
        break;
      }
      case 'refused':
        this.#workload = destination.workload;
        this.fail(destination.error);
        break;
    }
  }

  #connectEndpoint(destination: EndpointDestination): void {
    const { state } = this.#context;
    const { workload, address } = destination;
    const local = state.sameNodeTarget(this.#pod.captured, workload, address);
    const served = local && this.#context.servedPod(local.pod.podUid);
    if (served !== undefined) this.#joinDirectly(served, workload, address);
    else if (destination.protocol === 'plain') this.#dialPlain(address);
    else this.#tunnel({ ip: address.ip, port: PORTS.hbone }, address, destination.identities);
  }

  /** Another endpoint may do; nothing has been read from the application yet. */
  #retry(error: MeshError): void {
    if (this.#settled) return;
    this.#load?.end();
    this.#load = undefined;
    if (this.#throughWaypoint && UNSERVED.has(String(error.details['status']))) {
      if (this.#strangeWaypoints < STRANGE_WAYPOINTS_MAX) {
        this.#attempts--;
        const delayMs = STRANGE_WAYPOINT_MS * 2 ** this.#strangeWaypoints++;
        const timer = this.#context.clock.after(delayMs, () => this.#resolve());
        this.#cancel = () => timer.cancel();
        return;
      }
    }
    const uid = this.#workload?.uid;
    const client = this.#pod.workload();
    if (!error.retryable || uid === undefined || client === undefined) {
      this.fail(error);
      return;
    }
    const isBroken = this.#transport === 'hbone' && BROKEN_TUNNEL.has(error.code);
    if (isBroken && this.#brokenTunnels++ < BROKEN_TUNNELS_MAX) {
      this.#resolve();
      return;
    }
    if (this.#service === undefined || this.#attempts >= ATTEMPTS_MAX) {
      this.fail(error);
      return;
    }
    this.#excluded.add(uid);
    const next = this.#choose(client);
    // The reason of the endpoint that failed says more than "no other endpoint is left".
    if (next.kind === 'refused' || next.kind === 'pending') this.fail(error);
    else this.#connect(next);
  }

  #dialPlain(to: SocketAddress): void {
    this.#transport = 'plaintext';
    this.#hop = to;
    this.#cancel = this.#pod.sockets.dial(to, undefined, {
      onConnect: (far) => {
        if (!this.#take()) {
          far.destroy();
          return;
        }
        const facts = this.#facts(this.#context.edges.peer(this.#workload, ''), false);
        const entry = this.#context.journal.begin(facts, this.#startMs);
        const load = this.#load;
        runRelay(
          this.#context,
          (onResult) =>
            relaySockets(this.#socket, far, { ...this.#context.relayOptions, onResult }),
          {
            pod: this.#pod.uid,
            governed: undefined,
            entries: [{ entry, own: 'a' }],
            onEnd: () => load?.end(),
          },
        );
      },
      onError: (error) => this.#retry(error),
    });
  }

  #tunnel(hop: SocketAddress, authority: SocketAddress, identities: readonly string[]): void {
    this.#transport = 'hbone';
    this.#hop = hop;
    const context = this.#context;
    const credentials = context.credentials(this.#pod.identity);
    const own = this.#pod.workload();
    if (isForbiddenPort(authority.port)) {
      const message = `Cannot connect to "${formatSocketAddress(authority)}": it is a proxy's own port`;
      this.fail(new MeshError('MESH_DESTINATION_FORBIDDEN', message, { flag: 'DENY' }));
      return;
    }
    if (credentials === undefined || own === undefined) {
      const message = `Cannot connect to "${formatSocketAddress(authority)}": "${this.#pod.identity}" has no certificate yet`;
      const flag = 'TLS_FAILURE';
      this.fail(new MeshError('MESH_CERTIFICATE_UNAVAILABLE', message, { flag }));
      return;
    }
    this.#cancel = connectTunnel(
      context.pool,
      context.clock,
      {
        target: {
          source: this.#pod.identity,
          sourceWorkload: this.#pod.uid,
          generation: credentials.generation,
          destinations: identities.toSorted() as SpiffeId[],
          address: hop,
        },
        authority: formatSocketAddress(authority),
        baggage: context.edges.baggage(own),
        forwarded: formatForwarded(this.#ends.source, this.#service?.hostname ?? ''),
        traceparent: this.#traceparent,
      },
      {
        onOpen: (stream, baggage) => {
          if (!this.#take()) {
            stream.reset(H2_ERROR.CANCEL);
            return;
          }
          const principal = identities[0] ?? '';
          const peer =
            this.#workload === undefined
              ? context.edges.claimedPeer(baggage, principal)
              : context.edges.peer(this.#workload, principal);
          const entry = context.journal.begin(this.#facts(peer, true), this.#startMs);
          this.#relayTunnel(stream, entry);
        },
        onError: (error) => this.#retry(error),
      },
    );
  }

  #relayTunnel(stream: H2Stream, entry: JournalEntry): void {
    const load = this.#load;
    runRelay(
      this.#context,
      (onResult) => relayStream(this.#socket, stream, { ...this.#context.relayOptions, onResult }),
      {
        pod: this.#pod.uid,
        governed: undefined,
        entries: [{ entry, own: 'a' }],
        onEnd: () => load?.end(),
      },
    );
  }

  /** Both pods are here: the same decision as at the far end of a tunnel, then one relay (design 3.6). */
  #joinDirectly(target: ServedPod, workload: Workload, address: SocketAddress): void {
    this.#transport = 'direct';
    this.#hop = address;
    const context = this.#context;
    const sourceIp = this.#ends.source.ip;
    const admission = admit(context, target, this.#pod.identity, sourceIp, address);
    const inboundFacts = (): EntryFacts => ({
      ...this.#facts(this.#context.edges.peer(workload, target.identity), true),
      edge: context.edges.get({
        reporter: 'destination',
        source: this.#context.edges.peer(this.#pod.workload(), this.#pod.identity),
        destination: this.#context.edges.peer(workload, target.identity),
        service: this.#service,
        secured: true,
      }),
      direction: 'inbound',
      audited: admission.ok ? admission.value.decision.audited : [],
    });
    if (!admission.ok) {
      context.journal.refuse(inboundFacts(), this.#startMs, admission.error);
      this.fail(admission.error);
      return;
    }
    const spoofed = sourceIp === address.ip ? undefined : sourceIp;
    this.#cancel = target.sockets.dial(address, spoofed, {
      onConnect: (far) => {
        if (!this.#take()) {
          far.destroy();
          return;
        }
        const facts = this.#facts(this.#context.edges.peer(workload, target.identity), true);
        const source = context.journal.begin(facts, this.#startMs);
        const destination = context.journal.begin(inboundFacts(), this.#startMs);
        const load = this.#load;
        runRelay(
          context,
          (onResult) => relaySockets(this.#socket, far, { ...context.relayOptions, onResult }),
          {
            pod: this.#pod.uid,
            governed: {
              facts: admission.value.facts,
              pod: target,
              workload: admission.value.workload,
            },
            entries: [
              { entry: source, own: 'a' },
              { entry: destination, own: 'b' },
            ],
            onEnd: () => load?.end(),
          },
        );
      },
      onError: (error) => {
        context.journal.refuse(inboundFacts(), this.#startMs, error);
        this.#retry(error);
      },
    });
  }

  /** The far side is there: from now on a relay owns the socket. False when the connection ended meanwhile. */
  #take(): boolean {
    if (this.#settled) return false;
    this.#settled = true;
    this.#forget();
    if (this.#socket.destroyed) {
      this.#load?.end();
      const error = new MeshError('MESH_CONNECTION_RESET', 'The application left while connecting');
      const facts = this.#facts(this.#context.edges.peer(this.#workload, ''), false);
      this.#context.journal.refuse(facts, this.#startMs, error);
      return false;
    }
    return true;
  }
}
