/** A worker by its messages, in a real namespace: what it accepted before it could serve it. */

import { Socket } from 'node:net';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { createNullLogger } from '../../src/base/logger.ts';
import { createSystemRandom } from '../../src/base/system-random.ts';
import type { PodUid } from '../../src/core/pod.ts';
import { duplicateDescriptor } from '../../src/linux/descriptors.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { createConnector } from '../../src/linux/sockets.ts';
import { createCredentials } from '../../src/node/credentials.ts';
import type { ToSupervisor } from '../../src/node/messages.ts';
import { createWorker } from '../../src/node/worker.ts';
import { createNodeState } from '../../src/state/node-state.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const native = loadNative();

t.test('whoever waits for readiness holds a drain back', { skip: reasonToSkip() }, async (t) => {
  const network = createTestNetwork();
  t.teardown(() => network.removeAll());
  const path = network.add('drain');
  const namespace = openNamespace(native, path);
  t.teardown(() => namespace.close());
  const clock = createSystemClock();
  const random = createSystemRandom();
  const demand = { subscribe() {}, unsubscribe() {} };
  const state = createNodeState({ clock, random, demand });
  const told: ToSupervisor['kind'][] = [];
  const unused = {} as never;
  const reporter = { handshakeFailed() {}, opened() {}, progress() {}, ended() {} };
  const worker = createWorker({
    clock,
    random,
    logger: createNullLogger(),
    native,
    state,
    credentials: createCredentials(),
    reporter,
    relayOptions: unused,
    makeSession: unused,
    tell: (message) => void told.push(message.kind),
    descriptors: { limit: 1000, openCount: () => 10 },
    duplicateFrom: (_, fd) => duplicateDescriptor(native, fd),
    onStatus() {},
  });
  t.teardown(() => worker.stop());
  worker.receive({ kind: 'start', slot: 0, supervisorPid: process.pid, held: [] });
  const pod = {
    podUid: 'p' as PodUid,
    namespace: 'n',
    name: 'x',
    serviceAccount: 's',
    trustDomain: 'td',
    workloadUid: 'w',
    addresses: [],
    probePorts: [],
    enrolled: true,
  };
  state.applyCapturedPods({
    pods: [{ pod, netnsPath: path, netnsInode: namespace.inode }],
  });
  const until = async (holds: () => boolean): Promise<void> => {
    while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
  };
  await until(() => told.filter((kind) => kind === 'listening').length === 3);
  const socket = new Socket({ fd: createConnector(native, namespace, { family: 'ipv4' }) });
  socket.on('error', () => {});
  t.teardown(() => socket.destroy());
  await new Promise<void>((resolve) => {
    socket.connect({ host: '127.0.0.1', port: 15_001 }, resolve);
  });
  const ended = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  await new Promise((resolve) => setTimeout(resolve, 50));
  worker.receive({ kind: 'drain', deadlineMs: 60_000 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  t.notOk(told.includes('drained'), 'it was accepted, and is not forgotten');
  // It is told what is missing after five seconds, and then nobody is left.
  await ended;
  await until(() => told.includes('drained'));
  t.pass('drained once it has gone');
});
