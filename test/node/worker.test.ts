/** A worker by its messages, in real namespaces: listeners it is left with, connections it cannot serve yet. */

import { Socket } from 'node:net';

import t, { type Test } from 'tap';

import { createSystemClock, type Clock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { duplicateDescriptor } from '../../src/linux/descriptors.ts';
import { openNamespace, type NetworkNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { createConnector, createListener } from '../../src/linux/sockets.ts';
import { createCredentials } from '../../src/node/credentials.ts';
import type { HeldListener, ToSupervisor } from '../../src/node/messages.ts';
import { createWorker, type Worker } from '../../src/node/worker.ts';
import type { NodeState } from '../../src/state/contract.ts';
import { createNodeState } from '../../src/state/node-state.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const native = loadNative();
const PORTS = [15_001, 15_006, 15_008];
const skip = reasonToSkip();

interface Rig {
  readonly worker: Worker;
  readonly state: NodeState;
  readonly told: ToSupervisor[];
  readonly capture: (podUid: string, path: string, namespace: NetworkNamespace) => void;
}

function rig(t: Test, held: readonly HeldListener[] = [], clock: Clock = createSystemClock()): Rig {
  const random = createSystemRandom();
  const demand = { subscribe() {}, unsubscribe() {} };
  const state = createNodeState({ clock, random, demand });
  const told: ToSupervisor[] = [];
  const unused = {} as never;
  const worker = createWorker({
    clock,
    random,
    logger: createNullLogger(),
    native,
    state,
    credentials: createCredentials(),
    reporter: { handshakeFailed() {}, opened() {}, progress() {}, ended() {} },
    relayOptions: unused,
    makeSession: unused,
    tell: (message) => void told.push(message),
    descriptors: { limit: 1000, openCount: () => 10 },
    duplicateFrom: (_, fd) => duplicateDescriptor(native, fd),
    onStatus() {},
  });
  t.teardown(() => worker.stop());
  worker.receive({ kind: 'start', slot: 0, supervisorPid: process.pid, held });
  return {
    worker,
    state,
    told,
    capture(podUid, netnsPath, { inode: netnsInode }) {
      const pod = {
        podUid: podUid as PodUid,
        namespace: 'n',
        name: 'x',
        serviceAccount: 's',
        trustDomain: 'td',
        workloadUid: 'w',
        addresses: [],
        probePorts: [],
        enrolled: true,
      };
      state.applyCapturedPods({ pods: [{ pod, netnsPath, netnsInode }] });
    },
  };
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** Rejects when nobody listens. */
function connect(t: Test, namespace: NetworkNamespace): Promise<Socket> {
  const socket = new Socket({ fd: createConnector(native, namespace, { family: 'ipv4' }) });
  t.teardown(() => socket.destroy());
  return new Promise((resolve, reject) => {
    socket.on('error', reject);
    socket.connect({ host: '127.0.0.1', port: 15_001 }, () => resolve(socket));
  });
}

function namespaces(t: Test, ...names: readonly string[]): [string, NetworkNamespace][] {
  const network = createTestNetwork();
  t.teardown(() => network.removeAll());
  return names.map((name) => {
    const path = network.add(name);
    const namespace = openNamespace(native, path);
    t.teardown(() => namespace.close());
    return [path, namespace];
  });
}

t.test('whoever waits for readiness holds a drain back', { skip }, async (t) => {
  for (const [path, namespace] of namespaces(t, 'drain')) {
    const { worker, told, capture } = rig(t);
    const says = (kind: ToSupervisor['kind']): number =>
      told.filter((message) => message.kind === kind).length;
    capture('p', path, namespace);
    await until(() => says('listening') === PORTS.length);
    const socket = await connect(t, namespace);
    const ended = new Promise<void>((resolve) => socket.on('close', () => resolve()));
    await new Promise((resolve) => setTimeout(resolve, 50));
    worker.receive({ kind: 'drain', deadlineMs: 60_000 });
    await new Promise((resolve) => setTimeout(resolve, 300));
    t.equal(says('drained'), 0, 'it was accepted, and is not forgotten');
    // It is told what is missing after five seconds, and then nobody is left.
    await ended;
    await until(() => says('drained') > 0);
  }
});

t.test('an heir takes over listeners of the same sandbox only', { skip }, async (t) => {
  for (const [older, newer] of [
    namespaces(t, 'old', 'new'),
    namespaces(t, 'same').flatMap((one) => [one, one]),
  ]) {
    if (older === undefined || newer === undefined) throw new Error('two are needed');
    const [, { inode: netnsInode }] = older;
    const held = PORTS.map((port) => {
      return {
        pod: 'p' as PodUid,
        port,
        netnsInode,
        fd: createListener(native, older[1], { port }),
      };
    });
    const { told, capture } = rig(t, held);
    capture('p', ...newer);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const made = told.filter(({ kind }) => kind === 'listening');
    t.equal(made.length, older === newer ? 0 : PORTS.length);
    await connect(t, newer[1]);
  }
});

t.test('what is held for pods that have gone is let go of', { skip }, async (t) => {
  for (const [path, namespace] of namespaces(t, 'held')) {
    const hold = (pod: string): HeldListener => {
      const fd = createListener(native, namespace, { port: 15_008 });
      return { pod: pod as PodUid, port: 15_008, netnsInode: namespace.inode, fd };
    };
    const system = createSystemClock();
    const clock = {
      ...system,
      after: (ms: number, run: () => void) => system.after(ms / 100, run),
    };
    const { told, state, capture } = rig(t, [hold('gone'), hold('here')], clock);
    capture('here', path, namespace);
    await new Promise((resolve) => setTimeout(resolve, 700));
    const gone = (): unknown[] => told.filter(({ kind }) => kind === 'unlistened');
    t.same(gone(), [], 'as long as the agent has told of nothing');
    state.markPoliciesSynced();
    await until(() => gone().length > 0);
    t.same(gone(), [{ kind: 'unlistened', pod: 'gone' }]);
  }
});
