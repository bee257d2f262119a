/**
 * One connection of a client through its tunnel: who it is, what it addressed, and what is spoken on it. Decides the
 * destination's L4 policies with the client's identity, not ours (design, section 4).
 */

import type { MeshError } from '../base/errors.ts';
import type { SocketAddress } from '../core/address.ts';
import { peerOfWorkload, UNKNOWN_PEER, type EdgePeer } from '../core/connection-record.ts';
import { parseIdentity, type SpiffeId } from '../core/identity.ts';
import { workloadIdentity, type Workload } from '../core/workload.ts';
import { serveH1 } from '../http/h1/server-connection.ts';
import type { ByteStream } from '../http/byte-stream.ts';
import { createHostMemory } from '../http/request-target.ts';
import { decisionError } from '../policy/decide.ts';
import { subjectOf, type ConnectionFacts as PolicyFacts, type Subject } from '../policy/match.ts';
import type { WorkloadMetadata } from '../tunnel/metadata.ts';
import type { AttemptTarget } from './attempt.ts';
import type { WaypointContext } from './context.ts';
import { CLIENT_HELLO_MAX_BYTES, readServerName } from './client-hello.ts';
import {
  classify,
  DETECT_TIMEOUT_MS,
  readAhead,
  ReadAheadStream,
  type DetectedProtocol,
} from './detect.ts';
import { Exchange } from './exchange.ts';
import { Passthrough } from './passthrough.ts';
import type { RequestClient } from './request.ts';
import { appProtocolOf, type Addressed } from './service-plan.ts';

export interface ConnectionFacts {
  readonly peer: SpiffeId;
  readonly source: SocketAddress;
  /** What the client's proxy says of it; for telemetry when we do not know the workload. */
  readonly metadata: WorkloadMetadata;
  readonly addressed: Addressed;
}

/** For a client that has begun its TLS handshake, or should. */
const CLIENT_HELLO_TIMEOUT_MS = 5000;
/** Workloads that one connection remembers something about. */
const REMEMBERED_MAX = 1024;

interface Decided {
  readonly port: number;
  readonly version: number;
  readonly error: MeshError | undefined;
}

export class ServedConnection {
  readonly client: RequestClient;
  readonly addressed: Addressed;
  /** What L7 policies decide by, as far as it is the connection's: the destination is the service as addressed. */
  readonly facts: PolicyFacts;
  /** The same, parsed once; undefined when the identity is malformed. */
  readonly subject: Subject | undefined;
  readonly sourcePeer: EdgePeer;
  readonly sourceAddress: SocketAddress;
  readonly #context: WaypointContext;
  readonly #peer: SpiffeId;
  readonly #peers = new Map<Workload, EdgePeer>();
  /** By workload object: a changed workload is a new one. */
  readonly #decided = new Map<Workload, Decided>();

  constructor(context: WaypointContext, facts: ConnectionFacts) {
    this.#context = context;
    this.#peer = facts.peer;
    this.addressed = facts.addressed;
    this.sourceAddress = facts.source;
    const identity = parseIdentity(facts.peer);
    const namespace = identity.ok ? identity.value.namespace : '';
    const account = identity.ok ? `${namespace}/${identity.value.serviceAccount}` : '';
    this.client = {
      identity: facts.peer,
      namespace,
      ip: facts.source.ip,
      trustedHop: context.isTrustedHop(account),
      hosts: createHostMemory(),
    };
    const { service, workload: pod, port } = facts.addressed;
    const ip = service?.vips[0]?.cidr.ip ?? pod?.addresses[0] ?? facts.source.ip;
    this.facts = { source: facts.peer, sourceIp: facts.source.ip, destination: { ip, port } };
    this.subject = subjectOf(this.facts);
    const { network } = context.client();
    const workload = context.state.workloads.atAddress(network, facts.source.ip);
    // An address is no proof: the workload behind it must be one of that identity.
    const known = workload !== undefined && workloadIdentity(workload) === facts.peer;
    this.sourcePeer = known
      ? peerOfWorkload(workload, facts.peer)
      : {
          ...UNKNOWN_PEER,
          workload: facts.metadata.workloadName,
          namespace,
          canonicalName: facts.metadata.canonicalName,
          canonicalRevision: facts.metadata.canonicalRevision,
          cluster: facts.metadata.cluster,
          principal: facts.peer,
        };
  }

