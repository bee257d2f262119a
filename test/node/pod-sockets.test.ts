/** Connections from inside a pod that appear as somebody else's: which ports they have, and when one is taken. */

import { once } from 'node:events';
import { statSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';

import t from 'tap';

import { createSystemClock } from '../../src/base/clock.ts';
import { unwrap } from '../../src/base/result.ts';
import { parseAddress, type IpAddress } from '../../src/core/address.ts';
import type { CapturedPod, PodUid } from '../../src/core/pod.ts';
import { openNamespace } from '../../src/linux/namespaces.ts';
import { loadNative } from '../../src/linux/native.ts';
import { createListener } from '../../src/linux/sockets.ts';
import { ASSUMED_PORTS, openPodSockets, type PodSockets } from '../../src/node/pod-sockets.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const PORT = 8080;
const OWN = unwrap(parseAddress('127.0.0.1'));
const SOMEBODY = unwrap(parseAddress('127.0.0.5'));
/** Where kernels begin by default. */
const KERNELS_FIRST = 32_768;

t.test('a connection with an assumed address', { skip: reasonToSkip() }, async (t) => {
  const network = createTestNetwork();
  const netnsPath = network.add('pod');
  const native = loadNative();
  const clock = createSystemClock();
  const namespace = openNamespace(native, netnsPath);
  const server = createServer((socket) => socket.on('error', () => {}));
  server.on('error', (error) => t.error(error));
  server.listen({ fd: createListener(native, namespace, { port: PORT }) });
  await once(server, 'listening');
  const clients: Socket[] = [];
  const opened: PodSockets[] = [];
  t.teardown(() => {
    for (const client of clients) client.destroy();
    for (const sockets of opened) sockets.close();
    server.close();
    namespace.close();
    network.removeAll();
  });
  const pod: CapturedPod = {
    pod: {
      podUid: 'uid' as PodUid,
      name: 'db',
      namespace: 'shop',
      serviceAccount: 'db',
      trustDomain: 'cluster.local',
      workloadUid: 'Kubernetes//Pod/shop/db',
      addresses: [OWN],
      enrolled: true,
      probePorts: [],
    },
    netnsPath,
    netnsInode: statSync(netnsPath).ino,
  };
  /** Always begins at, and jumps to, the same port: the most unlucky of workers. */
  const random = { next: () => 0, bytes: (count: number) => Buffer.alloc(count) };
  const open = (): PodSockets => {
    const sockets = openPodSockets(native, clock, random, pod);
    opened.push(sockets);
    return sockets;
  };
  const portOf = (sockets: PodSockets, source: IpAddress): Promise<number> =>
    new Promise((resolve, reject) => {
      sockets.dial({ ip: OWN, port: PORT }, source, {
        onConnect(socket) {
          socket.on('error', () => {});
          clients.push(socket);
          resolve(socket.localPort ?? 0);
        },
        onError: reject,
      });
    });
  const { first } = ASSUMED_PORTS;

  const one = open();
  t.equal(await portOf(one, SOMEBODY), first + 1, 'none that kernels choose');
  t.equal(await portOf(one, SOMEBODY), first + 2, 'and each its own');
  const another = open();
  t.equal(await portOf(another, SOMEBODY), first, 'one that is taken is left, for one elsewhere');
  const last = open();
  t.ok(
    (await portOf(last, SOMEBODY)) >= KERNELS_FIRST,
    'where one after the other is taken, the kernel chooses after 8 tries',
  );
  const source = unwrap(parseAddress('127.0.0.6'));
  t.equal(await portOf(open(), source), first + 1, 'taken by one address is free for another');
});
