/** Namespaces, sockets made in them, descriptors: the same suite for both backends, over real namespaces. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { connect, createServer, Socket, type AddressInfo, type Server } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t from 'tap';

import { MeshError } from '../../src/base/errors.ts';
import {
  descriptorOf,
  duplicateDescriptor,
  duplicateFrom,
  shutdownDescriptor,
} from '../../src/linux/descriptors.ts';
import {
  openNamespace,
  ownNamespaceInode,
  runInNamespace,
  type NetworkNamespace,
} from '../../src/linux/namespaces.ts';
import { errnoOf, loadNative, NATIVE_BACKENDS } from '../../src/linux/native.ts';
import { createConnector, createListener, originalDestination } from '../../src/linux/sockets.ts';
import { createTestNetwork, reasonToSkip } from '../support/network-namespace.ts';

const skip = reasonToSkip('nft');

function meshError(act: () => unknown): MeshError {
  try {
    act();
  } catch (error) {
    if (error instanceof MeshError) return error;
    throw error;
  }
  throw new Error('nothing was thrown');
}

async function serve(fd: number, onSocket: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => {});
    onSocket(socket);
  });
  server.on('error', (error) => t.error(error));
  server.listen({ fd, backlog: 128 });
  await once(server, 'listening');
  return server;
}

async function connectFrom(fd: number, host: string, port: number): Promise<Socket> {
  const socket = new Socket({ fd });
  socket.on('error', () => {});
  socket.connect({ host, port });
  await once(socket, 'connect');
  return socket;
}

async function readText(socket: Socket): Promise<string> {
  let text = '';
  socket.on('data', (chunk) => (text += String(chunk)));
  await once(socket, 'end');
  return text;
}

for (const backend of NATIVE_BACKENDS) {
  void t.test(`linux through ${backend}`, { skip }, async (t) => {
    const native = loadNative(backend);
    const network = createTestNetwork();
    t.teardown(() => network.removeAll());
    const pod = openNamespace(native, network.add('pod'));
    network.add('out');
    network.join(
      { name: 'out', device: 'o0', addresses: ['10.77.0.1/24', 'fd77::1/64'] },
      { name: 'pod', device: 'eth0', addresses: ['10.77.0.2/24', 'fd77::2/64'], gateways: [] },
    );
    const outside = openNamespace(native, network.path('out'));
    t.teardown(() => {
      pod.close();
      outside.close();
      pod.close();
    });
    const connectIn = (where: NetworkNamespace, host: string, port: number): Promise<Socket> =>
      connectFrom(
        createConnector(native, where, {
          family: host.includes(':') ? 'ipv6' : 'ipv4',
          marked: false,
        }),
        host,
        port,
      );

    t.test('openNamespace tells the inode and refuses what is no network namespace (T122)', (t) => {
      t.not(pod.inode, ownNamespaceInode(native));
      const wrong = ['/proc/self/ns/mnt', '/etc/hostname', '/dev/null', '/proc/self'];
      for (const path of wrong) {
        t.equal(meshError(() => openNamespace(native, path)).code, 'MESH_NAMESPACE_MISMATCH', path);
      }
      const missing = meshError(() => openNamespace(native, '/run/netns/nowhere'));
      t.equal(missing.code, 'MESH_SYSCALL_FAILED');
      t.match(missing.message, /ENOENT/);
      const before = openSync('/dev/null', 'r');
      closeSync(before);
      for (let round = 0; round < 50; round++) openNamespace(native, pod.path).close();
      for (const path of wrong) meshError(() => openNamespace(native, path));
      const after = openSync('/dev/null', 'r');
      closeSync(after);
      t.equal(after, before, 'no descriptor is left behind');
      t.end();
    });

    t.test('runInNamespace comes back after success, failure and nesting', (t) => {
      const here = (): number => {
        const fd = openSync('/proc/thread-self/ns/net', 'r');
        const { ino } = fstatSync(fd);
        closeSync(fd);
        return ino;
      };
      const own = here();
      t.equal(runInNamespace(native, pod, here), pod.inode);
      t.throws(() =>
        runInNamespace(native, pod, () => {
          throw new Error('inside');
        }),
      );
      t.equal(here(), own);
      const seen = runInNamespace(native, pod, () => [
        runInNamespace(native, outside, here),
        here(),
      ]);
      t.same(seen, [outside.inode, pod.inode]);
      t.equal(here(), own);
      t.throws(() => runInNamespace(native, pod, () => Promise.resolve(1)), TypeError);
      t.equal(here(), own);
      t.end();
    });

    t.test(
      'a listener made in a namespace serves both families there and nowhere else',
      async (t) => {
        const fd = createListener(native, pod, { port: 15008 });
        const server = await serve(fd, (socket) => {
          socket.resume().end(`${socket.remoteAddress} ${socket.localAddress}`);
        });
        t.equal(descriptorOf(server), fd);
        t.equal((server.address() as AddressInfo).port, 15008);
        const four = await connectIn(outside, '10.77.0.2', 15008);
        t.equal(await readText(four), '::ffff:10.77.0.1 ::ffff:10.77.0.2');
        const six = await connectIn(outside, 'fd77::2', 15008);
        t.equal(await readText(six), 'fd77::1 fd77::2');
        const own = connect({ host: '127.0.0.1', port: 15008 });
        const [error] = (await once(own, 'error')) as [NodeJS.ErrnoException];
        t.equal(error.code, 'ECONNREFUSED', 'nobody listens in the own namespace');
        const joined = createListener(native, pod, { port: 15008 });
        closeSync(joined);
        server.close();
        await once(server, 'close');
        t.equal(meshError(() => descriptorOf(server)).code, 'MESH_CONNECTION_CLOSED');
      },
    );

    t.test('a taken port, a foreign source and a bad descriptor are named with errno', (t) => {
      const first = meshError(() =>
        createConnector(native, pod, { family: 'ipv4', source: { address: '10.9.9.9', port: 0 } }),
      );
      t.equal(first.code, 'MESH_SYSCALL_FAILED');
      t.match(first.details, { call: 'bind', errno: 'EADDRNOTAVAIL' });
      const mixed = meshError(() =>
        createConnector(native, pod, { family: 'ipv4', source: { address: 'fd77::2', port: 0 } }),
      );
      t.equal(mixed.code, 'MESH_ADDRESS_INVALID');
      t.match(meshError(() => shutdownDescriptor(native, 9999)).details, { errno: 'EBADF' });
      t.match(meshError(() => duplicateFrom(native, 4_000_000, 1)).details, { errno: 'ESRCH' });
      t.match(meshError(() => duplicateFrom(native, process.pid, 9999)).details, {
        errno: 'EBADF',
      });
      const closed = meshError(() => originalDestination(native, 9999, 'ipv4'));
      t.equal(errnoOf(closed), 'EBADF');
      t.end();
    });

    t.test(
      'originalDestination answers for both families, and undefined without tracking',
      async (t) => {
        const fd = createListener(native, pod, { port: 15001 });
        const seen: unknown[] = [];
        const server = await serve(fd, (socket) => {
          const family = socket.remoteAddress?.startsWith('::ffff:') === true ? 'ipv4' : 'ipv6';
          seen.push(originalDestination(native, descriptorOf(socket), family));
          socket.resume().end('x');
        });
        await readText(await connectIn(outside, '10.77.0.2', 15001));
        network.feed(
          'pod',
          `table inet t {
           chain c {
             type nat hook prerouting priority dstnat;
             tcp dport { 80, 81 } redirect to :15001
           }
         }`,
          'nft',
          '-f',
          '-',
        );
        await readText(await connectIn(outside, '10.77.0.2', 80));
        await readText(await connectIn(outside, 'fd77::2', 81));
        t.same(seen, [
          undefined,
          { address: '10.77.0.2', port: 80 },
          { address: 'fd77::2', port: 81 },
        ]);
        server.close();
        await once(server, 'close');
      },
    );

    t.test(
      'duplicateFrom holds a dead process listener open; its queue goes to an heir',
      async (t) => {
        const program = fileURLToPath(new URL('listener-process.ts', import.meta.url));
        const child = spawn(process.execPath, [program, backend, pod.path, '15006'], {
          stdio: ['pipe', 'pipe', 'inherit'],
        });
        child.on('error', (error) => t.error(error));
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
        const number = Number((await lines.next()).value);
        const kept = duplicateFrom(native, child.pid ?? 0, number);
        child.kill('SIGKILL');
        await once(child, 'exit');
        const client = await connectIn(outside, '10.77.0.2', 15006);
        client.end('waiting');
        const server = await serve(duplicateDescriptor(native, kept), (socket) => {
          void readText(socket).then((text) => socket.end(`heir got ${text}`));
        });
        t.equal(await readText(client), 'heir got waiting');
        const gone = once(server, 'close');
        shutdownDescriptor(native, kept);
        closeSync(kept);
        server.close();
        await gone;
      },
    );
  });
}