  /** As telemetry shows the endpoint; undefined: there was none. */
  destinationPeer(workload: Workload | undefined): EdgePeer {
    if (workload === undefined) return UNKNOWN_PEER;
    let peer = this.#peers.get(workload);
    if (peer === undefined) {
      peer = peerOfWorkload(workload, workloadIdentity(workload));
      if (this.#peers.size >= REMEMBERED_MAX) this.#peers.clear();
      this.#peers.set(workload, peer);
    }
    return peer;
  }

  /** The pod that was addressed itself. */
  addressedWorkload(): AttemptTarget | undefined {
    const { workload, port } = this.addressed;
    if (workload === undefined) return undefined;
    const ip = workload.addresses[0];
    if (ip === undefined) return undefined;
    return {
      workload,
      address: { ip, port },
      protocol: workload.tunnelProtocol === 'hbone' ? 'hbone' : 'plain',
      identities: [workloadIdentity(workload)],
    };
  }

  /** Why the destination's policies refuse this client; undefined: they do not. */
  denial(workload: Workload, destination: SocketAddress): MeshError | undefined {
    const { authorizer, state } = this.#context;
    const { version } = state.policies;
    const known = this.#decided.get(workload);
    if (known?.port === destination.port && known.version === version) return known.error;
    const decision = authorizer.decide(
      { source: this.#peer, sourceIp: this.sourceAddress.ip, destination },
      workload,
    );
    const error = decision.allowed ? undefined : decisionError(decision);
    if (this.#decided.size >= REMEMBERED_MAX) this.#decided.clear();
    this.#decided.set(workload, { port: destination.port, version, error });
    return error;
  }

  serve(stream: ByteStream): void {
    const context = this.#context;
    const { service, port } = this.addressed;
    const configured = service === undefined ? undefined : context.plans.port(service.key, port);
    const protocol = appProtocolOf(service, configured, port);
    switch (protocol) {
      case 'HTTP2':
      case 'GRPC':
        this.#serveH2(stream);
        break;
      case 'HTTP11':
        this.#serveH1(stream);
        break;
      case 'TCP':
        this.#serveTcp(new ReadAheadStream(stream, Buffer.alloc(0), false));
        break;
      case 'TLS':
        this.#serveTls(stream);
        break;
      case 'UNKNOWN':
        this.#serveDetected(stream);
        break;
    }
  }

  #serveDetected(stream: ByteStream): void {
    const { clock, metrics } = this.#context;
    const decided = (protocol: DetectedProtocol | undefined, ahead: ReadAheadStream): void => {
      metrics.detected.add(1, [protocol ?? 'server-first']);
      switch (protocol) {
        case 'http1':
          this.#serveH1(ahead);
          break;
        case 'http2':
          this.#serveH2(ahead);
          break;
        case 'tls':
          this.#serveTls(ahead);
          break;
        case 'tcp':
        case undefined:
          this.#serveTcp(ahead);
          return;
      }
      ahead.replay();
    };
    readAhead(stream, clock, DETECT_TIMEOUT_MS, classify, decided, () => {});
  }

  #serveTcp(stream: ReadAheadStream): void {
    new Passthrough(this.#context, this, stream).start(undefined);
  }

  /** Not opened here: passed on by the name the client asks for. */
  #serveTls(stream: ByteStream): void {
    readAhead(
      stream,
      this.#context.clock,
      CLIENT_HELLO_TIMEOUT_MS,
      (bytes) => {
        const name = readServerName(bytes);
        if (name.kind === 'more') return bytes.length > CLIENT_HELLO_MAX_BYTES ? '' : undefined;
        return name.kind === 'name' ? name.name : '';
      },
      (name, ahead) => new Passthrough(this.#context, this, ahead).start(name ?? ''),
      () => {},
    );
  }

  #serveH1(stream: ByteStream): void {
    const context = this.#context;
    const connection = serveH1(stream, {
      deadlines: context.deadlines,
      scratch: context.scratch,
      onRequest: (request, headers, endStream) =>
        new Exchange(context, this, request, headers, endStream, 1).start(),
      onClosed: () => void open.leave(),
    });
    const open = context.open.add(connection);
  }

  #serveH2(stream: ByteStream): void {
    const context = this.#context;
    const session = context.serveH2(stream, (request, headers, endStream) => {
      new Exchange(context, this, request, headers, endStream, 2).start();
    });
    const open = context.open.add(session);
    session.onClosed(() => void open.leave());
  }
}
