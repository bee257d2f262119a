/**
 * The inbound path: tunnels on port 15008 of a captured pod. Each session is one verified peer; each of its
 * streams is one connection to the pod's application, made with the client's own address as source.
 */

import type { Socket } from 'node:net';

import { errorFromNode, MeshError } from '../base/errors.ts';
import { formatSocketAddress, type SocketAddress } from '../core/address.ts';
import type { SpiffeId } from '../core/identity.ts';
import { receiveConnect, type RefusalStatus, type TunnelRequest } from '../tunnel/server.ts';
import { PORTS } from '../core/pod.ts';
import type { ServedPod, WorkerContext } from './context.ts';
import { admit, targetOfAuthority, type Admission } from './inbound-checks.ts';
import type { EntryFacts } from './journal.ts';
import { acceptedEnds, type AcceptedEnds } from './pod-sockets.ts';
import { relayStream } from './relay-stream.ts';
import { runRelay } from './run-relay.ts';

/** A socket accepted on port 15008 of `pod`. Owns it from here. */
export function acceptTunnel(context: WorkerContext, pod: ServedPod, raw: Socket): void {
  const ends = acceptedEnds(raw);
  const credentials = context.credentials(pod.identity);
  if (ends === undefined || credentials === undefined) {
    raw.on('error', () => {});
    raw.destroy();
    return;
  }
  raw.setNoDelay(true);
  context.handshakes.accept(raw, credentials, {
    onSecure(socket, peer) {
      context.sessions.accept(pod.uid, socket, (stream, headers) => {
        receiveConnect(
          stream,
          headers,
          peer,
          (request) => serveConnect(context, pod, ends, peer, request),
          (error) => refuseEarly(context, pod, ends, peer, undefined, error),
        );
      });
    },
    onError: (error) => context.handshakeLog.failed(pod.uid, ends.source, error),
  });
}

function statusOf(error: MeshError): RefusalStatus {
  const { status } = error.details;
  if (status === 400 || status === 503) return status;
  return error.flag === 'DENY' || error.flag === 'CONFIG' ? 401 : 503;
}

function entryFacts(
  context: WorkerContext,
  pod: ServedPod,
  ends: AcceptedEnds,
  peer: SpiffeId,
  request: TunnelRequest | undefined,
  destination: SocketAddress,
  audited: readonly string[],
): EntryFacts {
  const { settings } = context.state;
  const known = context.state.workloads.atAddress(settings?.network ?? '', ends.source.ip);
  const source =
    known === undefined && request !== undefined
      ? context.edges.claimedPeer(request.baggage, peer)
      : context.edges.peer(known, peer);
  const host = request?.forwarded.host ?? '';
  const service =
    host === ''
      ? undefined
      : [...(pod.workload()?.services.keys() ?? [])].find((key) => key.endsWith(`/${host}`));
  return {
    edge: context.edges.get({
      reporter: 'destination',
      source,
      destination: context.edges.peer(pod.workload(), pod.identity),
      service: service === undefined ? undefined : context.state.services.get(service),
      secured: true,
    }),
    direction: 'inbound',
    transport: 'hbone',
    sourceAddress: ends.source,
    destinationAddress: destination,
    hboneAuthority: formatSocketAddress(destination),
    audited,
    traceId: request?.traceId ?? '',
  };
}

function refuseEarly(
  context: WorkerContext,
  pod: ServedPod,
  ends: AcceptedEnds,
  peer: SpiffeId,
  request: TunnelRequest | undefined,
  error: MeshError,
  destination: SocketAddress = { ip: ends.local.ip, port: PORTS.hbone },
): void {
  const facts = entryFacts(context, pod, ends, peer, request, destination, []);
  context.journal.refuse(facts, context.clock.nowMs(), error);
}

function serveConnect(
  context: WorkerContext,
  pod: ServedPod,
  ends: AcceptedEnds,
  peer: SpiffeId,
  request: TunnelRequest,
): void {
  const startMs = context.clock.nowMs();
  const refuse = (error: MeshError, destination?: SocketAddress): void => {
    request.refuse(statusOf(error), error.message);
    refuseEarly(context, pod, ends, peer, request, error, destination);
  };
  const target = targetOfAuthority(context, pod, request.authority, ends.local.ip);
  if (!target.ok) {
    refuse(target.error);
    return;
  }
  const admission = admit(context, pod, peer, ends.source.ip, target.value);
  if (!admission.ok) {
    refuse(admission.error, target.value);
    return;
  }
  const source = ends.source.ip === target.value.ip ? undefined : ends.source.ip;
  const forget = context.connections.add({
    pod: pod.uid,
    close: (error) => {
      cancel();
      forget();
      refuse(error, target.value);
    },
  });
  const cancel = pod.sockets.dial(target.value, source, {
    onConnect(socket) {
      forget();
      deliver(context, pod, ends, peer, request, admission.value, target.value, socket, startMs);
    },
    onError(error) {
      forget();
      refuse(error, target.value);
    },
  });
  request.onAbort((error) => {
    forget();
    cancel();
    refuseEarly(
      context,
      pod,
      ends,
      peer,
      request,
      errorFromNode(error, 'Tunnel ended before the application accepted'),
      target.value,
    );
  });
}

function deliver(
  context: WorkerContext,
  pod: ServedPod,
  ends: AcceptedEnds,
  peer: SpiffeId,
  request: TunnelRequest,
  admission: Admission,
  destination: SocketAddress,
  socket: Socket,
  startMs: number,
): void {
  const facts = entryFacts(
    context,
    pod,
    ends,
    peer,
    request,
    destination,
    admission.decision.audited,
  );
  const entry = context.journal.begin(facts, startMs);
  const accepted = request.accept(
    context.edges.baggage(admission.workload),
    (stream) =>
      runRelay(
        context,
        (onResult) => relayStream(socket, stream, { ...context.relayOptions, onResult }),
        {
          pod: pod.uid,
          governed: { facts: admission.facts, pod, workload: admission.workload },
          entries: [{ entry, own: 'a' }],
        },
      ).handlers,
  );
  if (accepted !== undefined) return;
  socket.destroy();
  const error = new MeshError('MESH_TUNNEL_CLOSED', 'Tunnel ended before the application accepted');
  entry.end({ bytesSent: 0, bytesReceived: 0, flag: 'RESET', error });
}
