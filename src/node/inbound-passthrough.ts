/**
 * The inbound passthrough path: plain-text connections that were on their way into a captured pod, on port
 * 15006. They have no identity, so under STRICT policy refuses them; what passes reaches the application with
 * its own source address. Probes of the node's kubelet never come here (redirect/).
 */

import type { Socket } from 'node:net';

import { MeshError } from '../base/errors.ts';
import type { SocketAddress } from '../core/address.ts';
import { PORTS } from '../core/pod.ts';
import type { ServedPod, WorkerContext } from './context.ts';
import { admit } from './inbound-checks.ts';
import type { EntryFacts } from './journal.ts';
import { acceptedEnds, readOriginalDestination } from './pod-sockets.ts';
import { relaySockets } from './relay-sockets.ts';
import { runRelay } from './run-relay.ts';

/** A socket accepted on port 15006 of `pod`, paused. Owns it from here. */
export function acceptPassthrough(context: WorkerContext, pod: ServedPod, socket: Socket): void {
  socket.on('error', () => {});
  socket.setNoDelay(true);
  const startMs = context.clock.nowMs();
  const ends = acceptedEnds(socket);
  if (ends === undefined) {
    socket.destroy();
    return;
  }
  const original = readOriginalDestination(context.native, socket, ends);
  const destination: SocketAddress = original ?? ends.local;
  const { settings } = context.state;
  const source = context.state.workloads.atAddress(settings?.network ?? '', ends.source.ip);
  const facts = (audited: readonly string[]): EntryFacts => ({
    edge: context.edges.get({
      reporter: 'destination',
      source: context.edges.peer(source, ''),
      destination: context.edges.peer(pod.workload(), ''),
      service: undefined,
      secured: false,
    }),
    direction: 'inbound',
    transport: 'plaintext',
    sourceAddress: ends.source,
    destinationAddress: destination,
    hboneAuthority: '',
    audited,
    traceId: '',
  });
  const refuse = (error: MeshError): void => {
    socket.resetAndDestroy();
    context.journal.refuse(facts([]), startMs, error);
  };
  if (original === undefined || destination.port === PORTS.inboundPassthrough) {
    const message = `Cannot deliver to port ${destination.port}: it is the proxy's own`;
    refuse(new MeshError('MESH_DESTINATION_FORBIDDEN', message, { flag: 'DENY' }));
    return;
  }
  const admission = admit(context, pod, undefined, ends.source.ip, destination);
  if (!admission.ok) {
    refuse(admission.error);
    return;
  }
  const spoofed = ends.source.ip === destination.ip ? undefined : ends.source.ip;
  const forget = context.connections.add({
    pod: pod.uid,
    close: (error) => {
      cancel();
      forget();
      refuse(error);
    },
  });
  const cancel = pod.sockets.dial(destination, spoofed, {
    onConnect(far) {
      forget();
      const entry = context.journal.begin(facts(admission.value.decision.audited), startMs);
      runRelay(
        context,
        (onResult) => relaySockets(socket, far, { ...context.relayOptions, onResult }),
        {
          pod: pod.uid,
          governed: { facts: admission.value.facts, pod, workload: admission.value.workload },
          entries: [{ entry, own: 'b' }],
        },
      );
    },
    onError(error) {
      forget();
      refuse(error);
    },
  });
}
